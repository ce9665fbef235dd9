//! A server under test, and a client that sends exactly what it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox::Sandbox;
use serde_json::Value;

/// How long an answer may take. Only what hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// An img-serve that runs until it is dropped.
pub struct Server {
    child: Child,
    pub address: String,
}

impl Server {
    /// Starts `img-serve` with these arguments on a port that the kernel picks.
    pub fn start(t: &Sandbox, args: &str) -> Server {
        Server::started_by(t.command(&format!("exec img-serve --listen 127.0.0.1:0 {args}")))
    }

    /// Starts what prints the address where it listens.
    pub fn started_by(mut command: Command) -> Server {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = String::new();
        // To its end: the server closes its standard output after the line.
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        if out.is_empty() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("img-serve: {:?}: {said}", child.wait().unwrap());
        }
        Server { child, address: out.trim_end().to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a request with these headers, a line each, and returns the answer.
    pub fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        if !body.is_empty() || ["POST", "PUT", "PATCH"].contains(&method) {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        headers.iter().for_each(|header| head += &format!("{header}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        Answer::read(stream)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    pub fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, &[], b"")
    }

    /// Sends a row of a table: `METHOD PATH`, without a body; returns `STATUS` or `STATUS CODE`.
    pub fn says(&self, request: &str) -> String {
        let (method, path) = request.split_once(' ').unwrap();
        self.send(method, path, &[], b"").says()
    }

    /// Pushes a blob in one piece.
    pub fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = format!("sha256:{}", sandbox::image::sha256(bytes));
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let answer = self.send("POST", &path, &[], bytes);
        assert_eq!(answer.says(), "201", "{path}");
        digest
    }

    /// Pushes a manifest.
    pub fn push_manifest(&self, repository: &str, reference: &str, manifest: &Value) -> Answer {
        let media_type = format!("Content-Type: {}", manifest["mediaType"].as_str().unwrap());
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.send("PUT", &path, &[&media_type], manifest.to_string().as_bytes())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for its end; returns its status as a shell has it, and what it said.
    pub fn ended(mut self) -> (i32, String) {
        let mut said = String::new();
        BufReader::new(self.child.stderr.take().unwrap()).read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        (status.code().or(status.signal().map(|signal| 128 + signal)).unwrap(), said)
    }

    /// Ends it; returns what it said.
    pub fn stop(self) -> String {
        self.signal(Signal::SIGTERM);
        let (status, said) = self.ended();
        assert_eq!(status, 143, "{said}");
        said
    }

    /// Returns how much memory it has had at most, in bytes.
    pub fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The second signal ends it at once, and what it was writing with it.
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
        }
        for _ in 0..1000 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads an answer to the end of its connection, and checks that it is as long as it says.
    pub fn read(stream: TcpStream) -> Answer {
        let mut stream = BufReader::new(stream);
        let mut answer = Answer::read_head(&mut stream);
        stream.read_to_end(&mut answer.body).unwrap();
        let announced = answer.header("content-length").map(|n| n.parse::<usize>().unwrap());
        let empty = answer.body.is_empty(); // the answer to a HEAD
        assert!(
            empty || announced == Some(answer.body.len()),
            "{announced:?} {}",
            answer.body.len()
        );
        answer
    }

    /// Reads the status and the headers.
    pub fn read_head(stream: &mut impl BufRead) -> Answer {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            assert!(line.ends_with("\r\n"), "the answer ends in its head: {lines:?} {line:?}");
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &String| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_lowercase(), value.trim().to_owned())
        };
        Answer { status, headers: lines[1..].iter().map(header).collect(), body: Vec::new() }
    }

    /// Returns a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Returns the status, and the code if it is an error.
    pub fn says(&self) -> String {
        match self.json()["errors"][0]["code"].as_str() {
            Some(code) => format!("{} {code}", self.status),
            None => self.status.to_string(),
        }
    }

    /// Returns where an upload goes on.
    pub fn location(&self) -> String {
        self.header("location").unwrap().to_owned()
    }
}
