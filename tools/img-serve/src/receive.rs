//! The body of a request: a piece of a blob on its way to the disk, or a manifest.
//!
//! What comes is written while more is read, a batch at a time, so an upload
//! costs two batches of memory. A client that says nothing for too long is given
//! up; what it has sent stays, and it can go on from there.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use bytes::Bytes;
use common::layout::NewBlob;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::answer::{Code, Problem, error_as, refuse};
use crate::uploads::Upload;

/// The most bytes of a document for which there is always room.
const SMALL: usize = 32 << 10;

/// How much is written at a time.
const BATCH: usize = 256 << 10;

/// Returns the next piece of a body, or nothing at its end.
async fn piece(body: &mut Incoming, stall: Duration) -> Result<Option<Bytes>, Problem> {
    loop {
        let frame = match timeout(stall, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => frame,
            // Nobody is there to read this answer.
            Ok(Some(Err(_))) => return refuse(Code::BlobUploadInvalid, "the body was cut off"),
            Err(_) => {
                let (status, code) = (StatusCode::REQUEST_TIMEOUT, Code::BlobUploadInvalid);
                return Err(Problem::from(error_as(status, code, "the body does not come")));
            }
        };
        // Trailers mean nothing here.
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
}

/// Reads a whole body of at most `limit` bytes, or returns nothing if it has more.
///
/// A large one waits for `room`, which it has until it is dropped, and must come within four times
/// `stall`: nobody who speaks slowly keeps the others out.
pub async fn document<'a>(
    mut body: Incoming,
    limit: usize,
    stall: Duration,
    room: &'a Semaphore,
) -> Result<Option<(Vec<u8>, Option<SemaphorePermit<'a>>)>, Problem> {
    let (mut bytes, mut place, mut end) = (Vec::new(), None, None);
    loop {
        let left = end.map_or(stall, |end: Instant| stall.min(end - Instant::now()));
        let Some(piece) = piece(&mut body, left).await? else { return Ok(Some((bytes, place))) };
        if bytes.len() + piece.len() > limit {
            return Ok(None);
        }
        if place.is_none() && bytes.len() + piece.len() > SMALL {
            place = Some(room.acquire().await.map_err(|err| anyhow!(err))?);
            end = Some(Instant::now() + 4 * stall);
        }
        bytes.extend_from_slice(&piece);
    }
}

/// Adds a body to an upload. With `expected`, it must have so many bytes.
///
/// After an error of the client's, what came before it is in the upload. After one of ours the
/// upload has ended, and its file is gone.
pub async fn chunk(
    upload: &Upload,
    slot: &mut Option<NewBlob<'static>>,
    mut body: Incoming,
    expected: Option<u64>,
    stall: Duration,
) -> Result<(), Problem> {
    let Some(blob) = slot.take() else {
        return refuse(Code::BlobUploadUnknown, "no such upload");
    };
    let mut writer = Writer::Idle(blob);
    let mut left = expected;
    let ended = loop {
        let batch = batch(&mut body, &mut left, stall).await;
        let (pieces, ended) = batch;
        writer = match writer.write(upload, pieces).await {
            Ok(writer) => writer,
            Err(err) => return Err(err),
        };
        if let Some(ended) = ended {
            break ended;
        }
    };
    *slot = Some(writer.finish(upload).await?);
    ended?;
    match left {
        Some(1..) => refuse(Code::SizeInvalid, "the body is shorter than its Content-Range"),
        _ => Ok(()),
    }
}

/// Reads a batch; also returns how the body ended, if it did.
async fn batch(
    body: &mut Incoming,
    left: &mut Option<u64>,
    stall: Duration,
) -> (Vec<Bytes>, Option<Result<(), Problem>>) {
    let (mut pieces, mut size) = (Vec::new(), 0);
    while size < BATCH {
        let piece = match piece(body, stall).await {
            Ok(Some(piece)) => piece,
            Ok(None) => return (pieces, Some(Ok(()))),
            Err(err) => return (pieces, Some(Err(err))),
        };
        if let Some(left) = left {
            let Some(rest) = left.checked_sub(piece.len() as u64) else {
                let message = "the body is longer than its Content-Range";
                return (pieces, Some(refuse(Code::SizeInvalid, message)));
            };
            *left = rest;
        }
        size += piece.len();
        pieces.push(piece);
    }
    (pieces, None)
}

/// A blob, or the thread that writes to it.
enum Writer {
    Idle(NewBlob<'static>),
    Busy(JoinHandle<io::Result<(NewBlob<'static>, u64)>>),
}

impl Writer {
    /// Begins to write, once what was written before is done.
    async fn write(self, upload: &Upload, pieces: Vec<Bytes>) -> Result<Writer, Problem> {
        let mut blob = self.finish(upload).await?;
        if pieces.is_empty() {
            return Ok(Writer::Idle(blob));
        }
        Ok(Writer::Busy(spawn_blocking(move || {
            let mut size = 0;
            for piece in pieces {
                blob.write_all(&piece)?;
                size += piece.len() as u64;
            }
            Ok((blob, size))
        })))
    }

    async fn finish(self, upload: &Upload) -> Result<NewBlob<'static>, Problem> {
        match self {
            Writer::Idle(blob) => Ok(blob),
            Writer::Busy(writing) => {
                let (blob, size) = writing.await.map_err(|err| anyhow!(err))??;
                upload.add(size);
                Ok(blob)
            }
        }
    }
}
