//! A tar in a file or a pipe, whose data the kernel copies on request: copy_file_range(2), splice(2).

use std::fs::File;
use std::io::{self, Chain, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};

use anyhow::{Result, bail};
use rustix::fs::copy_file_range;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};

use super::stream::{BLOCK, Buffer, Reader, Source};

/// How much the kernel copies before somebody may look at it, while it still is in the processor's cache.
const PIECE: u64 = 1 << 20;
/// What a pipe can hold for everybody: /proc/sys/fs/pipe-max-size, unless that was changed.
const PIPE: usize = 1 << 20;

/// What a tar comes from.
pub struct Tar {
    reader: Reader<Chain<Cursor<Vec<u8>>, File>>,
    how: How,
}

/// How the kernel gets at the data.
#[derive(Clone, Copy, PartialEq)]
enum How {
    /// It is in a file of so many bytes.
    File(u64),
    /// It comes through a pipe.
    Pipe,
    /// Not at all.
    Not,
}

impl Tar {
    /// Takes a file, from where it is read next, or a pipe.
    pub fn new(mut file: File) -> io::Result<Tar> {
        let metadata = file.metadata()?;
        let mut start = Vec::new();
        let how = if metadata.is_file() {
            How::File(metadata.len())
        } else {
            file.by_ref().take(BLOCK as u64).read_to_end(&mut start)?;
            match metadata.file_type().is_fifo() {
                true => {
                    // It is faster; one that stays small will do.
                    let _ = fcntl_setpipe_size(&file, PIPE);
                    How::Pipe
                }
                false => How::Not,
            }
        };
        Ok(Tar { reader: Reader(Cursor::new(start).chain(file)), how })
    }

    /// Returns how it begins: as much of the first block as there is.
    pub fn start(&mut self) -> io::Result<Vec<u8>> {
        let (start, file) = self.reader.0.get_ref();
        if !matches!(self.how, How::File(_)) {
            return Ok(start.get_ref().clone());
        }
        let (mut start, mut len) = (vec![0; BLOCK], 0);
        let at = (&*file).stream_position()?;
        while len < BLOCK {
            match file.read_at(&mut start[len..], at + len as u64) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        start.truncate(len);
        Ok(start)
    }

    /// Copies some of the next bytes.
    fn copy(&self, to: &File, mut at: u64, count: u64) -> Result<usize, Errno> {
        let (_, file) = self.reader.0.get_ref();
        let count = count.min(PIECE) as usize;
        match self.how {
            How::File(_) => copy_file_range(file, None, to, Some(&mut at), count),
            How::Pipe => splice(file, None, to, Some(&mut at), count, SpliceFlags::empty()),
            How::Not => Err(Errno::INVAL),
        }
    }
}

impl Read for Tar {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader.0.read(buf)
    }
}

impl Source for Tar {
    fn next(&mut self, used: Buffer) -> Result<Buffer> {
        self.reader.next(used)
    }

    fn transfer(&mut self, to: &File, at: u64, count: u64) -> Result<u64> {
        let (start, _) = self.reader.0.get_ref();
        if self.how == How::Not || start.position() < start.get_ref().len() as u64 {
            return Ok(0);
        }
        let mut done = 0u64;
        // A pipe may hold a part of a block, and headers are read in whole ones.
        while done == 0 || !done.is_multiple_of(BLOCK as u64) {
            match self.copy(to, at + done, count - done) {
                Ok(0) => bail!("truncated tar"),
                Ok(n) => done += n as u64,
                Err(Errno::INTR) => {}
                Err(err) if done == 0 && unable(err) => {
                    self.how = How::Not;
                    return Ok(0);
                }
                Err(err) => return Err(err.into()),
            }
        }
        Ok(done)
    }

    fn pass(&mut self, count: u64) -> Result<u64> {
        let How::File(end) = self.how else { return Ok(0) };
        let (_, file) = self.reader.0.get_ref();
        let mut file: &File = file;
        let at = file.stream_position()?;
        let count = count.min(end.saturating_sub(at));
        let count = count - count % BLOCK as u64;
        file.seek(SeekFrom::Start(at + count))?;
        Ok(count)
    }
}

/// Returns whether the kernel says that these two files are not for it to copy between.
pub fn unable(err: Errno) -> bool {
    // EPERM is what some sandboxes say to a call that they do not know; EBADF, of a file that is only appended to.
    let unable =
        [Errno::XDEV, Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM, Errno::BADF];
    unable.contains(&err)
}
