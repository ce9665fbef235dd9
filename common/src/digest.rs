//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>`.
//!
//! Text becomes a [`Digest`] once and is checked then, so a digest may become
//! a file name or a URL: `sha256:../../etc` never became one. Image-spec,
//! descriptor.md, section Digests.

use std::fmt::{self, Display};
use std::io::{self, Read, Write};
use std::str::FromStr;

use anyhow::{Error, bail};
use sha2::{Digest as _, Sha256, Sha512};

/// The digest of a blob's bytes, or of a layer's uncompressed tar (its diff ID).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// `sha256:`, which every implementation has.
    Sha256([u8; 32]),
    /// `sha512:`, which a registry may use.
    Sha512([u8; 64]),
}

impl Digest {
    /// Returns the SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest::Sha256(Sha256::digest(bytes).into())
    }

    /// Returns `sha256` or `sha512`.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Digest::Sha256(_) => "sha256",
            Digest::Sha512(_) => "sha512",
        }
    }

    /// Returns the digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex(self.bytes())
    }

    /// Returns the first twelve digits, as lists show them.
    pub fn short(&self) -> String {
        let mut text = self.hex();
        text.truncate(12);
        text
    }

    /// Returns a hasher of this digest's algorithm, to see whether some bytes have this digest.
    pub fn hasher(&self) -> Hasher {
        match self {
            Digest::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Digest::Sha512(_) => Hasher::Sha512(Box::new(Sha512::new())),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Digest::Sha256(bytes) => bytes,
            Digest::Sha512(bytes) => bytes,
        }
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = match text.split_once(':') {
            Some(("sha256", hex)) => unhex(hex).map(Digest::Sha256),
            Some(("sha512", hex)) => unhex(hex).map(Digest::Sha512),
            _ => None,
        };
        match parsed {
            Some(digest) => Ok(digest),
            None => bail!("{text:?}: not a digest (sha256: and 64 hexadecimal digits)"),
        }
    }
}

/// Returns bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Reads `2 * N` lower-case hexadecimal digits.
fn unhex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    // A store's index has one of them a name: no branch for each digit.
    let mut wrong = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (VALUES[usize::from(*high)], VALUES[usize::from(*low)]);
        wrong |= high | low;
        *byte = high << 4 | low;
    }
    (wrong < 16).then_some(bytes)
}

/// What each byte is worth as a lower-case hexadecimal digit; 16 if it is none.
const VALUES: [u8; 256] = {
    let mut values = [16; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

impl TryFrom<&oci_spec::image::Digest> for Digest {
    type Error = Error;

    fn try_from(digest: &oci_spec::image::Digest) -> Result<Self, Error> {
        digest.as_ref().parse()
    }
}

impl From<&Digest> for oci_spec::image::Digest {
    fn from(digest: &Digest) -> Self {
        // Every `Digest` prints as what oci-spec's parser accepts.
        digest.to_string().parse().unwrap()
    }
}

impl Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// Computes a digest piece by piece.
pub enum Hasher {
    /// Of [`Digest::Sha256`].
    Sha256(Sha256),
    /// Of [`Digest::Sha512`].
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// Returns a hasher of the algorithm that we write: SHA-256.
    pub fn sha256() -> Hasher {
        Hasher::Sha256(Sha256::new())
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the digest of what was taken in.
    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            Hasher::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}

/// A reader or writer that hashes and counts what passes through it.
pub struct Hashed<T> {
    inner: T,
    hasher: Hasher,
    count: u64,
}

impl<T> Hashed<T> {
    /// Passes through to `inner`.
    pub fn new(inner: T, hasher: Hasher) -> Self {
        Hashed { inner, hasher, count: 0 }
    }

    /// Returns how many bytes have passed.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns what is inside.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Returns what is inside, the digest, and the number of bytes.
    pub fn finish(self) -> (T, Digest, u64) {
        (self.inner, self.hasher.finish(), self.count)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        self.count += n as u64;
        Ok(n)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_prints_as_it_was_read() {
        assert_eq!(EMPTY.parse::<Digest>().unwrap().to_string(), EMPTY);
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        let long = format!("sha512:{}", "0f".repeat(64));
        assert_eq!(long.parse::<Digest>().unwrap().to_string(), long);
    }

    #[test]
    fn what_is_no_digest_never_becomes_one() {
        let upper = EMPTY.to_uppercase();
        let bad_digit = EMPTY.replace('e', "g");
        let bads = [
            "",
            "sha256:",
            "sha256:../../etc",
            &EMPTY[7..],
            &EMPTY[..70],
            &upper,
            &bad_digit,
            "md5:00",
        ];
        for bad in bads {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(format!("{EMPTY}\n").parse::<Digest>().is_err());
        assert!(format!("sha256:{}", "é".repeat(32)).parse::<Digest>().is_err());
    }

    #[test]
    fn both_ways_through_a_hashed_stream_give_the_digest() {
        let mut through = Hashed::new(&b"abc"[..], Hasher::sha256());
        let mut bytes = Vec::new();
        through.read_to_end(&mut bytes).unwrap();
        let (_, digest, count) = through.finish();
        assert_eq!((digest, count), (Digest::of(b"abc"), 3));
    }

    proptest! {
        /// What is nearly one is one only if it prints as it is.
        #[test]
        fn only_digests_are_digests(text in "(sha256|sha512|SHA256|md5)?:?[0-9a-fA-F/.]{62,66}|sha512:[0-9a-f]{126,130}") {
            match text.parse::<Digest>() {
                Ok(digest) => prop_assert_eq!(digest.to_string(), text),
                Err(_) => {
                    let hex = text.strip_prefix("sha256:").map(|hex| (hex, 64));
                    let hex = hex.or_else(|| text.strip_prefix("sha512:").map(|hex| (hex, 128)));
                    let lower = |hex: &str| hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
                    prop_assert!(!hex.is_some_and(|(hex, len)| hex.len() == len && lower(hex)));
                }
            }
        }

        #[test]
        fn bytes_have_one_digest_however_they_come(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            let mut hasher = Hasher::sha256();
            hasher.update(a);
            hasher.update(b);
            let digest = hasher.finish();
            prop_assert_eq!(digest, Digest::of(&bytes));
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
            prop_assert!(digest.hex().starts_with(&digest.short()));
        }
    }
}
