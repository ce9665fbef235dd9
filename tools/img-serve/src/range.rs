//! Which bytes are meant: `Range` of what is fetched, `Content-Range` of what is sent.
//!
//! RFC 9110, section 14; for uploads distribution-spec, section Pushing a blob in chunks.

/// The part of a blob that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it: nothing else was asked for, or in a way that a server may ignore.
    Whole,
    /// So many bytes from this one on.
    Bytes { start: u64, len: u64 },
    /// Nothing: the blob ends before.
    Beyond,
}

/// Reads a `Range` header for a blob of `size` bytes. Several ranges at a time are not served.
pub fn part(header: &str, size: u64) -> Part {
    let Some(range) = header.trim().strip_prefix("bytes=") else { return Part::Whole };
    let Some((first, last)) = range.trim().split_once('-') else { return Part::Whole };
    let (start, end) = match (number(first), number(last), first.is_empty(), last.is_empty()) {
        // The last so many.
        (_, Some(0), true, _) => return Part::Beyond,
        (_, Some(n), true, _) => (size.saturating_sub(n), size),
        (Some(start), _, _, true) => (start, size),
        (Some(start), Some(last), _, _) if start <= last => {
            (start, last.saturating_add(1).min(size))
        }
        _ => return Part::Whole,
    };
    match start < size {
        true => Part::Bytes { start, len: end - start },
        false => Part::Beyond,
    }
}

/// Reads the `Content-Range` of a chunk, `FIRST-LAST`; returns its first byte and its length.
pub fn chunk(header: &str) -> Option<(u64, u64)> {
    let (first, last) = header.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

/// Reads digits alone: `str::parse` would take a sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // More than there can be is as good as the most.
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_those_of_the_rfc() {
        let bytes = |start, len| Part::Bytes { start, len };
        let table = [
            ("bytes=0-", bytes(0, 10)),
            ("bytes=0-0", bytes(0, 1)),
            ("bytes=3-4", bytes(3, 2)),
            ("bytes=9-99", bytes(9, 1)),
            ("bytes=0-99999999999999999999999", bytes(0, 10)),
            ("bytes=-3", bytes(7, 3)),
            ("bytes=-99", bytes(0, 10)),
            ("bytes=10-", Part::Beyond),
            ("bytes=10-11", Part::Beyond),
            ("bytes=99999999999999999999999-", Part::Beyond),
            ("bytes=-0", Part::Beyond),
            ("bytes=4-3", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=0x1-2", Part::Whole),
            ("items=0-1", Part::Whole),
            ("", Part::Whole),
        ];
        for (header, part) in table {
            assert_eq!(super::part(header, 10), part, "{header:?}");
        }
        for header in ["bytes=0-", "bytes=-1", "bytes=0-0"] {
            assert_eq!(super::part(header, 0), Part::Beyond, "{header:?}");
        }
    }

    #[test]
    fn chunks_are_those_of_the_specification() {
        assert_eq!(chunk("0-0"), Some((0, 1)));
        assert_eq!(chunk("5-9"), Some((5, 5)));
        for bad in [
            "",
            "-",
            "0-",
            "-0",
            "9-5",
            "a-b",
            "0--1",
            "+0-1",
            " 0-1",
            "bytes 0-1/2",
            "0-1/2",
            "0-18446744073709551615",
        ] {
            assert_eq!(chunk(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_in_its_blob(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in any::<u64>()) {
            if let Part::Bytes { start, len } = part(&header, size) {
                prop_assert!(len > 0 && start.checked_add(len).is_some_and(|end| end <= size));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*", size in any::<u64>()) {
            part(&text, size);
            chunk(&text);
        }
    }
}
