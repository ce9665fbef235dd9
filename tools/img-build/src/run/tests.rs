//! Steps that are run, in an image of busybox.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use common::error::{hint_of, line};
use oci_spec::image::{Descriptor, MediaType};

use super::secrets::Secret;
use super::*;
use crate::dockerfile::mount::{Mount, MountOption};
use crate::ignore::Ignore;
use crate::source::Tree;

/// The image's files, in layers.
const LAYERS: [&str; 2] = [
    "mkdir -p bin etc/dir tmp root; chmod 1777 tmp; cp $BUSYBOX bin/busybox
     for applet in sh cat ls id rm mkdir ln mv sleep env stat chmod readlink touch wc tr pwd hostname grep head nc test true false mount; do
       ln -s busybox bin/$applet; done
     echo root:x:0:0::/root:/bin/sh >etc/passwd; echo app:x:1000:1000::/home/app:/bin/sh >>etc/passwd
     find . -exec touch -hd @1000000000 {} +",
    "mkdir data; echo below >data/file; find . -exec touch -hd @1000000000 {} +",
];

const PATH: &str = "PATH=/bin";

/// A store with an image.
struct Scratch {
    dir: tempfile::TempDir,
    store: Store,
    blobs: Vec<(Descriptor, Digest)>,
}

/// Returns nothing, and says why, where no container can be started.
fn scratch() -> Option<Scratch> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tested here: it takes root");
        return None;
    }
    let busybox =
        ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let Some(busybox) = busybox else {
        eprintln!("not tested here: there is no busybox");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(&dir.path().join("root"))).unwrap();
    // Each test is a thread, and has mounts of its own; the others do without.
    step::for_test();
    let writing = store.images.writing().unwrap();
    let mut blobs = Vec::new();
    for (n, script) in LAYERS.iter().enumerate() {
        let tree = dir.path().join(format!("layer{n}"));
        fs::create_dir(&tree).unwrap();
        let pack = format!("{script}\n tar --sort=name --numeric-owner -cf ../layer{n}.tar .");
        let mut made = Command::new("sh");
        made.arg("-ec").arg(pack).current_dir(&tree).env("BUSYBOX", busybox);
        assert!(made.status().unwrap().success());
        let tar = fs::read(dir.path().join(format!("layer{n}.tar"))).unwrap();
        let digest = writing.put(&tar).unwrap();
        let desc = Descriptor::new(
            MediaType::Other("application/vnd.oci.image.layer.v1.tar".into()),
            tar.len() as u64,
            digest.to_string().parse::<oci_spec::image::Digest>().unwrap(),
        );
        blobs.push((desc, digest));
    }
    drop(writing);
    Some(Scratch { dir, store, blobs })
}

/// What a step has printed, how it ended, and what it has written.
struct Seen {
    printed: String,
    ran: Ran,
}

impl Scratch {
    fn snapshot(&self) -> Snapshot {
        Snapshot::prepare(&self.store.layers(), &self.store.images, &self.blobs).unwrap()
    }

    fn run_with<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        script: &str,
        change: impl FnOnce(&mut Run<'a>),
    ) -> Result<Seen> {
        let (secrets, agents) = Box::leak(Box::<(Secrets, Agents)>::default());
        let mut output = tempfile::tempfile().unwrap();
        let mut step = Run {
            store: &self.store,
            snapshot,
            user: "",
            cwd: "/",
            args: ["/bin/sh", "-c", script].map(String::from).into(),
            env: vec![PATH.into()],
            script: None,
            mounts: Vec::new(),
            network: Network::Host,
            security: Security::Sandbox,
            hosts: &[],
            shm_size: None,
            ulimits: &[],
            memory: None,
            secrets,
            ssh: agents,
            output: output.try_clone().unwrap().into(),
            hostname: "buildkitsandbox",
            caches: "",
        };
        change(&mut step);
        let ran = run(step)?;
        let mut printed = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut printed).unwrap();
        Ok(Seen { printed, ran })
    }

    fn run(&self, script: &str) -> Seen {
        self.run_with(&self.snapshot(), script, |_| {}).unwrap()
    }

    fn prints<'a>(&'a self, script: &str, expected: &str, change: impl FnOnce(&mut Run<'a>)) {
        let snapshot = Box::leak(Box::new(self.snapshot()));
        let seen = self.run_with(snapshot, script, change).unwrap();
        assert_eq!(seen.printed, expected, "{script}");
        assert_eq!(seen.ran.ended, Ended::Exited(0), "{script}");
    }

    /// Returns a tree of these files, and what of it is ignored.
    fn tree(&self, name: &str, files: &[&str], ignore: Option<&str>) -> Tree {
        let dir = self.dir.path().join(name);
        for file in files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        Tree {
            root: File::open(&dir).unwrap().into(),
            name: name.into(),
            path: None,
            ignore: ignore.map(|text| Ignore::parse(text.as_bytes()).unwrap()),
            foreign: true,
            keep: Box::new(()),
        }
    }

    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.store.containers().join(".build")).unwrap();
        let all = entries.map(|entry| entry.unwrap().path());
        all.filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.')).collect()
    }
}

fn mount(text: &str) -> Mount {
    MountOption::new(text.into()).unwrap().read(&mut |value| Ok(value.into())).unwrap()
}

/// Returns the paths in a directory that are no directories, or that are newer than the image.
fn written(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if !meta.is_dir() || meta.mtime() != 1_000_000_000 {
            found.push(path.strip_prefix(dir).unwrap().display().to_string());
        }
        if meta.is_dir() {
            todo.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_step_writes_a_layer_and_nothing_else_is_left() {
    let Some(t) = scratch() else { return };
    let seen = t.run(
        "cat /data/file; pwd; id -u; hostname; echo new >/data/new; rm /data/file; echo $HOME",
    );
    assert_eq!(seen.printed, "below\n/\n0\nbuildkitsandbox\n/root\n");
    assert_eq!(seen.ran.ended, Ended::Exited(0));
    assert_eq!(seen.ran.how, How::Overlay { userxattr: false });
    assert_eq!(written(seen.ran.tree()), ["data", "data/file", "data/new"]);
    assert_eq!(t.left().len(), 1);
    drop(seen);
    assert_eq!(t.left(), Vec::<PathBuf>::new());
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    assert!(!mounts.contains(t.dir.path().to_str().unwrap()), "{mounts}");
}

#[test]
fn a_step_that_writes_nothing_is_an_empty_layer() {
    let Some(t) = scratch() else { return };
    let seen = t.run("true");
    assert_eq!(written(seen.ran.tree()), Vec::<String>::new());
    let secret = mount("type=secret,id=s,target=/a/b/s");
    let (tmpfs, cache) = (mount("type=tmpfs,target=/t/u"), mount("type=cache,target=/etc/dir/c"));
    let mut secrets = Secrets::default();
    secrets.insert("s", Secret::new(b"tell-nobody".into()));
    let seen = t.run_with(&t.snapshot(), "cat /a/b/s; touch /t/u/x /etc/dir/c/y", |run| {
        run.secrets = &secrets;
        run.mounts = [&secret, &tmpfs, &cache]
            .map(|mount| MountFrom { mount, from: None, foreign: false })
            .into();
    });
    let seen = seen.unwrap();
    assert_eq!(seen.printed, "tell-nobody");
    assert_eq!(written(seen.ran.tree()), Vec::<String>::new());
    // What the step itself did to the directory of a stub is its own.
    let seen = t.run("echo x >/etc/own; mkdir /proc2; rm -r /etc/dir");
    assert_eq!(written(seen.ran.tree()), ["", "etc", "etc/dir", "etc/own", "proc2"]);
}

#[test]
fn steps_stand_on_each_other() {
    let Some(t) = scratch() else { return };
    let mut snapshot = t.snapshot();
    let mut blobs = t.blobs.clone();
    for n in 0..3 {
        let seen = t
            .run_with(
                &snapshot,
                &format!("cat /data/n*; echo {n} >/data/n{n}; rm -f /data/file"),
                |_| {},
            )
            .unwrap();
        let expected: String = (0..n).map(|n| format!("{n}\n")).collect();
        assert_eq!(
            seen.printed.replace("cat: can't open '/data/n*': No such file or directory\n", ""),
            expected
        );
        let diff_id = Digest::of(&[n]);
        blobs.push((blobs[0].0.clone(), diff_id));
        snapshot = seen.ran.adopt(&snapshot, &diff_id).unwrap().unwrap();
    }
    assert_eq!(t.left(), Vec::<PathBuf>::new());
    assert_eq!(snapshot.keys().len(), 5);
    // By its layers' names it is found again, and nothing is unpacked.
    let again = Snapshot::prepare(&t.store.layers(), &t.store.images, &blobs).unwrap();
    assert_eq!(again.keys(), snapshot.keys());
    let seen = t.run_with(&again, "cat /data/n0 /data/n2; ls /data", |_| {}).unwrap();
    assert_eq!(seen.printed, "0\n2\nn0\nn1\nn2\n");
}

#[test]
fn how_a_process_ends_is_told() {
    let Some(t) = scratch() else { return };
    assert_eq!(t.run("exit 3").ran.ended, Ended::Exited(3));
    assert_eq!(t.run("(kill -9 $$$$) 2>/dev/null; exit 4").ran.ended, Ended::Exited(4));
    let start = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        let err = t.run_with(&t.snapshot(), "", |run| run.args = args).err().unwrap();
        let cannot = common::error::find::<CannotRun>(&err).map(CannotRun::status);
        (line(&err), hint_of(&err).is_some(), cannot)
    };
    let missing = "No such file or directory (os error 2)";
    assert_eq!(start(&["nope"]), (format!("nope: cannot run: {missing}"), false, Some(127)));
    let denied = "Permission denied (os error 13)";
    assert_eq!(start(&["/etc"]), (format!("/etc: cannot run: {denied}"), false, Some(126)));
    let odd = "Exec format error (os error 8)";
    let t2 = t.run("echo x >/odd; chmod 755 /odd");
    let next = t2.ran.adopt(&t.snapshot(), &Digest::of(b"odd")).unwrap().unwrap();
    let err = t.run_with(&next, "", |run| run.args = vec!["/odd".into()]).err().unwrap();
    assert_eq!(line(&err), format!("/odd: cannot run: {odd}"));
    assert!(hint_of(&err).unwrap().contains("binfmt_misc"));
    assert_eq!(t.left(), Vec::<PathBuf>::new());
}

#[test]
fn it_runs_as_whom_and_where_it_is_told() {
    let Some(t) = scratch() else { return };
    t.prints("id -u; id -g; pwd; echo $HOME $A; cat", "1000\n1000\n/data\n/home/app b\n", |run| {
        (run.user, run.cwd) = ("app", "/data");
        run.env.push("A=b".into());
    });
    t.prints(
        "stat -c %a /dev/shm; head -c 0 /dev/shm; mount | grep -c 'shm.*size=1024k'",
        "1777\n1\n",
        |run| {
            run.shm_size = Some(1 << 20);
        },
    );
    let limit: PosixRlimit =
        serde_json::from_str(r#"{"type":"RLIMIT_NOFILE","soft":77,"hard":99}"#).unwrap();
    t.prints("ulimit -Sn; ulimit -Hn", "77\n99\n", |run| {
        run.ulimits = std::slice::from_ref(&limit)
    });
    let hosts = [("there.example".to_owned(), "192.0.2.7".parse().unwrap())];
    t.prints(
        "head -n 1 /etc/hosts; echo x 2>/dev/null >/etc/hosts || echo no",
        "192.0.2.7\tthere.example\nno\n",
        |run| {
            run.hosts = &hosts;
        },
    );
    t.prints("ls /sys/class/net", "lo\n", |run| run.network = Network::None);
}

#[test]
fn a_script_is_run_by_its_interpreter() {
    let Some(t) = scratch() else { return };
    let text = "#!/bin/sh\necho $0 $1; stat -c %a $0; echo x >>$0 || echo no\n";
    let seen = t.run_with(&t.snapshot(), "", |run| {
        run.script = Some(("EOF", text));
        run.args = vec!["one".into()];
    });
    let seen = seen.unwrap();
    assert!(seen.printed.starts_with("/dev/pipes/EOF one\n755\n"), "{}", seen.printed);
    assert!(seen.printed.ends_with("no\n"), "{}", seen.printed);
    for name in ["../../x", "..", "a/b", ""] {
        let seen = t.run_with(&t.snapshot(), "", |run| {
            run.script = Some((name, "#!/bin/sh\ntrue\n"));
            run.args.clear();
        });
        assert_eq!(seen.unwrap().ran.ended, Ended::Exited(0), "{name}");
    }
}

#[test]
fn what_is_bound_is_of_its_tree_and_stays_as_it_was() {
    let Some(t) = scratch() else { return };
    let context = t.tree("context", &["a/f", "a/g", "b/secret", "top"], Some("b\n**/g"));
    let open = t.tree("open", &["f"], None);
    std::os::unix::fs::symlink("/../../../../etc", t.dir.path().join("open/out")).unwrap();
    let base = t.snapshot();
    let image = Origin::Snapshot { snapshot: &base, name: "base" };
    let run = |text: &str, from, script: &str| {
        let mount = mount(text);
        let seen = t.run_with(&base, script, |run| {
            run.mounts = vec![MountFrom { mount: &mount, from: Some(from), foreign: false }];
        })?;
        assert_eq!(written(seen.ran.tree()), Vec::<String>::new(), "{text}");
        Ok::<_, Error>(seen.printed)
    };
    let (context, open) = (Origin::Tree(&context), Origin::Tree(&open));
    let table = [
        ("target=/m", context, "cd /m; ls -R; cat a/f", ".:\na\ntop\n\n./a:\nf\na/f"),
        ("target=/m,source=a", context, "ls /m; echo x 2>/dev/null >/m/f || echo no", "f\nno\n"),
        ("target=/m,rw", context, "echo x >/m/top; rm -r /m/a; cat /m/*", "x\n"),
        ("target=/m,rw,source=/a", context, "echo x >/m/new; ls /m", "f\nnew\n"),
        ("target=/m", context, "ls /m", "a\ntop\n"),
        ("target=/m,source=top", context, "cat /m; echo x 2>/dev/null >/m || echo no", "topno\n"),
        ("target=/m,source=top,rw", context, "cat /m; echo x >/m; cat /m", "topx\n"),
        (
            "target=m",
            open,
            "cat /m/f; stat -c %n /m/*; echo x 2>/dev/null >/m/f || echo no",
            "f/m/f\n/m/out\nno\n",
        ),
        ("target=/m,rw", open, "echo x >/m/f; cat /m/f", "x\n"),
        ("target=/m,source=/data,from=base", image, "cat /m/file", "below\n"),
        ("target=/m,source=/data/file,from=base", image, "cat /m", "below\n"),
        (
            "target=/m,source=/data,from=base,rw",
            image,
            "rm /m/file; ls /m; cat /data/file",
            "below\n",
        ),
    ];
    for (text, from, script, expected) in table {
        assert_eq!(run(text, from, script).unwrap(), expected, "{text}");
    }
    for (text, from, expected) in [
        (
            "target=/m,source=/b",
            context,
            "--mount=type=bind: context: /b: .dockerignore leaves it out",
        ),
        (
            "target=/m,source=a/g",
            context,
            "--mount=type=bind: context: a/g: .dockerignore leaves it out",
        ),
        (
            "target=/m,source=out",
            open,
            "--mount=type=bind: open: out: No such file or directory (os error 2)",
        ),
        (
            "target=/m,source=../context",
            open,
            "--mount=type=bind: open: ../context: No such file or directory (os error 2)",
        ),
        (
            "target=/m,source=/dev/null",
            image,
            "--mount=type=bind: base: /dev/null: No such file or directory (os error 2)",
        ),
        ("target=.", open, "--mount=type=bind: target: / would hide everything"),
    ] {
        assert_eq!(line(&run(text, from, "").unwrap_err()), expected, "{text}");
    }
    assert_eq!(fs::read_to_string(t.dir.path().join("context/top")).unwrap(), "top");
    assert_eq!(fs::read_to_string(t.dir.path().join("open/f")).unwrap(), "f");
    assert_eq!(t.left(), Vec::<PathBuf>::new());
}

#[test]
fn a_secret_is_seen_by_its_step_alone() {
    let Some(t) = scratch() else { return };
    let mut secrets = Secrets::default();
    secrets.insert("token", Secret::new(b"tell-nobody".into()));
    secrets.insert("odd", Secret::new(b"tell\0nobody".into()));
    let run = |text: &str, script: &str| {
        let mount = mount(text);
        t.run_with(&t.snapshot(), script, |run| {
            run.secrets = &secrets;
            run.mounts = vec![MountFrom { mount: &mount, from: None, foreign: false }];
        })
    };
    for (text, script, expected) in [
        (
            "type=secret,id=token",
            "cat /run/secrets/token; stat -c ' %a %u' /run/secrets/token",
            "tell-nobody 400 0\n",
        ),
        (
            "type=secret,id=token,target=x,mode=0444,uid=7",
            "cat /x; stat -c ' %a %u' /x",
            "tell-nobody 444 7\n",
        ),
        (
            "type=secret,id=token,env=T",
            "echo $T; ls /run",
            "tell-nobody\nls: /run: No such file or directory\n",
        ),
        ("type=secret,id=token,env=T,target=/t", "echo $T; cat /t", "tell-nobody\ntell-nobody"),
        ("type=secret,target=/etc/token", "cat /etc/token", "tell-nobody"),
        ("type=secret,id=other", "ls /run", "ls: /run: No such file or directory\n"),
        ("type=secret,id=odd", "wc -c </run/secrets/odd", "11\n"),
    ] {
        let seen = run(text, script).unwrap();
        assert_eq!(seen.printed, expected, "{text}");
        assert_eq!(written(seen.ran.tree()), Vec::<String>::new(), "{text}");
        let found =
            Command::new("grep").args(["-rl", "tell-nobody"]).arg(t.dir.path()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{text}");
    }
    for (text, expected) in [
        ("type=secret,id=other,required", "--mount=type=secret: other: there is no such secret"),
        ("type=secret,id=odd,env=T", "--mount=type=secret: odd: it cannot be a variable"),
        ("type=ssh,required", "--mount=type=ssh: default: there is no such agent"),
    ] {
        assert_eq!(line(&run(text, "").err().unwrap()), expected, "{text}");
    }
}

#[test]
fn an_agent_is_where_the_variable_says() {
    let Some(t) = scratch() else { return };
    let path = t.dir.path().join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut agents = Agents::default();
    agents.add(&format!("default={}", path.display())).unwrap();
    for (text, expected) in [
        ("type=ssh", "/run/buildkit/ssh_agent.0\nsocket\n"),
        ("type=ssh,target=/a/gent", "/a/gent\nsocket\n"),
        ("type=ssh,id=other", "\n"),
    ] {
        let mount = mount(text);
        let script = "echo $SSH_AUTH_SOCK; [ -z $SSH_AUTH_SOCK ] || stat -c %F $SSH_AUTH_SOCK";
        t.prints(script, expected, |run| {
            run.ssh = &agents;
            run.mounts = vec![MountFrom { mount: &mount, from: None, foreign: false }];
        });
    }
}

/// What a step says to its agent, and hears from it.
const TALK: &str = r#"perl -MSocket -e '
    socket(S, PF_UNIX, SOCK_STREAM, 0); connect(S, pack_sockaddr_un($ENV{SSH_AUTH_SOCK})) or die "$!\n";
    syswrite S, "hello"; shutdown(S, 1); print <S>' 2>&1; true"#;

#[test]
fn an_agent_answers_to_whom_the_mount_gives_it() {
    let Some(t) = scratch() else { return };
    if ["/usr/bin/perl", "/lib", "/lib64"].iter().any(|path| !Path::new(path).exists()) {
        return eprintln!("not tested here: it takes perl, for a step to run");
    }
    let path = t.dir.path().join("agent");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    // That of a user who is nobody in particular to the step.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&path, Some(4321), Some(4321)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut said) = (stream.unwrap(), String::new());
            stream.read_to_string(&mut said).unwrap();
            stream.write_all(said.to_uppercase().as_bytes()).unwrap();
        }
    });
    let mut agents = Agents::default();
    agents.add(&format!("default={}", path.display())).unwrap();
    let host = Tree::directory(Path::new("/"), "host").unwrap();
    let programs = ["usr", "lib", "lib64"].map(|dir| mount(&format!("source={dir},target=/{dir}")));
    for (text, user, expected) in [
        ("type=ssh", "", "HELLO"),
        ("type=ssh", "app", "Permission denied\n"),
        ("type=ssh,uid=1000", "app", "HELLO"),
        ("type=ssh,gid=1000,mode=0660", "app", "HELLO"),
        ("type=ssh,uid=1000,mode=0", "app", "Permission denied\n"),
    ] {
        let agent = mount(text);
        let of_host = programs.iter().map(|mount| MountFrom {
            mount,
            from: Some(Origin::Tree(&host)),
            foreign: false,
        });
        t.prints(TALK, expected, |run| {
            run.ssh = &agents;
            run.user = user;
            run.env = vec!["PATH=/bin:/usr/bin".into()];
            run.mounts = of_host.collect();
            run.mounts.push(MountFrom { mount: &agent, from: None, foreign: false });
        });
    }
    assert_eq!(t.left(), Vec::<PathBuf>::new());
}

#[test]
fn a_cache_is_there_in_the_next_step() {
    let Some(t) = scratch() else { return };
    let base = t.snapshot();
    let image = Origin::Snapshot { snapshot: &base, name: "base" };
    let table = [
        ("type=cache,target=/c", None, "ls /c; echo 1 >/c/f", ""),
        ("type=cache,target=/d,id=/c", None, "ls /d", "f\n"),
        ("type=cache,target=/c,ro", None, "echo x 2>/dev/null >/c/f || cat /c/f", "1\n"),
        ("type=cache,target=/e", None, "ls /e", ""),
        ("type=cache,target=/o,uid=7,gid=8,mode=0711", None, "stat -c '%u %g %a' /o", "7 8 711\n"),
        (
            "type=cache,target=/x,from=base,source=/data",
            Some(image),
            "cat /x/file; rm /x/file",
            "below\n",
        ),
        ("type=cache,target=/x,from=base,source=/data", Some(image), "ls /x", ""),
        (
            "type=tmpfs,target=/c,size=1m",
            None,
            "ls /c; mount | grep -c 'on /c type tmpfs.*size=1024k'",
            "1\n",
        ),
    ];
    for (text, from, script, expected) in table {
        let mount = mount(text);
        t.prints(script, expected, |run| {
            run.mounts = vec![MountFrom { mount: &mount, from, foreign: false }]
        });
    }
}

#[test]
fn steps_run_beside_each_other() {
    let Some(t) = scratch() else { return };
    let base = t.snapshot();
    let t = &t;
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|n| {
                let base = &base;
                scope.spawn(move || {
                    for m in 0..4 {
                        step::for_test();
                        let script = format!("echo {n}.{m}; echo {n} >/f{n}");
                        let seen = t.run_with(base, &script, |_| {}).unwrap();
                        assert_eq!(seen.printed, format!("{n}.{m}\n"));
                        assert_eq!(written(seen.ran.tree()), [String::new(), format!("f{n}")]);
                    }
                })
            })
            .collect();
        runs.into_iter().for_each(|run| run.join().unwrap());
    });
    assert_eq!(t.left(), Vec::<PathBuf>::new());
}
