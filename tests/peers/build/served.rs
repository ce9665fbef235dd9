//! What a Dockerfile may reach outside its context: files over HTTP, repositories, and an agent.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use sandbox::Sandbox;

/// Serves the context at `$HTTP`, the repositories in it at `$GIT`, and listens at `work/agent` as an agent for SSH would.
pub fn serve(t: &Sandbox) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    t.set("HTTP", format!("http://{}", listener.local_addr().unwrap()));
    let root = t.path("work/context");
    repositories(t, root.clone());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let root = root.clone();
            thread::spawn(move || answer(stream, &root));
        }
    });
    let agent = UnixListener::bind(t.path("work/agent")).unwrap();
    // It has nothing to say: that it is there is all that a case asks.
    thread::spawn(move || agent.incoming().flatten().for_each(drop));
}

/// Serves repositories, a process of git for each that asks.
fn repositories(t: &Sandbox, root: PathBuf) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    t.set("GIT", format!("git://{}", listener.local_addr().unwrap()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut git = Command::new("git");
            git.args(["daemon", "--inetd", "--export-all"]).arg("--base-path").arg(&root);
            let ends = (OwnedFd::from(stream.try_clone().unwrap()), OwnedFd::from(stream));
            let git = git.arg(&root).stdin(ends.0).stdout(ends.1).stderr(Stdio::null()).status();
            assert!(git.is_ok(), "git daemon");
        }
    });
}

/// Answers one request with a file.
fn answer(mut stream: TcpStream, root: &Path) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(request)) = lines.next() else { return };
    let _ =
        lines.by_ref().take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).count();
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path: PathBuf =
        root.join(target.split('?').next().unwrap_or_default().trim_start_matches('/'));
    let (status, body) = match fs::read(path) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLast-Modified: Sun, 09 Sep 2001 01:46:40 GMT\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    if method != "HEAD" {
        let _ = stream.write_all(&body);
    }
}
