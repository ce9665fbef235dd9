//! The body of an answer: bytes, or a file that is read as the client takes it.
//!
//! One piece is read ahead while another is sent, so a client that takes its
//! time costs two pieces of memory, whatever the blob's size.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::answer::Content;
use crate::crowd::Busy;

/// How much of a file is read at a time.
const PIECE: u64 = 64 << 10;

/// A body on its way out. As long as there is one, its connection is busy.
pub struct Body {
    content: Sending,
    _busy: Busy,
}

enum Sending {
    Bytes(Option<Bytes>),
    File { left: u64, at: u64, next: Option<JoinHandle<io::Result<(File, Bytes)>>> },
}

impl Body {
    pub fn new(content: Content, busy: Busy) -> Body {
        let content = match content {
            Content::Bytes(bytes) => Sending::Bytes(Some(bytes).filter(|bytes| !bytes.is_empty())),
            Content::File { file, start, len } => {
                Sending::File { left: len, at: start, next: read(file, start, len) }
            }
        };
        Body { content, _busy: busy }
    }
}

/// Begins to read the next piece, if there is one.
fn read(file: File, at: u64, left: u64) -> Option<JoinHandle<io::Result<(File, Bytes)>>> {
    let len = left.min(PIECE) as usize;
    (len > 0).then(|| {
        spawn_blocking(move || {
            let mut piece = vec![0; len];
            // A file that has become shorter ends the connection: what was announced does not come.
            file.read_exact_at(&mut piece, at)?;
            Ok((file, piece.into()))
        })
    })
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.get_mut().content {
            Sending::Bytes(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Sending::File { left, at, next } => {
                let Some(reading) = next else { return Poll::Ready(None) };
                let done = ready!(Pin::new(reading).poll(cx)).unwrap_or_else(|err| Err(err.into()));
                *next = None;
                let (file, piece) = match done {
                    Ok(done) => done,
                    Err(err) => return Poll::Ready(Some(Err(err))),
                };
                *left -= piece.len() as u64;
                *at += piece.len() as u64;
                *next = read(file, *at, *left);
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Sending::Bytes(bytes) => bytes.is_none(),
            Sending::File { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.content {
            Sending::Bytes(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Sending::File { left, .. } => *left,
        })
    }
}
