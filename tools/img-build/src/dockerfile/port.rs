//! Ports of EXPOSE: `80`, `53/udp`, `8000-8010/tcp`.
//!
//! An address and a port of the host in front of it are taken and dropped, as
//! Docker does it; [`odd`] says so.

use std::net::IpAddr;

use crate::error::{Error, Result};

/// What of a port is not as it should be, though it is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odd {
    /// The protocol has capitals.
    pub casing: bool,
    /// There is an address, or a port of the host.
    pub mapping: bool,
}

struct Port<'a> {
    ip: &'a str,
    host: &'a str,
    container: &'a str,
    protocol: &'a str,
}

fn split(text: &str) -> Port<'_> {
    let (front, port) = text.rsplit_once(':').unwrap_or(("", text));
    let (ip, host) = front.rsplit_once(':').unwrap_or(("", front));
    let (container, protocol) = port.split_once('/').unwrap_or((port, ""));
    Port { ip, host, container, protocol }
}

/// Returns the ports that `text` says, as an image's config has them.
pub fn exposed(text: &str) -> Result<Vec<String>> {
    let wrong = |what: &str| Error::new(format!("{text}: {what}")).hint("EXPOSE 8080/tcp");
    let port = split(text);
    let protocol = match port.protocol.to_lowercase().as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        other => return Err(wrong(&format!("{other} is none of tcp, udp and sctp"))),
    };
    if !port.ip.is_empty() {
        let ip = port.ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
        ip.unwrap_or(port.ip)
            .parse::<IpAddr>()
            .map_err(|_| wrong(&format!("{} is no address", port.ip)))?;
    }
    let (first, last) = range(port.container).ok_or_else(|| wrong("not a port"))?;
    if !port.host.is_empty() {
        let host = range(port.host).ok_or_else(|| wrong("not a port of the host"))?;
        if first != last && host.1 - host.0 != last - first {
            return Err(wrong("more ports on one side than on the other"));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// Returns what is odd about a port that is taken.
pub fn odd(text: &str) -> Odd {
    let port = split(text);
    Odd {
        casing: port.protocol != port.protocol.to_lowercase(),
        mapping: !port.ip.is_empty() || !port.host.is_empty(),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok();
    let Some((first, last)) = text.split_once('-') else {
        return Some((number(text)?, number(text)?));
    };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_taken_apart() {
        let table: &[(&str, &[&str])] = &[
            ("80", &["80/tcp"]),
            ("80/tcp", &["80/tcp"]),
            ("80/UDP", &["80/udp"]),
            ("80/sctp", &["80/sctp"]),
            ("80/", &["80/tcp"]),
            ("0", &["0/tcp"]),
            ("65535", &["65535/tcp"]),
            ("1-3/udp", &["1/udp", "2/udp", "3/udp"]),
            ("5-5", &["5/tcp"]),
            ("8080:80", &["80/tcp"]),
            ("127.0.0.1:8080:80/udp", &["80/udp"]),
            ("127.0.0.1::80", &["80/tcp"]),
            ("[::1]:8080:80", &["80/tcp"]),
            ("::1:8080:80", &["80/tcp"]),
            ("8000-8001:80-81", &["80/tcp", "81/tcp"]),
            ("8000-8009:80", &["80/tcp"]),
        ];
        for (text, expected) in table {
            assert_eq!(exposed(text).unwrap(), *expected, "{text}");
        }
        let bads = [
            "",
            "x",
            "/tcp",
            "80/icmp",
            "80/tcp/udp",
            "65536",
            "-1",
            "3-1",
            "1-",
            "-",
            "80 ",
            "1-2-3",
            "x:80",
            "80:",
            "8000-8002:80-81",
            "1.2.3:1:80",
            "[::1:1:80",
            "a:1:2",
        ];
        for bad in bads {
            assert!(exposed(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_odd_is_noticed() {
        let odd = |casing, mapping| Odd { casing, mapping };
        assert_eq!(super::odd("80/tcp"), odd(false, false));
        assert_eq!(super::odd("80/TCP"), odd(true, false));
        assert_eq!(super::odd("8080:80"), odd(false, true));
        assert_eq!(super::odd("127.0.0.1::80/Tcp"), odd(true, true));
    }
}
