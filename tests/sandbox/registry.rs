//! Debian's docker-registry on loopback, on a port that the kernel picks.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::image::Image;

/// A registry that runs until it is dropped.
pub struct Registry {
    child: Child,
    dir: PathBuf,
    address: String,
}

impl Registry {
    /// Starts a registry that keeps its images and its log below `dir`. `config` is added to its
    /// configuration; with a certificate and its key it speaks TLS.
    pub(crate) fn start(dir: &Path, config: &str, tls: Option<[&Path; 2]>) -> Registry {
        fs::create_dir(dir).unwrap();
        let data = dir.join("data");
        let file = dir.join("config.yml");
        let tls = tls.map_or(String::new(), |[certificate, key]| {
            let (certificate, key) = (certificate.display(), key.display());
            format!(", tls: {{certificate: {certificate}, key: {key}}}")
        });
        let text = format!(
            "version: 0.1\n\
             log: {{level: info}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"127.0.0.1:0\", secret: tests{tls}}}\n\
             {config}\n",
            data.display()
        );
        fs::write(&file, text).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut child = Command::new("docker-registry")
            .args(["serve".as_ref(), file.as_os_str()])
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .expect("docker-registry");
        let mut log = BufReader::new(reader);
        let mut lines = String::new();
        let address = loop {
            let start = lines.len();
            if log.read_line(&mut lines).unwrap() == 0 {
                let _ = child.wait();
                panic!("docker-registry ended:\n{lines}");
            }
            if let Some((_, rest)) = lines[start..].split_once("listening on ") {
                break rest.split(['"', ',']).next().unwrap().to_owned();
            }
        };
        let mut rest = File::create(dir.join("log")).unwrap();
        std::thread::spawn(move || std::io::copy(&mut log, &mut rest));
        Registry { child, dir: data.join("docker/registry/v2"), address }
    }

    /// Returns the host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the requests that were answered so far, a line each, with their status.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.join("../../../../log")).unwrap();
        let lines = log.lines().filter(|line| line.contains("response completed"));
        lines.map(str::to_owned).collect()
    }

    /// Puts an image into the registry's files, as an earlier push would have.
    pub fn add(&self, image: &Image, repository: &str, tag: &str) {
        let repo = self.dir.join("repositories").join(repository);
        let link = |path: PathBuf, digest: &str| {
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("link"), digest).unwrap();
        };
        for (hex, file) in image.blobs() {
            let blob = self.dir.join("blobs/sha256").join(&hex[..2]).join(&hex);
            fs::create_dir_all(&blob).unwrap();
            fs::copy(file, blob.join("data")).unwrap();
            link(repo.join("_layers/sha256").join(&hex), &format!("sha256:{hex}"));
        }
        let hex = image.digest.strip_prefix("sha256:").unwrap();
        let manifests = repo.join("_manifests");
        for digest in image.documents() {
            let hex = digest.strip_prefix("sha256:").unwrap();
            link(manifests.join("revisions/sha256").join(hex), &digest);
        }
        link(manifests.join("tags").join(tag).join("current"), &image.digest);
        link(manifests.join("tags").join(tag).join("index/sha256").join(hex), &image.digest);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
