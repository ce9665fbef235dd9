//! A connection that waits for its peer, but not for ever.
//!
//! A write that gets nowhere for too long is an error: so ends a client that asks
//! for a blob and does not take it. When we close, what the client still sends is
//! thrown away for a while: the kernel would answer it with a reset, and that would
//! make the client forget the answer it has not read yet (RFC 9112, section 9.6).

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// How many bytes are thrown away at the end: what somebody sends who pushes a layer as a manifest.
const LEFTOVER: usize = 256 << 20;

pub struct Patient {
    stream: TcpStream,
    stall: Duration,
    /// Runs while a write, or the end, waits for the peer.
    timer: Option<Pin<Box<Sleep>>>,
    ending: Option<usize>,
}

impl Patient {
    pub fn new(stream: TcpStream, stall: Duration) -> Patient {
        Patient { stream, stall, timer: None, ending: None }
    }

    /// Fails if nothing has happened for too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.stall)));
        timer.as_mut().poll(cx).map(|()| ErrorKind::TimedOut.into())
    }

    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match done {
            Poll::Ready(done) => {
                self.timer = None;
                Poll::Ready(done)
            }
            Poll::Pending => self.wait(cx).map(Err),
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, done)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.written(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(cx, done)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ending.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.timer = None;
        }
        let mut scratch = [0; 16 << 10];
        loop {
            let thrown = *this.ending.get_or_insert(0);
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && thrown < LEFTOVER => {
                    this.ending = Some(thrown + buffer.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                // One patience for all of it: whoever trickles is not waited for.
                Poll::Pending => return this.wait(cx).map(|_| Ok(())),
            }
        }
    }
}
