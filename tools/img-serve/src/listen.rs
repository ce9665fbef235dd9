//! Connections: accepted, counted, encrypted, given up, and ended.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tokio_rustls::TlsAcceptor;

use crate::crowd::{Crowd, Guest};
use crate::patient::Patient;
use crate::site::Site;
use crate::stop::Stop;
use crate::uploads::Uploads;

/// The most connections, and the most uploads.
const CONNECTIONS: usize = 512;
const UPLOADS: usize = 256;
/// How many are told at a time that there is no place.
const TURNED_AWAY: usize = 16;
/// File descriptors for all else.
const OTHERS: usize = 64;
/// The most bytes of a request's line and headers.
const HEADERS: usize = 64 << 10;

/// How many connections and uploads there may be.
pub struct Limits {
    pub connections: usize,
    pub uploads: usize,
}

impl Limits {
    /// Returns what goes with the files that this process may open: a connection needs two, an upload one.
    pub fn of_this_process() -> Limits {
        let limit = getrlimit(Resource::Nofile);
        let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // As many as there may be; if that fails, it is the old limit that counts.
        let files = match setrlimit(Resource::Nofile, wanted) {
            Ok(()) => limit.maximum,
            Err(_) => limit.current,
        };
        let files = files.map_or(usize::MAX, |files| files as usize).saturating_sub(OTHERS);
        let connections = (files / 3).clamp(1, CONNECTIONS);
        Limits { connections, uploads: (files / 3).clamp(1, UPLOADS) }
    }
}

/// Serves until it is told to stop, and what runs then is done.
pub async fn serve(
    listener: TcpListener,
    site: Arc<Site>,
    tls: Option<TlsAcceptor>,
    connections: usize,
    mut stop: watch::Receiver<Stop>,
) -> Result<()> {
    let crowd = Crowd::new(connections);
    let told = stop.clone();
    let mut running = JoinSet::new();
    let mut id = 0;
    let mut rounds = interval(site.uploads().map_or(Duration::from_secs(60), Uploads::pause));
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop >= Stop::Soon) => break,
            Some(_) = running.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    id += 1;
                    match crowd.enter(id) {
                        Some(guest) => {
                            let connection = Connection {
                                peer, guest, site: site.clone(), stop: told.clone(),
                            };
                            running.spawn(connection.run(stream, tls.clone()));
                        }
                        None if tls.is_none() && running.len() < connections + TURNED_AWAY => {
                            drop(running.spawn(turn_away(stream)));
                        }
                        None => {}
                    }
                }
                // A connection that ended in the queue, or no file descriptors.
                Err(_) => sleep(Duration::from_millis(20)).await,
            },
            _ = rounds.tick() => site.expire(Instant::now()),
        }
    }
    drop(listener);
    tokio::select! {
        _ = stop.wait_for(|stop| *stop == Stop::Now) => running.abort_all(),
        () = async { while running.join_next().await.is_some() {} } => {}
    }
    Ok(())
}

/// Says that there is no place, as far as that takes no time.
async fn turn_away(stream: TcpStream) {
    let body =
        r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"too many connections at a time"}]}"#;
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = Patient::new(stream, Duration::from_secs(1));
    if stream.write_all(answer.as_bytes()).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

struct Connection {
    peer: SocketAddr,
    guest: Guest,
    site: Arc<Site>,
    stop: watch::Receiver<Stop>,
}

impl Connection {
    async fn run(mut self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, self.site.stall());
        let Some(tls) = tls else { return self.http(stream).await };
        let accepted = tokio::select! {
            accepted = tls.accept(stream) => accepted.ok(),
            () = sleep(self.site.stall()) => None,
            () = self.guest.asked_to_leave() => None,
            _ = self.stop.wait_for(|stop| *stop >= Stop::Soon) => None,
        };
        if let Some(stream) = accepted {
            self.http(stream).await;
        }
    }

    async fn http(mut self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request: Request<Incoming>| {
            let answer = self.site.clone().handle(request, self.peer, self.guest.busy());
            async { Ok::<_, Infallible>(answer.await) }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.site.stall())
                .max_header_size(HEADERS)
                .max_buf_size(HEADERS)
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut stopping = false;
        loop {
            tokio::select! {
                _ = connection.as_mut() => break,
                () = self.guest.asked_to_leave() => break,
                _ = self.stop.wait_for(|stop| *stop >= Stop::Soon), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                // Nobody is answered any more: whoever begins to ask now, or leaves the end unread, is left.
                () = sleep(Duration::from_millis(200)), if stopping => {
                    if self.guest.is_idle() {
                        break;
                    }
                }
            }
        }
    }
}
