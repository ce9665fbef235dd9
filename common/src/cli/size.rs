//! A size on a command line: `512`, `64k`, `1.5g`, `50GB`.

use anyhow::{Context, Result, ensure};

/// Reads a size in bytes, with the units of 1024 that Docker reads: `b`, `k`, `m`, `g`, `t`, `p`, as `kb` and `KiB` too.
pub fn size(text: &str) -> Result<u64> {
    let wrong = || "not a size (512, 64k, 1.5g)";
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok().with_context(wrong)?;
    let power = match unit.trim_start_matches(' ').to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None.with_context(wrong),
    };
    let bytes = number * 1024f64.powi(power);
    ensure!(bytes <= i64::MAX as f64, wrong());
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_dockers() {
        let table = [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("64k", 64 << 10),
            ("64KB", 64 << 10),
            ("1.5g", 3 << 29),
            ("50GiB", 50 << 30),
            ("2 t", 2 << 40),
            ("1p", 1 << 50),
        ];
        for (text, bytes) in table {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for bad in
            ["", "k", "-1", "+1", "1x", "1kk", "1e3", "inf", "nan", ".", "1..5g", "99999p", "0x10"]
        {
            assert_eq!(
                size(bad).unwrap_err().to_string(),
                "not a size (512, 64k, 1.5g)",
                "{bad:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "\\PC{0,20}|[0-9.kKmMgGiIbB ]{0,12}") {
            let _ = size(&text);
        }
    }
}
