//! A server of replies: a thread for each connection, and a log of what was asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::message::{Asked, Length, Reply, Then};

/// The longest that a connection is held for a client that waits.
const HOLD: Duration = Duration::from_secs(60);

/// The most that is sent to one server's clients: more is what no test wants of them.
pub const FLOOD: u64 = 64 << 20;

/// Says what to answer.
pub type Answer = Box<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// Says how much of a request's body is taken before it is answered; all of it if nothing is said.
pub type Hunger = Box<dyn Fn(&Asked) -> Option<usize> + Send + Sync>;

/// What is done to a connection before anything is asked.
#[derive(Clone, Debug)]
pub enum Welcome {
    /// Requests are read.
    Serve,
    /// It is closed at once.
    Close,
    /// It is reset at once.
    Reset,
    /// It is told this, unasked, and closed.
    Say(Vec<u8>),
    /// It is kept and gets nothing.
    Hold,
}

/// How connections are met: the first has number 1.
pub type Meet = Box<dyn Fn(usize) -> Welcome + Send + Sync>;

/// A port at which nobody answers yet.
pub struct Port {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Port {
    /// Takes a port: `127.0.0.1:0` is any.
    pub fn take(at: &str) -> Port {
        let listener = TcpListener::bind(at).unwrap_or_else(|err| panic!("{at}: {err}"));
        let address = listener.local_addr().unwrap();
        Port { listener, address }
    }

    /// Begins to answer.
    pub fn serve(
        self,
        tls: Option<Arc<ServerConfig>>,
        meet: Meet,
        hunger: Hunger,
        answer: Answer,
    ) -> Server {
        let shared = Arc::new(Shared { tls, meet, hunger, answer, ..Shared::empty() });
        let of_listener = shared.clone();
        thread::spawn(move || {
            for stream in self.listener.incoming() {
                if of_listener.closed.load(SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = of_listener.clone();
                // A client that hangs up is what many tests are about.
                thread::spawn(move || {
                    let _ = shared.meet(stream);
                });
            }
        });
        Server { address: self.address, shared }
    }
}

/// A server, until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    tls: Option<Arc<ServerConfig>>,
    meet: Meet,
    hunger: Hunger,
    answer: Answer,
    log: Mutex<Vec<Asked>>,
    times: Mutex<HashMap<String, usize>>,
    connections: AtomicUsize,
    sent: AtomicU64,
    closed: AtomicBool,
}

impl Server {
    /// Returns what was asked until now.
    pub fn log(&self) -> Vec<Asked> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Returns how many connections there were.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// Returns how many bytes were sent.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, SeqCst);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)); // wakes the listener
    }
}

/// A connection, with TLS or without.
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Wire {
    fn tcp(&self) -> &TcpStream {
        match self {
            Wire::Plain(stream) => stream,
            Wire::Tls(stream) => stream.get_ref(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(buf),
            Wire::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}

impl Shared {
    fn empty() -> Shared {
        Shared {
            tls: None,
            meet: Box::new(|_| Welcome::Serve),
            hunger: Box::new(|_| None),
            answer: Box::new(|_| Reply::new(404, "")),
            log: Mutex::default(),
            times: Mutex::default(),
            connections: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    fn meet(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let nth = self.connections.fetch_add(1, SeqCst) + 1;
        match (self.meet)(nth) {
            Welcome::Serve => {}
            Welcome::Close => return stream.shutdown(Shutdown::Both),
            Welcome::Reset => return reset(&stream),
            Welcome::Hold => return hold(&stream),
            Welcome::Say(bytes) => {
                let mut wire = Wire::Plain(stream);
                self.send(&mut wire, &bytes)?;
                return close(&wire);
            }
        }
        let wire = match &self.tls {
            Some(config) => {
                let connection =
                    ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
                Wire::Tls(Box::new(StreamOwned::new(connection, stream)))
            }
            None => Wire::Plain(stream),
        };
        self.serve(wire)
    }

    fn serve(&self, wire: Wire) -> std::io::Result<()> {
        let mut reader = BufReader::new(wire);
        while let Some(asked) = self.read(&mut reader)? {
            let noted = Asked { bytes: Vec::new(), body: noted(&asked.body), ..asked.clone() };
            self.log.lock().unwrap().push(noted);
            let whole = asked.whole;
            let reply = (self.answer)(&asked);
            if !self.reply(reader.get_mut(), reply)? {
                return Ok(());
            }
            if !whole {
                return close(reader.get_ref());
            }
        }
        Ok(())
    }

    /// Reads a request; returns nothing if there is none.
    fn read(&self, reader: &mut BufReader<Wire>) -> std::io::Result<Option<Asked>> {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line)?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        let [method, target, "HTTP/1.1"] = words[..] else {
            // A client that wants TLS, or asks whether there is, sends a line of noise.
            if !line.is_empty() {
                self.send(reader.get_mut(), b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
                close(reader.get_mut())?;
            }
            return Ok(None);
        };
        let mut asked = Asked { method: method.into(), target: target.into(), ..Asked::default() };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            asked.headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        {
            let mut times = self.times.lock().unwrap();
            let nth = times.entry(format!("{method} {target}")).or_default();
            *nth += 1;
            asked.nth = *nth;
        }
        let length = asked.header("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
        let taken = (self.hunger)(&asked).unwrap_or(length).min(length);
        reader.take(taken as u64).read_to_end(&mut asked.bytes)?;
        asked.body = String::from_utf8_lossy(&asked.bytes).into_owned();
        // What was not taken would be read as the next request.
        asked.whole = asked.bytes.len() == length;
        Ok(Some(asked))
    }

    /// Sends a reply, and returns whether the connection is to be read from again.
    fn reply(&self, wire: &mut Wire, reply: Reply) -> std::io::Result<bool> {
        thread::sleep(reply.wait);
        match &reply.raw {
            Some(bytes) => self.send(wire, bytes)?,
            None => {
                self.send(wire, &reply.head())?;
                self.body(wire, &reply)?;
            }
        }
        match reply.then {
            Then::Next => return Ok(true),
            Then::Close => close(wire)?,
            Then::Reset => reset(wire.tcp())?,
            Then::Hold => hold(wire.tcp())?,
            Then::Flood(bytes) => {
                // Every try sends its own: the limit is for all of them.
                while self.sent.load(SeqCst) < FLOOD {
                    self.send(wire, &bytes)?;
                }
            }
            Then::Tunnel(address) => self.tunnel(wire, &address)?,
        }
        Ok(false)
    }

    fn body(&self, wire: &mut Wire, reply: &Reply) -> std::io::Result<()> {
        let body = &reply.body[..reply.cut.unwrap_or(usize::MAX).min(reply.body.len())];
        let (piece, rest) = reply.pace.unwrap_or((64 << 10, Duration::ZERO));
        let chunked = matches!(reply.length, Length::Chunked);
        for piece in body.chunks(piece) {
            match chunked {
                true => {
                    let framed =
                        [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                    self.send(wire, &framed)?;
                }
                false => self.send(wire, piece)?,
            }
            thread::sleep(rest);
        }
        match chunked && reply.cut.is_none() && !matches!(reply.then, Then::Flood(_)) {
            true => self.send(wire, b"0\r\n\r\n"),
            false => Ok(()),
        }
    }

    fn send(&self, wire: &mut Wire, bytes: &[u8]) -> std::io::Result<()> {
        wire.write_all(bytes)?;
        wire.flush()?;
        self.sent.fetch_add(bytes.len() as u64, SeqCst);
        Ok(())
    }

    fn tunnel(&self, wire: &Wire, address: &str) -> std::io::Result<()> {
        let (near, far) = (wire.tcp(), TcpStream::connect(address)?);
        let carry = |mut from: TcpStream, to: TcpStream| {
            let _ = std::io::copy(&mut from, &mut &to);
            let _ = to.shutdown(Shutdown::Write);
        };
        let (up, down) = (near.try_clone()?, far.try_clone()?);
        let (far_up, near_down) = (far, near.try_clone()?);
        thread::scope(|scope| {
            scope.spawn(move || carry(up, far_up));
            carry(down, near_down);
        });
        Ok(())
    }
}

/// The longest body that is kept in the log: a blob is not looked for in it.
const NOTED: usize = 64 << 10;

fn noted(body: &str) -> String {
    if body.len() > NOTED { String::new() } else { body.to_owned() }
}

/// Ends a connection so that the client can read all that was sent. TLS says no farewell.
fn close(wire: &Wire) -> std::io::Result<()> {
    wire.tcp().shutdown(Shutdown::Write)?;
    drain(wire.tcp(), Duration::from_secs(1))
}

/// Ends a connection so that the client gets ECONNRESET: socket(7), SO_LINGER.
fn reset(stream: &TcpStream) -> std::io::Result<()> {
    // What the client has not read yet would be lost to it. It is to get that far.
    thread::sleep(Duration::from_millis(20));
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, sockopt::Linger, &at_once)?;
    Ok(()) // the caller drops the stream
}

/// Keeps a connection until the client ends it.
fn hold(stream: &TcpStream) -> std::io::Result<()> {
    drain(stream, HOLD)
}

fn drain(mut stream: &TcpStream, patience: Duration) -> std::io::Result<()> {
    let start = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut buf = [0; 4096];
    while start.elapsed() < patience {
        match stream.read(&mut buf) {
            Ok(0) => break,
            Ok(_) => {}
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}
