//! Headers of a tar that are always the same for the same name and size: POSIX ustar.

/// The unit of a tar.
pub(super) const BLOCK: u64 = 512;
/// The first size that eleven octal digits do not hold.
const LARGE: u64 = 1 << 33;

/// Returns the header of a file that belongs to nobody and was never changed.
pub(super) fn header(name: &str, size: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 * BLOCK as usize);
    if name.len() > 100 {
        // The blobs of sha512. The name is in a PAX header, which every reader of images knows.
        let record = record("path", name);
        bytes.extend(block("PaxHeader", record.len() as u64, b'x'));
        bytes.extend(record.as_bytes());
        bytes.resize(2 * BLOCK as usize, 0);
    }
    bytes.extend(block(name, size, b'0'));
    bytes
}

/// Returns how many zeros follow the data of a file of this size.
pub(super) fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK) as usize
}

/// Returns a record of a PAX header, which begins with its own length.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut len = rest.len();
    while len != rest.len() + len.to_string().len() {
        len = rest.len() + len.to_string().len();
    }
    format!("{len}{rest}")
}

fn block(name: &str, size: u64, typeflag: u8) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    match size {
        0..LARGE => put(124, format!("{size:011o}\0").as_bytes()),
        // GNU's: a bit that says so, and the number in binary.
        _ => {
            put(124, &[0x80]);
            put(128, &size.to_be_bytes());
        }
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[typeflag]);
    put(257, b"ustar\x0000");
    put(329, b"0000000\0");
    put(337, b"0000000\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_elses_reader_finds_what_was_put_there() {
        let long = format!("blobs/sha512/{}", "0f".repeat(64));
        for (name, size) in [("index.json", 0), (&*long, 7), ("x", LARGE - 1), ("x", 5 * LARGE)] {
            let bytes = header(name, size);
            let mut archive = tar::Archive::new(&bytes[..]);
            let entry = archive.entries().unwrap().next().unwrap().unwrap();
            assert_eq!(&*entry.path_bytes(), name.as_bytes());
            assert_eq!((entry.size(), entry.header().mode().unwrap()), (size, 0o644));
            assert_eq!(entry.header().mtime().unwrap(), 0);
            assert_eq!((bytes.len() as u64 + size + padding(size) as u64) % BLOCK, 0);
        }
    }
}
