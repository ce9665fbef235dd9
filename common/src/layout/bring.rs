//! An image from one layout into another.

use std::io::{Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result};
use oci_spec::image::Descriptor;

use super::{Layout, Resolved, Writing};
use crate::image;

const BUFFER: usize = 256 << 10;

impl Writing<'_> {
    /// Adds the blobs of an image that another layout has, all verified; it gets no name yet.
    pub fn bring(&self, from: &Layout, image: &Resolved) -> Result<()> {
        image.manifest.layers().iter().try_for_each(|desc| self.bring_blob(from, desc))?;
        for desc in [image.manifest.config(), &image.desc] {
            self.put_as(&image::digest(desc)?, &from.read(desc)?)?;
        }
        Ok(())
    }

    /// Adds a blob that another layout has, verified.
    pub fn bring_blob(&self, from: &Layout, desc: &Descriptor) -> Result<()> {
        let digest = image::digest(desc)?;
        let Some(mut blob) = self.blob(&digest, desc.size())? else { return Ok(()) };
        let mut file = from.open_blob(desc)?;
        let mut buffer = vec![0; BUFFER];
        // What an earlier writer has left is a part of it already.
        file.seek(SeekFrom::Start(blob.offset()))?;
        loop {
            match file.read(&mut buffer).with_context(|| format!("blob {digest}"))? {
                0 => return blob.finish(),
                n => blob.write_all(&buffer[..n]).with_context(|| format!("blob {digest}"))?,
            }
        }
    }
}
