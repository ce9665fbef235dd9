//! What lies between: name servers and proxies.

use sandbox::faulty::fault::{Fault, fault, run_all};
use sandbox::faulty::message::{Length, Reply, Then};
use sandbox::faulty::net::Dns;
use sandbox::faulty::server::Welcome;
use sandbox::lacks;

use super::auth::TRUST;

const REGISTRY: &str = "203.0.113.10:443";
const NAME: &str = "registry.example.org/app:1";

fn resolved(story: &str, dns: Dns) -> Fault {
    fault(story).elsewhere_with(dns, REGISTRY, NAME).tls("good").environment(TRUST)
}

/// Returns the row of a registry elsewhere, with a proxy that carries to it.
fn proxied(story: &str, environment: &str) -> Fault {
    let environment = format!("{TRUST} {environment}");
    fault(story).elsewhere(REGISTRY, NAME).tls("good").environment(&environment).host(
        "203.0.113.13:3128",
        |asked, _| match (asked.method.as_str(), asked.target.as_str()) {
            ("CONNECT", "registry.example.org:443") => Reply {
                then: Then::Tunnel(REGISTRY.into()),
                ..Reply::raw("HTTP/1.1 200 Connected\r\n\r\n")
            },
            _ => Reply::new(400, ""),
        },
    )
}

/// Returns the row of a proxy that answers so.
fn proxy_says(story: &str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Fault {
    fault(story)
        .elsewhere(REGISTRY, NAME)
        .tls("good")
        .environment(&format!("{TRUST} {PROXY}"))
        .asked(0, 0..=0)
        .host("203.0.113.13:3128", move |_, _| reply())
        .for_good()
}

const PROXY: &str = "HTTPS_PROXY=http://proxy.example.org:3128";

pub fn faults() -> Vec<Fault> {
    let not_told = |logs: &[Vec<_>]| -> bool {
        let logs: &[Vec<sandbox::faulty::message::Asked>] = logs;
        logs[0].iter().all(|asked| asked.header("proxy-authorization").is_none())
    };
    vec![
        resolved("the name server knows the registry", Dns::Answers).pulls(),
        resolved("the name server knows nothing", Dns::KnowsNothing)
            .for_good()
            .within(9.0)
            .fails("registry.example.org: no such host"),
        resolved("the name server knows no address", Dns::HasNoAddress)
            .for_good()
            .within(9.0)
            .fails("registry.example.org: no such host"),
        resolved("the name server fails", Dns::Fails)
            .for_good()
            .options("--retry 1")
            .fails("cannot look up its address"),
        resolved("the name server fails, once", Dns::FailsOnce).pulls(),
        resolved("the name server is silent", Dns::IsSilent)
            .for_good()
            .options("--stall 1s --retry 1")
            .fails("registry.example.org: "),
        resolved("the name server babbles", Dns::Babbles)
            .for_good()
            .options("--stall 1s --retry 1")
            .fails("registry.example.org: "),
        resolved("the registry has no route to it", Dns::Answers)
            .name("nobody.example.org/app:1")
            .for_good()
            .fails("nobody.example.org: "),
        proxied("a proxy is on the way", PROXY).asked(1, 1..=9).pulls(),
        proxied(
            "a proxy is on the way, in small letters",
            "https_proxy=http://proxy.example.org:3128",
        )
        .asked(1, 1..=9)
        .pulls(),
        proxied("a proxy is on the way to HTTP only", "HTTP_PROXY=http://proxy.example.org:3128")
            .asked(1, 0..=0)
            .pulls(),
        proxied(
            "a proxy is not for this registry",
            "HTTPS_PROXY=http://proxy.example.org:3128 NO_PROXY=registry.example.org",
        )
        .asked(1, 0..=0)
        .pulls(),
        proxied(
            "a proxy is not for registries of this domain",
            "HTTPS_PROXY=http://proxy.example.org:3128 NO_PROXY=example.net,.example.org",
        )
        .asked(1, 0..=0)
        .pulls(),
        proxied("a proxy is for nobody", "HTTPS_PROXY=http://proxy.example.org:3128 NO_PROXY='*'")
            .asked(1, 0..=0)
            .pulls(),
        proxied(
            "a proxy wants a password, and gets it",
            "HTTPS_PROXY=http://me:hunter2-proxy@proxy.example.org:3128",
        )
        .trusted()
        .sees(move |logs, _| {
            match not_told(logs)
                && logs[1].iter().all(|asked| asked.header("proxy-authorization").is_some())
            {
                true => Ok(()),
                false => Err("the proxy was not told, or the registry was".into()),
            }
        })
        .pulls(),
        fault("a proxy has a password in its URL, and refuses it")
            .elsewhere(REGISTRY, NAME)
            .tls("good")
            .environment(&format!(
                "{TRUST} HTTPS_PROXY=http://me:hunter2-proxy@proxy.example.org:3128"
            ))
            .asked(0, 0..=0)
            .host("203.0.113.13:3128", |_, _| {
                Reply::new(407, "").header("proxy-authenticate", "Basic realm=proxy")
            })
            .trusted()
            .for_good()
            .fails("registry.example.org: "),
        fault("a proxy has a password in its URL, and nobody listens there")
            .elsewhere(REGISTRY, NAME)
            .tls("good")
            .environment(&format!(
                "{TRUST} HTTPS_PROXY=http://me:hunter2-proxy@proxy.example.org:9"
            ))
            .asked(0, 0..=0)
            .for_good()
            .fails("registry.example.org: "),
        fault("a proxy's URL is none, and has a password in it")
            .elsewhere(REGISTRY, NAME)
            .tls("good")
            .environment(&format!("{TRUST} HTTPS_PROXY=http://me:hunter2@:::/"))
            .for_good()
            .ends(),
        proxy_says("a proxy forbids", || Reply::new(403, "<html>")).fails("registry.example.org: "),
        proxy_says("a proxy has no way", || Reply::new(502, "")).fails("registry.example.org: "),
        proxy_says("a proxy sends elsewhere", || Reply::to("http://203.0.113.12/"))
            .fails("registry.example.org: "),
        proxy_says("a proxy hangs up", || Reply::raw("")).fails("registry.example.org: "),
        proxy_says("a proxy speaks no HTTP", || Reply::raw("SSH-2.0-x\r\n"))
            .fails("registry.example.org: "),
        proxy_says("a proxy shows a page in place of the registry", || {
            Reply::new(200, "<html>log in").length(Length::Untold).then(Then::Close)
        })
        .fails("registry.example.org: "),
        proxy_says("a proxy's head never ends", || Reply {
            then: Then::Flood(b"x: y\r\n".repeat(10_000)),
            ..Reply::raw("HTTP/1.1 200 OK\r\n")
        })
        .fails("registry.example.org: "),
        proxy_says("a proxy says nothing", || Reply { then: Then::Hold, ..Reply::raw("") })
            .options("--stall 500ms --retry 1")
            .fails("nothing came for 0.5 s"),
        proxy_says("a proxy is closed at once", || Reply::raw(""))
            .meets(|_| Welcome::Reset)
            .fails("registry.example.org: "),
        proxy_says("a proxy leads to somebody else", || Reply {
            then: Then::Tunnel("203.0.113.12:443".into()),
            ..Reply::raw("HTTP/1.1 200 Connected\r\n\r\n")
        })
        .host("203.0.113.12:443", |asked, scene| scene.well(asked))
        .tls("elsewhere")
        .asked(2, 0..=0)
        .fails("its certificate is not trusted"),
        fault("a registry without TLS is behind a proxy")
            .elsewhere("203.0.113.10:80", NAME)
            .options("--tls-verify=false")
            .environment("HTTP_PROXY=http://proxy.example.org:3128")
            .host("203.0.113.13:3128", |asked, scene| scene.well(asked))
            .asked(0, 0..=0)
            .pulls(),
        fault("a proxy is set, and the registry is on this machine")
            .environment("HTTP_PROXY=http://{1} HTTPS_PROXY=http://{1} ALL_PROXY=http://{1}")
            .bait("127.0.0.1:0")
            .pulls(),
    ]
}

#[test]
fn a_name_server_and_a_proxy_are_not_trusted_either() {
    if lacks(&["openssl", "root", "ip", "unshare"]) {
        return;
    }
    run_all(faults());
}
