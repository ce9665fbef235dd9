//! The operating system and processor that an image is for: `linux/arm64/v8`.
//!
//! Names are normalised as containerd does it (`x86_64` is `amd64`, `aarch64`
//! is `arm64`), and an index is searched in its order of preference: an exact
//! variant first, then the older ones that the processor also runs.

use std::fmt::{self, Display};
use std::str::FromStr;

use anyhow::{Error, bail};

/// A platform, in the terms of the Go toolchain: image-spec, image-index.md.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, ...
    pub architecture: String,
    /// `v7`, or nothing where the architecture says it all.
    pub variant: Option<String>,
}

impl Platform {
    /// Returns the platform of this machine.
    pub fn host() -> Platform {
        let variant = if cfg!(target_arch = "arm") { Some("v7") } else { None };
        Platform::new("linux", std::env::consts::ARCH, variant)
    }

    /// Returns the platform of these names, normalised.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let os = match os.to_ascii_lowercase() {
            os if os == "macos" => "darwin".into(),
            os => os,
        };
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.map(str::to_ascii_lowercase).filter(|variant| !variant.is_empty());
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("x86" | "i386" | "i486" | "i586" | "i686", _) => ("386", None),
            ("aarch64" | "arm64", Some("8" | "v8") | None) => ("arm64", None),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("arm", Some("8")) => ("arm", Some("v8")),
            ("powerpc64le", variant) => ("ppc64le", variant),
            (architecture, variant) => (architecture, variant),
        };
        Platform { os, architecture: architecture.into(), variant: variant.map(str::to_owned) }
    }

    /// Returns how well an image for `offered` runs where `self` is wanted: less is better, none is not at all.
    pub fn rank(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os {
            return None;
        }
        if self.architecture == offered.architecture && self.variant == offered.variant {
            return Some(0);
        }
        // A processor runs what was made for its older variants: arm v7 runs v6 and v5,
        // amd64 v3 runs v2 and plain amd64.
        let level = |platform: &Platform| match (
            platform.architecture.as_str(),
            platform.variant.as_deref(),
        ) {
            ("amd64", None) => Some(1),
            ("arm64", None) => Some(80),
            ("arm64", Some(variant)) => {
                // A variant of an index may be any text.
                let number = variant.strip_prefix('v')?;
                let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
                major.parse::<u32>().ok()?.checked_mul(10)?.checked_add(minor.parse().ok()?)
            }
            ("arm" | "amd64", Some(variant)) => variant.strip_prefix('v')?.parse().ok(),
            _ => None,
        };
        if self.architecture != offered.architecture {
            return None;
        }
        match (level(self), level(offered)) {
            (Some(wanted), Some(offered)) if offered < wanted => Some(wanted - offered),
            _ => None,
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let ok = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| ok(part)) {
            bail!("{text:?}: not a platform (os/arch or os/arch/variant, as linux/arm64)");
        }
        match parts[..] {
            // As containerd reads one word: an operating system that it knows, else an architecture.
            ["linux"] => Ok(Platform::host()),
            [architecture] => Ok(Platform::new("linux", architecture, None)),
            [os, architecture] => Ok(Platform::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Platform::new(os, architecture, Some(variant))),
            _ => bail!("{text:?}: not a platform (os/arch or os/arch/variant, as linux/arm64)"),
        }
    }
}

impl Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_normalised() {
        let table = [
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("Linux/AMD64", "linux/amd64"),
        ];
        for (text, normal) in table {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal, "{text}");
        }
    }

    #[test]
    fn bad_platforms_are_refused() {
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/ arm", "linux/\u{1b}"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn older_variants_run_and_newer_ones_do_not() {
        let rank = |wanted: &str, offered: &str| {
            wanted.parse::<Platform>().unwrap().rank(&offered.parse().unwrap())
        };
        assert_eq!(rank("linux/arm/v7", "linux/arm/v7"), Some(0));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/amd64/v3", "linux/amd64"), Some(2));
        assert_eq!(rank("linux/amd64", "linux/amd64/v2"), None);
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/arm64", "windows/arm64"), None);
        assert_eq!(rank("linux/arm64/v", "linux/arm64"), None);
        assert_eq!(rank("linux/arm64/v8.5", "linux/arm64/v8.2"), Some(3));
        assert_eq!(rank("linux/arm64/v429496729.6", "linux/arm64"), None);
        assert_eq!(rank("linux/arm64/v999999999", "linux/arm64"), None);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(text in "[a-zA-Z0-9_.-]{1,8}(/[a-zA-Z0-9_.-]{1,8}){0,2}") {
            let platform: Platform = text.parse().unwrap();
            prop_assert_eq!(&platform.to_string().parse::<Platform>().unwrap(), &platform);
            prop_assert_eq!(platform.rank(&platform), Some(0));
        }

        /// Whatever an index claims, it is for a machine or it is not, and never more than one is better.
        #[test]
        fn any_claim_is_ranked(
            architecture in "arm64|arm|amd64|aarch64|\\PC{0,6}",
            variants in prop::array::uniform2("v?[0-9]{0,11}(\\.[0-9]{0,11})?|\\PC{0,6}"),
        ) {
            let [a, b] = variants.map(|variant| Platform::new("linux", &architecture, Some(&variant)));
            let (forth, back) = (a.rank(&b), b.rank(&a));
            prop_assert_eq!(forth == Some(0), a == b);
            prop_assert!(forth.is_none() || back.is_none() || a == b, "{} {}", a, b);
        }
    }
}
