//! Small images, made by tar, gzip and sha256sum: two mistakes of ours must not agree.
//!
//! A layer is a shell script whose standard output is the layer's tar. An image
//! is made once and kept in the target directory, under a name that is the
//! digest of everything that went in.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

/// Packs the current directory so that the same tree is the same bytes.
pub const PACK: &str = "tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -c .";

/// An image in an OCI layout of its own.
pub struct Image {
    /// The layout.
    pub dir: PathBuf,
    /// The digest of its manifest.
    pub digest: String,
}

/// Returns an image of one layer: busybox, statically linked, and what a system needs to look like one.
pub fn busybox() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let config = json!({ "Env": [PATH], "Cmd": ["sh"] });
        Image::new(&[&busybox_layer()], &config)
    })
}

/// Returns Debian with python3, in layers that umoci made of what mmdebstrap installed.
///
/// The third layer removes and replaces what is below it, and holds one of each
/// thing that a tar can. It takes a network, root and a minute, once.
pub fn python() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| Image::made_by(PYTHON))
}

const PYTHON: &str = r#"
    exec >&2
    . /etc/os-release
    mmdebstrap --quiet --variant=essential --include=python3-minimal,libcap2-bin \
        --essential-hook="tar -C \$1 --exclude=./sys --exclude=./proc --exclude=./dev --exclude=./var/lib/apt \
            --exclude=./var/cache/apt --xattrs -cf $PWD/base.tar ." \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin' \
        "$VERSION_CODENAME" python.tar
    umoci init --layout layout
    umoci new --image layout:py
    umoci unpack --image layout:py bundle
    for tree in base python; do
        tar -C bundle/rootfs --xattrs --numeric-owner -xf $tree.tar
        umoci repack --refresh-bundle --image layout:py bundle
    done

    cd bundle/rootfs
    rm -rf usr/share/doc usr/share/locale
    rm etc/motd; mkdir etc/motd; echo inside >etc/motd/file
    rm -rf home; ln -s /var home
    rm -rf mnt; mkdir mnt; echo opaque >mnt/new
    mkdir -p app/empty app/sticky app/private
    chmod 1777 app/sticky; chmod 700 app/private; chown 1000:1000 app/private
    echo 'print(6*7)' >app/answer.py
    ln app/answer.py app/hardlink.py; ln -s answer.py app/symlink.py; ln -s /nowhere app/dangling
    mkfifo app/fifo; mknod app/null c 1 3; mknod app/disk b 7 99
    cp bin/true app/setuid; chmod 4755 app/setuid; cp bin/true app/capable; setcap cap_net_raw+ep app/capable
    echo attributes >app/xattr; setfattr -n user.key -v value app/xattr
    name=$(printf '%0120d' 0); echo long >app/$name; echo utf8 >'app/héllo wörld'
    head -c 100000 /dev/urandom >app/random; truncate -s 5M app/sparse; : >app/zero
    chown 12345:54321 app/zero; touch -d '2001-02-03 04:05:06.789' app/zero; chmod 000 app/zero
    touch -d '1999-12-31 23:59:59' app/empty app/sticky
    cd ../..
    umoci repack --image layout:py bundle
    umoci config --image layout:py --config.cmd python3 --config.env LANG=C.UTF-8 \
        --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    umoci gc --layout layout
"#;

/// The variable that every base image sets.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the layer of [`busybox`], for images that build on it.
pub fn busybox_layer() -> String {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| {
        let linkage = Command::new("ldd").arg(path).output();
        Path::new(path).exists() && linkage.is_ok_and(|out| !out.status.success())
    });
    let busybox = busybox.expect("the tests need a static busybox (Debian: busybox-static)");
    let stamp = sha256(&fs::read(busybox).unwrap());
    format!(
        "# {stamp}
        mkdir -p bin etc home/app root tmp var/lib
        cp {busybox} bin/busybox
        for applet in $(bin/busybox --list); do
            [ \"$applet\" = busybox ] || ln bin/busybox bin/$applet
        done
        chmod 1777 tmp; chmod 700 root
        echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
        echo 'app:x:1000:1000::/home/app:/bin/sh' >>etc/passwd
        printf 'root:x:0:\\nwheel:x:10:root\\napp:x:1000:\\nstaff:x:50:app\\n' >etc/group
        {PACK}"
    )
}

/// Returns the full form of a name, as it stands in an index.json.
pub fn full_name(name: &str) -> String {
    let tagged = match name.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        true => name.to_owned(),
        false => format!("{name}:latest"),
    };
    match tagged.contains('/') {
        true => tagged,
        false => format!("docker.io/library/{tagged}"),
    }
}

/// Returns an index of [`busybox`] for this machine and of another image for s390x, and that other image.
pub fn for_two_platforms() -> (Image, Image) {
    let other = Image::new(&[&busybox_layer()], &json!({ "Cmd": ["other"] }));
    let index = Image::index(&[
        (&other, json!({ "os": "linux", "architecture": "s390x" })),
        (busybox(), json!({ "os": "linux", "architecture": architecture() })),
    ]);
    (index, other)
}

/// Returns the machine's architecture as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Image {
    /// Returns the image of these layers, bottom first, and this `config` object of its config.
    pub fn new(layers: &[&str], config: &Value) -> Image {
        let key = json!([layers, config, include_str!("image.rs")]).to_string();
        Image::cached(&key, |dir| make(dir, layers, config))
    }

    /// Returns the image that a script leaves in the layout `layout`, where the script starts.
    pub fn made_by(script: &str) -> Image {
        Image::cached(script, |dir| {
            let scratch = tempfile::tempdir().unwrap();
            let mut shell = Command::new("/bin/sh");
            shell.args(["-euc", script]).current_dir(scratch.path());
            let out = shell.stdin(Stdio::null()).output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{script}\n{said}");
            let cp =
                Command::new("cp").arg("-a").arg(scratch.path().join("layout")).arg(dir).status();
            assert!(cp.unwrap().success());
        })
    }

    /// Returns the image that was once made of what is in `key`, or makes it.
    fn cached(key: &str, make: impl FnOnce(&Path)) -> Image {
        let dir = crate::target_dir().join("../tmp/images").join(sha256(key.as_bytes()));
        if !dir.exists() {
            let parent = dir.parent().unwrap();
            fs::create_dir_all(parent).unwrap();
            let new = tempfile::tempdir_in(parent).unwrap();
            make(&new.path().join("layout"));
            // Another run may have been faster: its image is the same.
            let _ = fs::rename(new.path().join("layout"), &dir);
        }
        let index = read_json(&dir.join("index.json"));
        let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        Image { dir, digest }
    }

    /// Returns an image of the same layers with this `config` object of its config.
    pub fn with_config(&self, config: &Value) -> Image {
        let mut whole = self.config();
        whole["config"] = config.clone();
        self.with_whole_config(&whole)
    }

    /// Returns an image of the same layers with another config.
    pub fn with_whole_config(&self, config: &Value) -> Image {
        let key = json!(["with config", self.digest, config]).to_string();
        Image::cached(&key, |dir| {
            self.copy_to(dir, "base");
            let put = |old: &Value, document: &Value| {
                let bytes = document.to_string();
                let hex = sha256(bytes.as_bytes());
                fs::write(dir.join("blobs/sha256").join(&hex), &bytes).unwrap();
                json!({
                    "mediaType": old["mediaType"], "digest": format!("sha256:{hex}"), "size": bytes.len(),
                })
            };
            let mut manifest = self.manifest();
            manifest["config"] = put(&manifest["config"], config);
            let mut index = empty_index();
            index["manifests"] = json!([put(&manifest, &manifest)]);
            fs::write(dir.join("index.json"), index.to_string()).unwrap();
        })
    }

    /// Returns the index of these images, each for a platform.
    pub fn index(members: &[(&Image, Value)]) -> Image {
        let key: Vec<_> =
            members.iter().map(|(image, platform)| json!([image.digest, platform])).collect();
        Image::cached(&format!("index {}", json!(key)), |dir| {
            for (image, _) in members {
                image.copy_to(dir, "member");
            }
            let mut index = read_json(&dir.join("index.json"));
            for (desc, (_, platform)) in
                index["manifests"].as_array_mut().unwrap().iter_mut().zip(members)
            {
                desc.as_object_mut().unwrap().remove("annotations");
                desc["platform"] = platform.clone();
            }
            let bytes = index.to_string();
            let hex = sha256(bytes.as_bytes());
            fs::write(dir.join("blobs/sha256").join(&hex), &bytes).unwrap();
            let mut top = empty_index();
            top["manifests"] = json!([{
                "mediaType": index["mediaType"], "digest": format!("sha256:{hex}"), "size": bytes.len(),
            }]);
            fs::write(dir.join("index.json"), top.to_string()).unwrap();
        })
    }

    /// Adds the image to the layout at `dir`, which is made if absent, under `ref_name`.
    pub fn copy_to(&self, dir: &Path, ref_name: &str) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::copy(self.dir.join("oci-layout"), dir.join("oci-layout")).unwrap();
        for (hex, path) in self.blobs() {
            fs::copy(path, blobs.join(hex)).unwrap();
        }
        let mut desc = read_json(&self.dir.join("index.json"))["manifests"][0].take();
        desc["annotations"] = json!({ "org.opencontainers.image.ref.name": ref_name });
        let path = dir.join("index.json");
        let mut index = if path.exists() { read_json(&path) } else { empty_index() };
        index["manifests"].as_array_mut().unwrap().push(desc);
        fs::write(path, index.to_string()).unwrap();
    }

    /// Returns the digits and the file of each blob.
    pub fn blobs(&self) -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(self.dir.join("blobs/sha256")).unwrap().map(|e| e.unwrap());
        let blob = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), entry.path());
        entries.map(blob).collect()
    }

    /// Returns the digests of its manifest, or of its index and the manifests in that.
    pub fn documents(&self) -> Vec<String> {
        let members = self.manifest()["manifests"].take();
        let members = members.as_array().into_iter().flatten();
        let digests = members.map(|desc| desc["digest"].as_str().unwrap().to_owned());
        [self.digest.clone()].into_iter().chain(digests).collect()
    }

    /// Returns the image's manifest.
    pub fn manifest(&self) -> Value {
        read_json(&self.blob(&self.digest))
    }

    /// Returns the image's config.
    pub fn config(&self) -> Value {
        read_json(&self.blob(self.manifest()["config"]["digest"].as_str().unwrap()))
    }

    /// Returns the file of a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replace(':', "/"))
    }
}

/// Reads a JSON file.
pub fn read_json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

fn empty_index() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [],
    })
}

/// Writes an image layout.
fn make(dir: &Path, layers: &[&str], config: &Value) {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let hex = sha256(bytes);
        fs::write(dir.join("blobs/sha256").join(&hex), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() })
    };
    let mut diff_ids = Vec::new();
    let mut descs = Vec::new();
    for layer in layers {
        let scratch = tempfile::tempdir().unwrap();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-euc", &format!("umask 022\n{layer}")]).current_dir(scratch.path());
        let tar = shell.stderr(Stdio::inherit()).output().unwrap();
        assert!(tar.status.success(), "{layer}");
        diff_ids.push(format!("sha256:{}", sha256(&tar.stdout)));
        let gzip = through(Command::new("gzip").args(["-n", "-6"]), &tar.stdout);
        descs.push(put("application/vnd.oci.image.layer.v1.tar+gzip", &gzip));
    }
    let config = json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": layers.iter().map(|_| json!({ "created_by": "a test" })).collect::<Vec<_>>(),
    });
    let config = put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": descs,
    });
    let mut index = empty_index();
    index["manifests"] = json!([put(manifest_type, manifest.to_string().as_bytes())]);
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Returns the digits of the SHA-256 digest of `bytes`, as sha256sum computes it.
pub fn sha256(bytes: &[u8]) -> String {
    let out = through(&mut Command::new("sha256sum"), bytes);
    String::from_utf8(out[..64].to_vec()).unwrap()
}

/// Sends `bytes` through a program.
fn through(command: &mut Command, bytes: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes).unwrap());
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{command:?}");
        out.stdout
    })
}
