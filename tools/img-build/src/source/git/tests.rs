use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::thread;
use std::time::{Instant, SystemTime};

use common::error::{hint_of, line};
use tempfile::TempDir;

use super::*;

/// A repository, served by git daemon on loopback as long as the test program lives.
struct Served {
    dir: TempDir,
    address: String,
}

impl Served {
    fn start() -> Served {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let base = dir.path().to_owned();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream: OwnedFd = stream.unwrap().into();
                let mut daemon = Command::new("git");
                daemon.args(["daemon", "--inetd", "--export-all"]);
                daemon.arg(format!("--base-path={}", base.display()));
                daemon.stdin(stream.try_clone().unwrap()).stdout(stream).stderr(Stdio::null());
                daemon.status().unwrap();
            }
        });
        let served = Served { dir, address };
        served.repository("app");
        served
    }

    /// Makes a repository with three commits: `one`, a tag and a branch.
    fn repository(&self, name: &str) {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(dir.join("inner")).unwrap();
        self.git(name, &["init", "-q", "-b", "main"]);
        fs::write(dir.join("file"), "one").unwrap();
        fs::write(dir.join("inner/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join("inner/run"), PermissionsExt::from_mode(0o775)).unwrap();
        symlink("inner", dir.join("inside")).unwrap();
        symlink("/etc", dir.join("outside")).unwrap();
        self.commit(name, "one");
        self.git(name, &["tag", "-m", "the first", "v1"]);
        fs::write(dir.join("file"), "two").unwrap();
        self.commit(name, "two");
        self.git(name, &["branch", "v2"]);
        self.git(name, &["tag", "v2", "v1"]);
        fs::write(dir.join("file"), "three").unwrap();
        self.commit(name, "three");
    }

    fn commit(&self, name: &str, message: &str) -> String {
        self.git(name, &["add", "-A"]);
        self.git(name, &["commit", "-q", "-m", message]);
        self.git(name, &["rev-parse", "HEAD"])
    }

    fn git(&self, name: &str, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git.current_dir(self.dir.path().join(name)).args(args);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@b");
            git.env(format!("GIT_{who}_DATE"), "1700000000 +0000");
        }
        let out = git.output().expect("git");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    fn url(&self, rest: &str) -> String {
        format!("git://{}/{rest}", self.address)
    }

    fn get(&self, rest: &str) -> Result<Checkout> {
        self.get_with(rest, false, None)
    }

    fn get_with(&self, rest: &str, keep: bool, checksum: Option<&str>) -> Result<Checkout> {
        let repository = Repository::parse(&self.url(rest)).unwrap().unwrap();
        let scratch = || {
            let dir = self.dir.path().join("scratch");
            fs::create_dir_all(&dir)?;
            Ok(dir)
        };
        checkout(&repository, keep, checksum, &Elsewhere::new(&scratch, &|_| Ok(None)))
    }

    /// Returns what went wrong.
    fn refused(&self, rest: &str) -> String {
        match self.get(rest) {
            Ok(_) => panic!("{rest} is there"),
            Err(err) => line(&err).replace(&self.address, "HOST"),
        }
    }
}

fn path(checkout: &Checkout, name: &str) -> PathBuf {
    use std::os::fd::AsRawFd;
    let fd = checkout.tree.root.as_raw_fd();
    format!("/proc/{}/fd/{fd}/{name}", std::process::id()).into()
}

fn file(checkout: &Checkout, name: &str) -> String {
    fs::read_to_string(path(checkout, name)).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_ref_is_a_branch_a_tag_or_a_commit() {
    let served = Served::start();
    let first = served.git("app", &["rev-parse", "v1^{commit}"]);
    let table = [
        ("app", "three"),
        ("app#main", "three"),
        ("app#v1", "one"),
        // Of a branch and a tag the branch is meant, as for git checkout.
        ("app#v2", "two"),
        ("app#refs/tags/v2", "one"),
        ("app#tags/v2", "one"),
        ("app#heads/v2", "two"),
        ("app?tag=v2", "one"),
        ("app?branch=v2", "two"),
        (&format!("app#{first}"), "one"),
        (&format!("app?commit={first}"), "one"),
    ];
    for (rest, expected) in table {
        let found = served.get(rest).unwrap();
        assert_eq!(file(&found, "file"), expected, "{rest}");
        assert_eq!(found.time, 1_700_000_000);
        assert!(!path(&found, ".git").exists(), "{rest}");
        assert_eq!(found.commit == first, expected == "one");
    }
    // Nothing is left when it is not needed any more.
    assert_eq!(names(&served.dir.path().join("scratch")), Vec::<String>::new());
}

#[test]
fn what_is_in_use_is_not_swept_away() {
    let served = Served::start();
    let scratch = served.dir.path().join("scratch");
    let age = |dir: &Path| {
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        File::open(dir).unwrap().set_modified(long_ago).unwrap();
    };
    let found = served.get("app#:inner").unwrap();
    let [used] = &names(&scratch)[..] else { panic!("there is one") };
    age(&scratch.join(used));
    let [left, archive] = ["source-left", "archive-used"].map(|name| scratch.join(name));
    for dir in [&left, &archive] {
        fs::create_dir(dir).unwrap();
        age(dir);
    }
    drop(served.get("app").unwrap());
    assert_eq!(names(&path(&found, "")), ["run"]);
    assert!(!left.exists() && archive.exists());
    File::open(&archive).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    drop(served.get("app").unwrap());
    assert!(!archive.exists());
}

#[test]
fn modes_are_those_of_the_repository() {
    let served = Served::start();
    let found = served.get("app").unwrap();
    let mode = |name: &str| path(&found, name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode("file"), mode("inner/run"), mode("inner")], [0o644, 0o755, 0o755]);
}

#[test]
fn a_directory_in_it_is_in_it() {
    let served = Served::start();
    assert_eq!(names(&path(&served.get("app#:inner").unwrap(), "")), ["run"]);
    assert_eq!(names(&path(&served.get("app#main:/inner/").unwrap(), "")), ["run"]);
    assert_eq!(names(&path(&served.get("app#:inside").unwrap(), "")), ["run"]);
    let outside = "git://HOST/app#:outside: outside: it leads out of the repository";
    assert_eq!(served.refused("app#:outside"), outside);
    let none = "git://HOST/app#:none: none: No such file or directory (os error 2)";
    assert_eq!(served.refused("app#:none"), none);
    assert!(served.refused("app#:file").ends_with("file: Not a directory (os error 20)"));
}

#[test]
fn what_is_not_there_is_said() {
    let served = Served::start();
    let none = "git://HOST/app#none: no branch, tag or commit none in it";
    assert_eq!(served.refused("app#none"), none);
    let id = "0123456789abcdef0123456789abcdef01234567";
    let none = format!("git://HOST/app#{id}: no commit {id} in it");
    assert_eq!(served.refused(&format!("app#{id}")), none);
    assert!(served.refused("none").starts_with("git://HOST/none: git ls-remote: "));
    let blob = served.git("app", &["rev-parse", "HEAD:file"]);
    assert!(served.refused(&format!("app#{blob}")).contains("not a commit"));
}

#[test]
fn the_checksum_is_how_the_commit_begins() {
    let served = Served::start();
    let first = served.git("app", &["rev-parse", "v1^{commit}"]);
    let tag = served.git("app", &["rev-parse", "v1"]);
    for right in [&first[..], &first[..7], &tag[..9]] {
        assert_eq!(served.get_with("app#v1", false, Some(right)).unwrap().commit, first);
    }
    let err = served.get_with("app", false, Some(&first[..7])).err().unwrap();
    assert!(line(&err).contains(", and not "), "{}", line(&err));
    assert!(served.get("app?ref=v1&commit=0000000").is_err());
}

#[test]
fn a_commit_that_no_name_leads_to_directly_is_found() {
    let served = Served::start();
    let second = served.git("app", &["rev-parse", "main~1"]);
    served.git("app", &["branch", "-D", "v2"]);
    // Version 0 of the protocol parts with nothing but what has a name.
    served.git("app", &["config", "protocol.version", "0"]);
    served.git("app", &["config", "uploadpack.allowAnySHA1InWant", "false"]);
    assert_eq!(file(&served.get(&format!("app#{second}")).unwrap(), "file"), "two");
}

#[test]
fn a_git_directory_that_is_kept_is_always_the_same() {
    let served = Served::start();
    let tree = |rest: &str| {
        let found = served.get_with(rest, true, None).unwrap();
        let mut all = Vec::new();
        let mut dirs = vec![path(&found, ".git")];
        while let Some(dir) = dirs.pop() {
            for name in names(&dir) {
                let path = dir.join(&name);
                match path.is_dir() {
                    true => dirs.push(path),
                    false => all.push((name, fs::read(path).unwrap())),
                }
            }
        }
        all.sort();
        (found, all)
    };
    let (found, first) = tree("app#v1");
    let (_, second) = tree("app#v1");
    let differ = first.iter().zip(&second).find(|(one, other)| one != other);
    assert_eq!(differ.map(|(one, _)| &one.0), None);
    assert_eq!(first.len(), second.len());
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "-C"]).arg(path(&found, "")).args(args);
        String::from_utf8(git.output().unwrap().stdout).unwrap().trim().to_owned()
    };
    assert_eq!(git(&["describe", "--tags"]), "v1");
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(git(&["remote", "get-url", "origin"]), served.url("app"));
    assert_eq!(git(&["for-each-ref", "--format=%(refname)"]), "refs/tags/v1");
}

#[test]
fn repositories_in_it_come_along() {
    let served = Served::start();
    served.repository("lib");
    let allow = ["-c", "protocol.file.allow=always"];
    let add = ["submodule", "-q", "add", "../lib", "third party"];
    served.git("app", &["remote", "add", "origin", &served.url("app")]);
    served.git("app", &[&allow[..], &add].concat());
    served.commit("app", "lib");
    let found = served.get("app").unwrap();
    assert_eq!(file(&found, "third party/file"), "three");
    assert!(!path(&found, "third party/.git").exists());
    let found = served.get("app?submodules=0").unwrap();
    assert_eq!(names(&path(&found, "third party")), Vec::<String>::new());
    let found = served.get_with("app", true, None).unwrap();
    assert!(file(&found, "third party/.git").starts_with("gitdir: ../"));
}

#[test]
fn a_repository_in_it_is_no_file_of_this_host() {
    let served = Served::start();
    served.repository("lib");
    let lib = served.dir.path().join("lib");
    fs::create_dir(served.dir.path().join("app/x")).unwrap();
    for url in [format!("file://{}", lib.display()), lib.display().to_string()] {
        let modules = format!("[submodule \"x\"]\n\tpath = x\n\turl = {url}\n");
        fs::write(served.dir.path().join("app/.gitmodules"), modules).unwrap();
        let head = served.git("lib", &["rev-parse", "HEAD"]);
        let entry = format!("160000,{head},x");
        served.git("app", &["update-index", "--add", "--cacheinfo", &entry]);
        served.commit("app", "x");
        let refused = served.refused("app");
        assert!(refused.contains("transport 'file' not allowed"), "{refused}");
    }
}

#[test]
fn what_a_repository_says_is_not_run() {
    let served = Served::start();
    let bait = served.dir.path().join("bait");
    let dir = served.dir.path().join("app");
    let touch = format!("touch {}", bait.display());
    fs::write(dir.join(".gitattributes"), "* filter=bait diff=bait merge=bait\n").unwrap();
    fs::write(dir.join(".gitconfig"), format!("[filter \"bait\"]\n\tsmudge = {touch}\n")).unwrap();
    let modules = format!("[submodule \"x\"]\n\tpath = x\n\turl = ../lib\n\tupdate = !{touch}\n");
    fs::write(dir.join(".gitmodules"), modules).unwrap();
    served.repository("lib");
    fs::create_dir(dir.join("x")).unwrap();
    let head = served.git("lib", &["rev-parse", "HEAD"]);
    served.git("app", &["update-index", "--add", "--cacheinfo", &format!("160000,{head},x")]);
    served.commit("app", "bait");
    // As it stands, or as an error: but not what it says.
    let _ = served.get("app");
    assert!(!bait.exists());
}

#[test]
fn a_token_is_in_no_command_line_and_in_nothing_that_is_said() {
    let repository = Repository::parse("http://127.0.0.1:9/app.git").unwrap().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let scratch = || Ok(dir.path().to_owned());
    let secret =
        |name: &str| Ok((name == "GIT_AUTH_TOKEN.127.0.0.1:9").then(|| b"hunter2\n".to_vec()));
    let elsewhere = Elsewhere::new(&scratch, &secret);
    let header = authorization(&repository, &elsewhere).unwrap().unwrap();
    assert_eq!(header, "Basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMg==");
    let err = checkout(&repository, false, None, &elsewhere).err().unwrap();
    let said = format!("{} {:?}", line(&err), hint_of(&err));
    assert!(!said.contains("hunter2") && !said.contains(&header[6..]), "{said}");
    assert!(said.starts_with("http://127.0.0.1:9/app.git: git ls-remote: "), "{said}");
}

#[test]
fn a_token_is_for_the_hosts_that_the_user_names() {
    let scratch = || bail!("nothing is temporary");
    let told = |contexts: &[&str], ids: &[&str], url: &str| {
        let secret = |id: &str| Ok(ids.contains(&id).then(|| id.as_bytes().to_vec()));
        let elsewhere = Elsewhere::new(&scratch, &secret);
        for url in contexts {
            let repository = Repository::parse(url).unwrap().unwrap();
            assert!(context(&repository, false, &elsewhere).is_err(), "nothing is temporary");
        }
        let repository = Repository::parse(url).unwrap().unwrap();
        match authorization(&repository, &elsewhere) {
            Ok(header) => header.unwrap_or_default(),
            Err(err) => format!("{} ({})", line(&err), hint_of(&err).unwrap_or_default()),
        }
    };
    let (token, header) = ("GIT_AUTH_TOKEN", "GIT_AUTH_HEADER");
    let (of_h, of_x) = ("GIT_AUTH_HEADER.h", "GIT_AUTH_HEADER.x");
    let context: &[&str] = &["https://h/a.git", "git@y:z"];
    let table: [(&[&str], &[&str], &str, &str); 12] = [
        (context, &[header], "https://h/b.git", header),
        (context, &[header, token], "https://h/b.git", header),
        (context, &[header, of_h, token], "https://h/b.git", of_h),
        (context, &[header], "https://x/b.git", ""),
        (context, &[header], "https://h:444/b.git", ""),
        (context, &[header], "http://x/b.git", ""),
        (context, &[header], "ssh://h/b.git", ""),
        (context, &[header], "https://y/b.git", ""),
        (context, &[of_h, of_x], "https://x/b.git", of_x),
        (&[], &[header, token], "https://h/b.git", ""),
        (&["http://127.0.0.1:9/a.git"], &[header], "http://127.0.0.1:9/b.git", header),
        (
            context,
            &[header],
            "http://h/b.git",
            "http://h/b.git: a secret does not go over plain HTTP (https://h/b.git)",
        ),
    ];
    for (contexts, ids, url, expected) in table {
        assert_eq!(told(contexts, ids, url), expected, "{contexts:?} {ids:?} {url}");
    }
    let clear = told(&[], &[of_x], "http://x/b.git");
    assert!(clear.contains("plain HTTP"), "{clear}");
}

/// A server of no repository, which sends everybody to `to`. What it was asked is in what it returns, and `look` sees it.
fn sends_away(
    to: Option<String>,
    look: impl Fn(&str) + Send + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let log = Arc::new(Mutex::new(Vec::new()));
    let asked = log.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let lines = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
            let request: Vec<String> = lines.collect();
            look(&request.join("\n"));
            asked.lock().unwrap().extend(request);
            let head = match &to {
                Some(to) => format!(
                    "302 Found\r\nlocation: http://{to}/x.git/info/refs?service=git-upload-pack"
                ),
                None => "404 Not Found".into(),
            };
            let end = "content-length: 0\r\nconnection: close";
            // Who hangs up has enough.
            let _ = write!(stream, "HTTP/1.1 {head}\r\n{end}\r\n\r\n");
        }
    });
    (address, log)
}

/// Fetches from a server that wants to know who we are; returns what went wrong.
fn get_with_token(dir: &Path, address: &str) -> anyhow::Error {
    let url = format!("http://{address}/app.git");
    let repository = Repository::parse(&url).unwrap().unwrap();
    let scratch = || Ok(dir.to_owned());
    let id = format!("GIT_AUTH_HEADER.{address}");
    let secret = |name: &str| Ok((name == id).then(|| b"Bearer hunter2".to_vec()));
    let elsewhere = Elsewhere::new(&scratch, &secret);
    checkout(&repository, false, None, &elsewhere).err().unwrap()
}

#[test]
fn a_token_does_not_follow_a_redirect() {
    let (other, asked_other) = sends_away(None, |_| {});
    let (address, asked) = sends_away(Some(other), |_| {});
    let dir = tempfile::tempdir().unwrap();
    let err = get_with_token(dir.path(), &address);
    assert!(line(&err).contains("302"), "{}", line(&err));
    assert!(hint_of(&err).unwrap().starts_with("the address that it redirects to"));
    assert!(asked.lock().unwrap().contains(&"Authorization: Bearer hunter2".to_owned()));
    assert_eq!(*asked_other.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn a_token_lies_on_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (found, place) = (Arc::new(Mutex::new(Vec::new())), dir.path().to_owned());
    let seen = found.clone();
    let (address, asked) = sends_away(None, move |_| {
        let mut dirs = vec![place.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => dirs.push(entry.path()),
                    false => seen.lock().unwrap().push(fs::read_to_string(entry.path()).unwrap()),
                }
            }
        }
    });
    let err = get_with_token(dir.path(), &address);
    assert!(line(&err).contains("not found"), "{}", line(&err));
    assert!(asked.lock().unwrap().contains(&"Authorization: Bearer hunter2".to_owned()));
    let found = found.lock().unwrap();
    assert!(found.iter().any(|text| text.contains("hooksPath")), "it was there");
    assert!(found.iter().all(|text| !text.contains("hunter2")));
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let scratch = || Ok(dir.path().to_owned());
    let mut elsewhere = Elsewhere::new(&scratch, &|_| Ok(None));
    elsewhere.stall = Duration::from_secs(2);
    let begun = Instant::now();
    for scheme in ["git", "http"] {
        let repository = Repository::parse(&format!("{scheme}://{address}/app.git")).unwrap();
        let err = checkout(&repository.unwrap(), false, None, &elsewhere).err().unwrap();
        let said = line(&err);
        assert!(said.ends_with("app.git: git ls-remote: nothing has come for 2 s"), "{said}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

/// What a server sends now and then, or what takes long here, is waited for.
#[test]
fn git_is_let_to_do_what_it_does() {
    let dir = tempfile::tempdir().unwrap();
    // A shell that is called git: processes are told by their names.
    let program = dir.path().join("git");
    symlink("/bin/sh", &program).unwrap();
    let run = |script: &str| {
        let stall = Duration::from_secs(1);
        let (program, dir, running) = (program.clone(), dir.path().to_owned(), Arc::default());
        let git = Git { program, dir, private: Vec::new(), host: None, stall, running };
        git.run(&["-c", script], false).map_err(|err| line(&err))
    };
    let silent = "git -c: nothing has come for 1 s".to_owned();
    assert_eq!(run("sleep 60; echo"), Err(silent));
    assert_eq!(
        run("for n in 1 2 3 4 5 6; do sleep 0.4; read x </dev/null; echo $n >&2; done; echo a"),
        Ok("a".into())
    );
    assert_eq!(run("n=0; while [ $n -lt 1000000 ]; do n=$((n+1)); done; echo a"), Ok("a".into()));
    assert_eq!(run("exec >&-; exit 3").unwrap_err(), "git -c: exit status: 3");
}
