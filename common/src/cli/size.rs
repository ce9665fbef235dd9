//! A size on a command line: `64m`, `1.5 GiB`.

use anyhow::{Context, Result, bail, ensure};

/// Reads a size as Docker does: `64m`, `1.5 GiB`, always by 1024.
pub fn size(text: &str) -> Result<u64> {
    let wrong = || "not a size (64m, 1.5g)";
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit
        .strip_suffix('b')
        .map_or(&*unit, |unit| unit.strip_suffix('i').unwrap_or(unit))
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => bail!("{}", wrong()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    ensure!(digits(whole) && digits(part) && part.len() <= 9, "{}", wrong());
    let whole: u64 = whole.parse().with_context(wrong)?;
    let whole = whole.checked_mul(1 << shift).with_context(wrong)?;
    // At most 10^9 parts, so that what the largest unit makes of them fits in 128 bits.
    let part = u128::from(part.parse::<u64>()?) * (1 << shift) / 10u128.pow(part.len() as u32);
    whole.checked_add(part as u64).with_context(wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_dockers() {
        let table = [
            ("0", 0),
            ("1", 1),
            ("1b", 1),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("1.5g", 3 << 29),
            ("1 GiB", 1 << 30),
            ("1gb", 1 << 30),
            ("2TB", 2 << 40),
            ("0.5k", 512),
        ];
        for (text, expected) in table {
            assert_eq!(size(text).unwrap(), expected, "{text:?}");
        }
        let bads = [
            "",
            "m",
            "-1",
            "+1",
            "1x",
            "1 2",
            "1..5m",
            ".5m",
            "1.",
            "1e3",
            "99999999999999999999",
            "99999999p",
            "1ib5",
            "0x10",
            "1,5m",
            " 1",
            "1  m",
            "i",
            "1i",
        ];
        for bad in bads {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_size_is_its_number_times_its_unit(number in 0u64..1 << 14, unit in 0usize..6, tail in 0usize..4) {
            let letter = ["", "k", "m", "g", "t", "p"][unit];
            let tail = if letter.is_empty() { ["", "b", "B", " b"][tail] } else { ["", "b", "ib", "iB"][tail] };
            prop_assert_eq!(size(&format!("{number}{letter}{tail}")).unwrap(), number << (10 * unit));
            prop_assert_eq!(size(&format!("{number}.5{letter}{tail}")).unwrap(), (number << (10 * unit)) + (1 << (10 * unit) >> 1));
        }

        #[test]
        fn no_text_breaks_the_parser(text in "[ -~]{0,40}|\\PC{0,40}") {
            let _ = size(&text);
        }
    }
}
