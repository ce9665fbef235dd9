//! A blob on its way: read in order, and taken up again where it broke off.
//!
//! The blob's name is the digest of its bytes, so a second connection continues
//! the first: by Range where the server can, else by skipping what is here
//! already. Whether the whole is right is for whoever hashes it; that no more than
//! the declared size is read is ours.

use std::io::{self, Read};

use anyhow::{Result, bail, ensure};

use crate::digest::Digest;
use crate::error::find;
use crate::registry::failure::Failure;
use crate::registry::http::{FEWEST, Response};
use crate::registry::{Refused, Registry, Tries, encoded, refusal};

/// The most connections for one blob, even if each brings something.
const CONNECTIONS: u32 = 1000;

/// Reads a blob of a registry.
pub struct Blob<'a> {
    registry: &'a Registry<'a>,
    path: &'a str,
    digest: Digest,
    size: u64,
    /// How far the reader is.
    at: u64,
    response: Option<Response>,
    /// Bytes of the response that come before `at`.
    skip: u64,
    /// The server can begin in the middle, as far as we know.
    ranges: bool,
    connections: u32,
    /// How much came since something failed.
    gained: u64,
    tries: Tries<'a>,
}

impl<'a> Blob<'a> {
    pub(super) fn new(
        registry: &'a Registry<'a>,
        path: &'a str,
        digest: &Digest,
        size: u64,
        offset: u64,
    ) -> Blob<'a> {
        Blob {
            registry,
            path,
            digest: *digest,
            size,
            at: offset.min(size),
            response: None,
            skip: 0,
            ranges: true,
            connections: 0,
            gained: 0,
            tries: Tries::new(registry.options),
        }
    }

    /// Reads into `buf` and returns how much; 0 is the end of the blob.
    pub fn next(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            match self.step(buf) {
                Ok(Some(n)) => return Ok(n),
                Ok(None) => {}
                Err(err) => {
                    self.response = None;
                    self.gained = 0;
                    self.tries.wait(err.context(format!("blob {}", self.digest)))?;
                }
            }
        }
    }

    fn step(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        let left = self.size - self.at;
        if left == 0 {
            // One byte more, and the blob is not what its descriptor says.
            if let Some(mut response) = self.response.take() {
                ensure!(
                    response.read(&mut [0])? == 0,
                    "longer than the {} bytes that its descriptor says",
                    self.size
                );
            }
            return Ok(Some(0));
        }
        let Some(response) = &mut self.response else {
            self.response = Some(self.open()?);
            return Ok(None);
        };
        let wanted = if self.skip > 0 { self.skip } else { left };
        let room = buf.len().min(wanted.try_into().unwrap_or(usize::MAX));
        let n = response.read(&mut buf[..room])?;
        if n == 0 {
            // Its head promised more, or did not say; either way it broke off.
            return Err(Failure::broken("it ends early".into()).into());
        }
        if self.skip > 0 {
            self.skip -= n as u64;
            return Ok(None);
        }
        self.at += n as u64;
        self.gained += n as u64;
        // It got further: what broke off is another matter than what never comes.
        if self.gained >= FEWEST {
            self.tries.failed = 0;
        }
        Ok(Some(n))
    }

    fn open(&mut self) -> Result<Response> {
        self.connections += 1;
        ensure!(self.connections <= CONNECTIONS, "it broke off {CONNECTIONS} times");
        let from = (self.ranges && self.at > 0).then_some(self.at);
        let url = self.registry.base()?.join(&format!("v2/{}/blobs/{}", self.path, self.digest))?;
        let mut response = self.registry.get(self.path, &url, "*/*", from)?;
        match (response.status(), from) {
            (206, Some(from)) if self.continues(&response, from) => {
                self.skip = 0;
                Ok(response)
            }
            // It cannot begin in the middle, or lies about where it does: from the start, then.
            (206 | 416, Some(_)) => {
                self.ranges = false;
                self.open()
            }
            (200, _) => {
                if let Some(length) = response.length()
                    && length != self.size
                {
                    // What only says that it is packed, as some stores do, has the right length.
                    encoded(&response)?;
                    bail!("the registry has {length} bytes, the descriptor says {}", self.size);
                }
                self.skip = self.at;
                Ok(response)
            }
            _ => Err(refusal(&mut response).into()),
        }
    }

    /// Returns whether a 206 is the rest of the blob: `Content-Range: bytes 10-99/100`.
    fn continues(&self, response: &Response, from: u64) -> bool {
        let Some(range) = response.header("content-range").and_then(parse_range) else {
            return false;
        };
        let expected = (from, self.size - 1);
        (range.0, range.1) == expected
            && range.2.is_none_or(|total| total == self.size)
            && response.length().is_none_or(|length| length == self.size - from)
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.next(buf).map_err(io::Error::other)
    }
}

/// Returns whether an error of a blob is that the registry does not have it.
pub fn is_missing(err: &anyhow::Error) -> bool {
    find::<Refused>(err).is_some_and(|refused| refused.status == 404)
}

/// Reads first byte, last byte and total: RFC 9110, section 14.4.
fn parse_range(header: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((first.parse().ok()?, last.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn a_content_range_is_read_whole_or_not() {
        assert_eq!(parse_range("bytes 10-99/100"), Some((10, 99, Some(100))));
        assert_eq!(parse_range("bytes 10-99/*"), Some((10, 99, None)));
        for bad in
            ["", "bytes", "bytes 10-99", "bytes */100", "10-99/100", "bytes a-9/10", "bytes 1-2/x"]
        {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
