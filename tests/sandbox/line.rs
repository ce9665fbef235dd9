//! A line to a registry that is slow, can be cut, and counts what comes through it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// A line that is there until it is dropped.
pub struct Line {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Bytes a second for each connection, in the direction that counts; 0 is as fast as it goes.
    speed: AtomicU64,
    received: AtomicU64,
    closed: AtomicBool,
    cuts: AtomicU64,
}

impl Line {
    /// Opens a line to `registry`, a host and port, with this many bytes a second from there to us.
    pub fn to(registry: &str, speed: u64) -> Line {
        Line::open(registry, speed, false)
    }

    /// Opens a line with this many bytes a second from us to `registry`; those are counted as received.
    pub fn up(registry: &str, speed: u64) -> Line {
        Line::open(registry, speed, true)
    }

    fn open(registry: &str, speed: u64, upwards: bool) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { speed: speed.into(), ..State::default() });
        let registry: SocketAddr = registry.parse().unwrap();
        let of_listener = state.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if of_listener.closed.load(Relaxed) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(registry)) else {
                    continue;
                };
                let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (counted, other) = match upwards {
                    true => ((up, server), (down, client)),
                    false => ((down, client), (up, server)),
                };
                thread::spawn(move || carry(other.0, other.1, &State::default()));
                let state = of_listener.clone();
                thread::spawn(move || carry(counted.0, counted.1, &state));
            }
        });
        Line { address, state }
    }

    /// Returns the host and port of the near end.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns how many bytes have come, in the direction that counts.
    pub fn received(&self) -> u64 {
        self.state.received.load(Relaxed)
    }

    /// Makes the line as fast as it goes.
    pub fn hurry(&self) {
        self.state.speed.store(0, Relaxed);
    }

    /// Breaks the connections that there are.
    pub fn cut(&self) {
        self.state.cuts.fetch_add(1, Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.state.closed.store(true, Relaxed);
        let _ = TcpStream::connect(self.address); // wakes the listener
    }
}

/// Carries what `from` says to `to`, no faster than the line is.
fn carry(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let cuts = state.cuts.load(Relaxed);
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let start = Instant::now();
        let cut = state.closed.load(Relaxed) || state.cuts.load(Relaxed) != cuts;
        if cut || to.write_all(&buffer[..n]).is_err() {
            break;
        }
        state.received.fetch_add(n as u64, Relaxed);
        let speed = state.speed.load(Relaxed);
        if speed > 0 {
            let due = Duration::from_secs_f64(n as f64 / speed as f64);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
