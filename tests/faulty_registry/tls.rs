//! TLS: certificates that are not to be trusted, and servers that speak something else.

use std::fs;

use sandbox::Sandbox;
use sandbox::faulty::fault::{Fault, fault, run_all};
use sandbox::faulty::message::{Length, Then};
use sandbox::faulty::server::Welcome;
use sandbox::faulty::tls;
use sandbox::lacks;

use super::auth::TRUST;

/// Returns the row of a registry on loopback with this certificate.
fn shows(story: &str, certificate: &'static str) -> Fault {
    fault(story).tls(certificate).environment(TRUST).for_good()
}

/// Returns the row of a registry elsewhere.
fn far(story: &str) -> Fault {
    fault(story).elsewhere("203.0.113.10:443", "registry.example.org/app:1").environment(TRUST)
}

/// Copies a file of the certificates to where the user keeps those for `host`.
fn certs(t: &Sandbox, host: &str, files: &[(&str, &str)]) {
    let dir = t.path("home/.config/containers/certs.d").join(host);
    fs::create_dir_all(&dir).unwrap();
    for (from, to) in files {
        fs::copy(tls::dir().join(from), dir.join(to)).unwrap();
    }
}

pub fn faults() -> Vec<Fault> {
    let distrusted = "its certificate is not trusted";
    let mut faults = vec![
        shows("a certificate is good", "good").pulls(),
        shows("a blob breaks off under TLS", "good")
            .registry(|asked, scene| match scene.is_layer(asked) && asked.nth == 1 {
                true => scene.well(asked).cut(500_000, Then::Close),
                false => scene.well(asked),
            })
            .pulls(),
        shows("a blob breaks off under TLS, and nobody said how long it is", "good")
            .registry(|asked, scene| match scene.is_layer(asked) && asked.nth == 1 {
                true => scene.well(asked).length(Length::Untold).cut(500_000, Then::Close),
                false => scene.well(asked),
            })
            .pulls(),
        shows("a manifest breaks off under TLS, and nobody said how long it is", "good")
            .registry(|asked, scene| match asked.manifest() {
                Some(_) => scene.well(asked).length(Length::Untold).cut(300, Then::Close),
                None => scene.well(asked),
            })
            .fails("127.0.0.1:"),
        shows("a connection is reset under TLS, always", "good")
            .registry(|asked, scene| scene.well(asked).cut(0, Then::Reset))
            .fails("127.0.0.1:"),
        shows("the authority is in certs.d", "unknown")
            .prepare(|t, scene| certs(t, scene.at(0), &[("untrusted.pem", "ca.crt")]))
            .pulls(),
        shows("the authority is in certs.d, for another port", "unknown")
            .prepare(|t, _| certs(t, "127.0.0.1:1", &[("untrusted.pem", "ca.crt")]))
            .fails(distrusted),
        shows("the authority is in certs.d, for all ports as it seems", "unknown")
            .prepare(|t, _| certs(t, "127.0.0.1", &[("untrusted.pem", "ca.crt")]))
            .fails(distrusted),
        shows("the authority in certs.d is no certificate", "unknown")
            .prepare(|t, scene| certs(t, scene.at(0), &[("conf", "ca.crt")]))
            .fails("no certificate in it"),
        fault("a client certificate is wanted")
            .wants_certificate()
            .environment(TRUST)
            .for_good()
            .fails("client certificate"),
        fault("a client certificate is wanted, and is in certs.d")
            .wants_certificate()
            .environment(TRUST)
            .prepare(|t, scene| {
                certs(t, scene.at(0), &[("good.pem", "client.cert"), ("good.key", "client.key")])
            })
            .pulls(),
        fault("a client certificate is wanted, and the one in certs.d has no key")
            .wants_certificate()
            .environment(TRUST)
            .for_good()
            .prepare(|t, scene| certs(t, scene.at(0), &[("good.pem", "client.cert")]))
            .fails("has no key"),
        fault("a client certificate is wanted, and the one in certs.d is a stranger's")
            .wants_certificate()
            .environment(TRUST)
            .for_good()
            .prepare(|t, scene| {
                certs(
                    t,
                    scene.at(0),
                    &[("unknown.pem", "client.cert"), ("unknown.key", "client.key")],
                )
            })
            .fails("client certificate"),
        shows("the file of authorities is not there", "good")
            .environment("SSL_CERT_FILE=/nothing")
            .fails("127.0.0.1:"),
        shows("the file of authorities is empty", "good")
            .environment("SSL_CERT_FILE=/dev/null")
            .fails("127.0.0.1:"),
        far("elsewhere, a certificate is good").tls("good").pulls(),
        far("elsewhere, nobody speaks TLS, and somebody speaks HTTP at another port")
            .bait("203.0.113.10:80")
            .for_good()
            .fails("it speaks no TLS"),
        far("elsewhere, nobody speaks TLS, and a password is stored")
            .asked(0, 0..=0)
            .for_good()
            .fails("it speaks no TLS"),
        fault("elsewhere, nobody speaks TLS, which is meant so")
            .elsewhere("203.0.113.10:80", "registry.example.org/app:1")
            .options("--tls-verify=false")
            .pulls(),
        far("elsewhere, nobody speaks TLS, and connections are closed at once")
            .meets(|_| Welcome::Close)
            .bait("203.0.113.10:80")
            .for_good()
            .fails("registry.example.org"),
        far("elsewhere, nobody listens where TLS is spoken")
            .name("nobody.example.org/app:1")
            .for_good()
            .fails("nobody.example.org: "),
        far("elsewhere, the handshake is refused")
            .meets(|_| Welcome::Say(vec![21, 3, 3, 0, 2, 2, 40]))
            .for_good()
            .fails("registry.example.org"),
        far("elsewhere, the handshake breaks off")
            .meets(|_| Welcome::Say(vec![22, 3, 3, 0x40, 0, 2, 0, 0x3f, 0xfc, 3, 3, 1, 2, 3]))
            .for_good()
            .fails("registry.example.org"),
        far("elsewhere, the handshake is noise")
            .meets(|_| Welcome::Say(vec![22; 100_000]))
            .for_good()
            .fails("registry.example.org"),
        far("elsewhere, the handshake is reset")
            .meets(|_| Welcome::Reset)
            .for_good()
            .fails("registry.example.org"),
        far("elsewhere, the handshake is reset three times")
            .tls("good")
            .meets(|nth| if nth <= 3 { Welcome::Reset } else { Welcome::Serve })
            .pulls(),
        far("elsewhere, nothing is said in the handshake")
            .options("--stall 500ms --retry 1")
            .meets(|_| Welcome::Hold)
            .for_good()
            .fails("nothing came for 0.5 s"),
    ];
    for (what, certificate) in [
        ("is over", "expired"),
        ("is for later", "future"),
        ("is another host's", "elsewhere"),
        ("is by an unknown authority", "unknown"),
        ("is by itself", "self"),
    ] {
        faults.extend([
            shows(&format!("a certificate {what}"), certificate).asked(0, 0..=0).fails(distrusted),
            shows(&format!("a certificate {what}, which is meant so"), certificate)
                .options("--tls-verify=false")
                .pulls(),
            far(&format!(
                "elsewhere, a certificate {what}, and somebody speaks HTTP at another port"
            ))
            .tls(certificate)
            .bait("203.0.113.10:80")
            .asked(0, 0..=0)
            .for_good()
            .fails(distrusted),
        ]);
    }
    faults
}

#[test]
fn a_registry_proves_who_it_is() {
    if lacks(&["openssl", "root", "ip", "unshare"]) {
        return;
    }
    run_all(faults());
}
