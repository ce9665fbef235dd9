//! A registry for tests: as much HTTP as it takes, and every fault on demand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::Options;
use crate::credentials::Files;

/// What a test asks with.
pub fn options() -> Options {
    Options {
        verify: true,
        credentials: Some("user:hunter2".parse().unwrap()),
        files: Files::none(),
        certs: Vec::new(),
        retries: 3,
        stall: Duration::from_secs(10),
        backoff: Duration::from_millis(4),
        notice: None,
    }
}

/// A server on a port of its own. It lives as long as the test program.
pub struct Server {
    pub domain: String,
    log: Arc<Mutex<Vec<Asked>>>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What to answer.
#[derive(Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close after so many bytes of the body.
    pub cut: Option<usize>,
    /// Be silent before the head, or after the body's first half.
    pub silence: Option<(bool, Duration)>,
    /// Repeat the body for ever.
    pub endless: bool,
    pub chunked: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, body: body.into(), ..Reply::default() }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn cut(self, after: usize) -> Reply {
        Reply { cut: Some(after), ..self }
    }

    pub fn silent_before(self, time: Duration) -> Reply {
        Reply { silence: Some((true, time)), ..self }
    }

    pub fn silent_within(self, time: Duration) -> Reply {
        Reply { silence: Some((false, time)), ..self }
    }

    pub fn endless(self) -> Reply {
        Reply { endless: true, chunked: true, ..self }
    }

    pub fn chunked(self) -> Reply {
        Reply { chunked: true, ..self }
    }
}

impl Server {
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let domain = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let shared = log.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer) = (shared.clone(), answer.clone());
                // A peer that hangs up is what some tests are about.
                thread::spawn(move || serve(stream?, &log, &*answer));
            }
        });
        Server { domain, log }
    }

    /// Returns what was asked until now.
    pub fn log(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    /// Returns the paths that were asked for, and whether credentials came along.
    pub fn paths(&self) -> Vec<String> {
        let shown = |asked: &Asked| match asked.header("authorization") {
            Some(secret) => format!("{} {}", asked.path, secret.split(' ').next().unwrap()),
            None => asked.path.clone(),
        };
        self.log().iter().map(shown).collect()
    }
}

fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    answer: &dyn Fn(&Asked) -> Reply,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        // A client that asks whether we speak TLS sends a line of noise.
        let [method, path, "HTTP/1.1"] = words[..] else { return Ok(()) };
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim().split_once(':') {
                Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
                None => break,
            }
        }
        let mut asked =
            Asked { method: method.into(), path: path.into(), headers, body: String::new() };
        let length = asked.header("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        asked.body = String::from_utf8_lossy(&body).into_owned();
        log.lock().unwrap().push(asked.clone());
        if !reply(&mut stream, answer(&asked), asked.method == "HEAD")? {
            return stream.shutdown(Shutdown::Both);
        }
    }
}

fn reply(stream: &mut TcpStream, reply: Reply, bodiless: bool) -> std::io::Result<bool> {
    if let Some((true, time)) = reply.silence {
        thread::sleep(time);
    }
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    if reply.chunked {
        head += "transfer-encoding: chunked\r\n";
    } else {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    if bodiless {
        return Ok(true);
    }
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
    let (first, second) = body.split_at(body.len() / 2);
    for part in [first, second] {
        if reply.chunked && !part.is_empty() {
            write!(stream, "{:x}\r\n", part.len())?;
        }
        stream.write_all(part)?;
        if reply.chunked && !part.is_empty() {
            stream.write_all(b"\r\n")?;
        }
        if let Some((false, time)) = reply.silence {
            thread::sleep(time);
        }
    }
    if reply.endless {
        loop {
            write!(stream, "{:x}\r\n", body.len())?;
            stream.write_all(body)?;
            stream.write_all(b"\r\n")?;
        }
    }
    if reply.chunked && reply.cut.is_none() {
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(reply.cut.is_none())
}
