//! A network of its own: names, addresses of every kind, and nobody else on it.
//!
//! The thread that enters it, and what that thread starts, see a loopback device
//! with more addresses than one, and a name server of ours. So there are registries
//! elsewhere, at ports 80 and 443, without a packet that leaves the machine.

use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use crate::Sandbox;

/// The hosts, by name.
pub const NAMES: [(&str, &str); 8] = [
    ("registry.example.org", "203.0.113.10"),
    ("auth.example.org", "203.0.113.11"),
    ("cdn.example.org", "203.0.113.12"),
    ("proxy.example.org", "203.0.113.13"),
    ("intranet", "203.0.113.11"),
    ("nobody.example.org", "203.0.113.99"),
    ("here.example.org", "127.0.0.1"),
    ("metadata.example.org", "169.254.169.254"),
];

/// Where the name server listens.
const SERVER: &str = "203.0.113.53:53";

/// What the name server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dns {
    /// It says the truth.
    Answers,
    /// It knows no name.
    KnowsNothing,
    /// It says that it failed.
    Fails,
    /// It fails once for each name, and then answers.
    FailsOnce,
    /// It says nothing.
    IsSilent,
    /// It answers with bytes that mean nothing.
    Babbles,
    /// It knows the name, and no address of it.
    HasNoAddress,
}

/// Moves this thread, and whatever it starts, to a new network.
pub fn enter(dns: Dns) {
    unshare(CloneFlags::CLONE_NEWNET).expect("a new network");
    let mut script = "ip link set lo up".to_owned();
    for address in NAMES.iter().map(|(_, address)| *address).chain(["203.0.113.53"]) {
        if !address.starts_with("127.") && address != "203.0.113.99" {
            script += &format!("; ip address replace {address}/32 dev lo");
        }
    }
    assert!(Command::new("/bin/sh").args(["-ec", &script]).status().unwrap().success());
    let socket = UdpSocket::bind(SERVER).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    thread::spawn(move || {
        let mut failed = Vec::new();
        let mut buf = [0; 1500];
        // The end of the test is the end of whoever asks.
        while let Ok((n, peer)) = socket.recv_from(&mut buf) {
            let reply = match dns {
                Dns::FailsOnce if !failed.contains(&buf[12..n].to_vec()) => {
                    failed.push(buf[12..n].to_vec());
                    answer(&buf[..n], Dns::Fails)
                }
                dns => answer(&buf[..n], dns),
            };
            if let Some(reply) = reply {
                let _ = socket.send_to(&reply, peer);
            }
        }
    });
}

/// Writes the files that lead programs to the name server, and returns the words that run one with them in place.
pub fn words(t: &Sandbox) -> String {
    t.write("resolv.conf", format!("nameserver {}\n", SERVER.strip_suffix(":53").unwrap()));
    t.write("hosts", "127.0.0.1 localhost\n");
    "unshare --mount sh -ec 'mount --bind resolv.conf /etc/resolv.conf; mount --bind hosts /etc/hosts; exec \"$@\"' sh"
        .into()
}

/// Answers a question: RFC 1035, section 4.
fn answer(question: &[u8], dns: Dns) -> Option<Vec<u8>> {
    let (name, kind, end) = read(question)?;
    let found = NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
    let (code, address) = match (dns, found) {
        (Dns::IsSilent, _) => return None,
        (Dns::Babbles, _) => return Some([&question[..2], &[0xff; 40]].concat()),
        (Dns::Fails, _) => (2, None),
        (Dns::KnowsNothing, _) | (_, None) => (3, None),
        (Dns::HasNoAddress, _) => (0, None),
        (_, Some((_, address))) => (0, Some(*address).filter(|_| kind == 1)),
    };
    // A response to a recursive question, with one question and perhaps one answer in it.
    let count = u8::from(address.is_some());
    let mut reply = [&question[..2], &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]].concat();
    reply.extend(&question[12..end]);
    if let Some(address) = address {
        // The name is the question's; A, IN, 60 seconds, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        let bytes = address.split('.').map(|byte| byte.parse::<u8>().unwrap());
        reply.extend(bytes);
    }
    Some(reply)
}

/// Reads the name, the type and the end of a question.
fn read(question: &[u8]) -> Option<(String, u8, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + length)?).into_owned());
        at += length;
    }
    Some((labels.join("."), *question.get(at + 1)?, at + 4))
}
