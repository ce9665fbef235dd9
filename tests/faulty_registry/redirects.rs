//! Redirects: where a registry may send its client, and what may go there with it.

use sandbox::faulty::fault::{BASIC, Fault, Scene, fault, run_all};
use sandbox::faulty::message::{Asked, Reply, Then};
use sandbox::lacks;

use super::auth::TRUST;

/// Answers whoever has the password; it is for what is asked of the registry alone.
fn private(asked: &Asked, scene: &Scene, answer: impl Fn() -> Reply) -> Reply {
    match asked.header("authorization") == Some(&format!("Basic {BASIC}")) {
        true => answer(),
        false => {
            let _ = scene;
            Reply::challenge("Basic realm=r")
        }
    }
}

/// Returns the row of a private registry whose blobs are there; `{1}` is the address of host 1.
fn blobs_at(story: &str, location: &'static str) -> Fault {
    fault(story).registry(move |asked, scene| {
        private(asked, scene, || match asked.blob() {
            Some(digest) if !asked.path().starts_with("/elsewhere") => {
                let place = location.replace("{1}", scene.addresses().get(1).map_or("", |it| it));
                Reply::to(place.replace("{digest}", digest))
            }
            _ => scene.well(asked),
        })
    })
}

/// Returns the row of a public registry elsewhere whose blobs are there.
fn far(story: &str, location: &'static str) -> Fault {
    blobs_at(story, location)
        .elsewhere("203.0.113.10:443", "registry.example.org/app:1")
        .tls("good")
        .environment(TRUST)
}

fn well(asked: &Asked, scene: &Scene) -> Reply {
    scene.well(asked)
}

pub fn faults() -> Vec<Fault> {
    let mut faults = vec![
        blobs_at(
            "blobs are at another port, where nobody wants the password",
            "http://{1}/store/blobs/{digest}",
        )
        .host("127.0.0.1:0", well)
        .asked(1, 3..=3)
        .pulls(),
        blobs_at("blobs are at another address", "http://{1}/store/blobs/{digest}")
            .host("127.0.0.2:0", well)
            .asked(1, 3..=3)
            .pulls(),
        blobs_at("blobs are at another path, said in full", "/elsewhere/blobs/{digest}").pulls(),
        blobs_at(
            "blobs are at another path, said in part",
            "../../../elsewhere/blobs/{digest}?a=b#c",
        )
        .pulls(),
        blobs_at(
            "blobs are at another host, with the registry's scheme",
            "//{1}/store/blobs/{digest}",
        )
        .host("127.0.0.1:0", well)
        .pulls(),
        blobs_at(
            "the place of blobs has a user and a password in it",
            "http://a:b@{1}/store/blobs/{digest}",
        )
        .host("127.0.0.1:0", well)
        .sees(|logs, _| match logs[1].iter().any(|asked| asked.header("authorization").is_some()) {
            true => Err("they were sent".into()),
            false => Ok(()),
        })
        .pulls(),
        blobs_at("the store of the blobs wants a password too", "http://{1}/store/blobs/{digest}")
            .host("127.0.0.1:0", |_, _| Reply::challenge("Basic realm=r"))
            .fails("they are not for it"),
        blobs_at("the store of the blobs wants a token too", "http://{1}/store/blobs/{digest}")
            .host("127.0.0.1:0", |_, scene| {
                Reply::challenge(format!("Bearer realm=\"http://{}/token\"", scene.at(1)))
            })
            .fails("they are not for it"),
        blobs_at("the store of the blobs forbids", "http://{1}/store/blobs/{digest}")
            .host("127.0.0.1:0", |_, _| Reply::new(403, "<Error>expired</Error>"))
            .fails("access denied"),
        blobs_at("the store of the blobs is busy, twice", "http://{1}/store/blobs/{digest}")
            .host("127.0.0.1:0", |asked, scene| match asked.nth {
                1 | 2 => Reply::new(503, ""),
                _ => scene.well(asked),
            })
            .pulls(),
        blobs_at("the store of the blobs breaks off", "http://{1}/store/blobs/{digest}")
            .host("127.0.0.1:0", |asked, scene| match scene.is_layer(asked) && asked.nth == 1 {
                true => scene.well(asked).cut(400_000, Then::Reset),
                false => scene.well(asked),
            })
            .pulls(),
        blobs_at(
            "the store of the blobs sends back to the registry",
            "http://{1}/store/blobs/{digest}",
        )
        .host("127.0.0.1:0", |asked, scene| {
            Reply::to(format!("http://{}/elsewhere/blobs/{}", scene.at(0), asked.blob().unwrap()))
        })
        .ends(),
        blobs_at("the store of the blobs is not there", "http://127.0.0.1:1/{digest}")
            .fails("127.0.0.1:1: "),
        blobs_at("a redirect leads to itself", "./{digest}").fails("more than 10 redirects"),
        blobs_at("a redirect leads nowhere", "").fails("redirects"),
        fault("a redirect says no place")
            .registry(|asked, scene| match asked.blob() {
                Some(_) => Reply::new(302, ""),
                None => scene.well(asked),
            })
            .fails("a redirect to nowhere"),
        fault("a redirect says two places")
            .registry(|asked, scene| match asked.blob() {
                Some(_) if !asked.path().starts_with("/elsewhere") => {
                    let place = format!("/elsewhere{}", asked.path());
                    Reply::to(place).header("location", format!("http://{}/", scene.at(1)))
                }
                _ => scene.well(asked),
            })
            .host("127.0.0.1:0", |_, _| Reply::new(403, ""))
            .ends(),
        fault("two servers send to each other")
            .registry(|asked, scene| match asked.blob() {
                Some(digest) => Reply::to(format!("http://{}/store/blobs/{digest}", scene.at(1))),
                None => scene.well(asked),
            })
            .host("127.0.0.1:0", |asked, scene| {
                Reply::to(format!("http://{}{}", scene.at(0), asked.path()))
            })
            .fails("more than 10 redirects")
            .asked(1, 5..=20),
        fault("a redirect leads to more and more places")
            .registry(|asked, scene| match asked.blob() {
                Some(_) => Reply::to(format!("/{}/blobs/x", scene.count("hop"))),
                None => scene.well(asked),
            })
            .fails("more than 10 redirects"),
        fault("five redirects lead to a blob")
            .registry(|asked, scene| match asked.blob() {
                Some(digest) => match asked.path().matches("/on").count() {
                    5 => scene.well(asked),
                    hops => Reply::to(format!("{}/blobs/{digest}", "/on".repeat(hops + 1))),
                },
                None => scene.well(asked),
            })
            .pulls(),
        fault("the manifest is at another port")
            .registry(|asked, scene| {
                private(asked, scene, || match asked.manifest() {
                    Some(name) => {
                        Reply::to(format!("http://{}/v2/app/manifests/{name}", scene.at(1)))
                    }
                    None => scene.well(asked),
                })
            })
            .host("127.0.0.1:0", well)
            .asked(1, 1..=1)
            .pulls(),
        fault("everything is at another port, which asks for the password of the first")
            .registry(|asked, scene| Reply::to(format!("http://{}{}", scene.at(1), asked.target)))
            .host("127.0.0.1:0", |_, _| Reply::challenge("Basic realm=r"))
            .asked(1, 1..=1)
            .fails("they are not for it"),
        fault("a redirect's own body never ends")
            .registry(|asked, scene| match asked.blob() {
                Some(_) if !asked.path().starts_with("/elsewhere") => {
                    Reply::to(format!("/elsewhere{}", asked.path()))
                        .length(sandbox::faulty::message::Length::Untold)
                        .then(Then::Flood(vec![b'x'; 64 << 10]))
                }
                _ => scene.well(asked),
            })
            .pulls(),
        far("elsewhere, blobs are at another host", "https://cdn.example.org/store/blobs/{digest}")
            .host("203.0.113.12:443", well)
            .tls("good")
            .asked(1, 3..=3)
            .pulls(),
        far(
            "elsewhere, blobs are at another port of the registry's host",
            "https://registry.example.org:8443/store/blobs/{digest}",
        )
        .host("203.0.113.10:8443", well)
        .tls("good")
        .pulls(),
        far(
            "elsewhere, blobs are at the registry's host, said with its port",
            "https://registry.example.org:443/elsewhere/blobs/{digest}",
        )
        .pulls(),
        far(
            "elsewhere, blobs are at the registry's host, in capitals",
            "https://REGISTRY.EXAMPLE.ORG/elsewhere/blobs/{digest}",
        )
        .pulls(),
        far(
            "elsewhere, blobs are at a host without TLS",
            "http://cdn.example.org/store/blobs/{digest}",
        )
        .bait("203.0.113.12:80")
        .fails("which is plain HTTP"),
        far(
            "elsewhere, blobs are at the registry's host without TLS",
            "http://registry.example.org/store/blobs/{digest}",
        )
        .bait("203.0.113.10:80")
        .fails("which is plain HTTP"),
        far(
            "elsewhere, blobs are on the client's machine",
            "https://127.0.0.1/store/blobs/{digest}",
        )
        .bait("127.0.0.1:443")
        .tls("good")
        .fails("which is for this machine alone"),
        far(
            "elsewhere, blobs are on the client's machine, without TLS",
            "http://127.0.0.1/store/blobs/{digest}",
        )
        .bait("127.0.0.1:80")
        .fails("which is"),
        far(
            "elsewhere, blobs are on the client's machine, by name",
            "https://localhost/store/blobs/{digest}",
        )
        .bait("127.0.0.1:443")
        .tls("good")
        .fails("which is for this machine alone"),
        far(
            "elsewhere, blobs are where clouds keep secrets",
            "https://169.254.169.254/store/blobs/{digest}",
        )
        .bait("169.254.169.254:443")
        .tls("good")
        .fails("which is for this machine alone"),
        far(
            "elsewhere, blobs are where clouds keep secrets, by a public name",
            "https://metadata.example.org/store/blobs/{digest}",
        )
        .host("169.254.169.254:443", well)
        .tls("elsewhere")
        .asked(1, 0..=0)
        .fails("metadata.example.org: its certificate is not trusted"),
        far(
            "elsewhere, blobs are on the client's machine, by a public name",
            "https://here.example.org/store/blobs/{digest}",
        )
        .host("127.0.0.1:443", well)
        .fails("here.example.org: it speaks no TLS"),
        far(
            "elsewhere, the store of the blobs has another's certificate",
            "https://cdn.example.org/store/blobs/{digest}",
        )
        .host("203.0.113.12:443", well)
        .tls("elsewhere")
        .asked(1, 0..=0)
        .fails("its certificate is not trusted"),
        far(
            "elsewhere, the store of the blobs has no TLS",
            "https://cdn.example.org/store/blobs/{digest}",
        )
        .host("203.0.113.12:443", well)
        .fails("it speaks no TLS"),
        far(
            "elsewhere, the store of the blobs has no name",
            "https://unknown.example.org/store/blobs/{digest}",
        )
        .fails("no such host"),
    ];
    for (place, says) in [
        ("file:///etc/passwd", "which is no web address"),
        ("ftp://127.0.0.1/x", "which is no web address"),
        ("data:,x", "which is no"),
        ("javascript:alert(1)", "which is no"),
        ("http://", "which is no URL"),
        ("http://[::1/", "which is no URL"),
        ("http://a b/", "which is no URL"),
        ("http://127.0.0.1:99999/", "which is no URL"),
        ("\u{1b}[31m", ""),
        ("unix:///var/run/docker.sock", "which is no web address"),
    ] {
        faults.push(
            fault(format!("a redirect leads to {place:?}"))
                .registry(move |asked, scene| match asked.blob() {
                    Some(_) => Reply::to(place),
                    None => scene.well(asked),
                })
                .fails(says),
        );
    }
    for status in [301, 302, 303, 308] {
        faults.push(
            fault(format!("blobs are elsewhere, says a {status}"))
                .registry(move |asked, scene| match asked.blob() {
                    Some(digest) => {
                        let place = format!("http://{}/store/blobs/{digest}", scene.at(1));
                        Reply::new(status, "").header("location", place)
                    }
                    None => scene.well(asked),
                })
                .host("127.0.0.1:0", well)
                .pulls(),
        );
    }
    faults.push(
        fault("a place of 60 kB")
            .registry(|asked, scene| match asked.blob() {
                Some(_) => Reply::to(format!("/{}", "x".repeat(60_000))),
                None => scene.well(asked),
            })
            .fails("127.0.0.1:"),
    );
    faults
}

#[test]
fn a_redirect_is_followed_by_rules_and_the_password_stays() {
    if lacks(&["openssl", "root", "ip", "unshare"]) {
        return;
    }
    run_all(faults());
}
