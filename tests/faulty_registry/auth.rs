//! 401, and what is asked of whom then: challenges, token services, and where they are.

use sandbox::faulty::fault::{BASIC, Fault, Scene, fault, run_all};
use sandbox::faulty::message::{Asked, Length, Reply, Then};
use sandbox::lacks;

/// A token that a service gives out. It is a secret.
const TOKEN: &str = "hunter2.token";

/// Answers whoever shows `Basic` with the right password.
fn basic(asked: &Asked, scene: &Scene, challenge: impl Into<String>) -> Reply {
    match asked.header("authorization") == Some(&format!("Basic {BASIC}")) {
        true => scene.well(asked),
        false => Reply::challenge(challenge),
    }
}

/// Answers whoever shows the token, and gives it out at `/token`.
fn bearer(asked: &Asked, scene: &Scene) -> Reply {
    match asked.path() {
        "/token" => Reply::new(200, format!(r#"{{"token":"{TOKEN}","expires_in":300}}"#)),
        _ => for_token(asked, scene, TOKEN),
    }
}

fn for_token(asked: &Asked, scene: &Scene, token: &str) -> Reply {
    match asked.header("authorization") == Some(&format!("Bearer {token}")) {
        true => scene.well(asked),
        false => Reply::challenge(r#"Bearer realm="/token",service="s""#),
    }
}

/// Returns the row of a registry that wants a token, and whose token service answers so.
fn token(story: &str, answer: impl Fn(&Asked, &Scene) -> Reply + Send + Sync + 'static) -> Fault {
    fault(story).registry(move |asked, scene| match asked.path() {
        "/token" => answer(asked, scene),
        _ => for_token(asked, scene, TOKEN),
    })
}

/// Returns the row of a registry with these headers in its 401, and how it should end.
fn challenged(challenges: &'static [&'static str]) -> Fault {
    let shown: Vec<String> = challenges.iter().map(|it| it.chars().take(70).collect()).collect();
    fault(format!("the challenge is {shown:?}")).registry(move |asked, scene| {
        if asked.path() == "/token" {
            return bearer(asked, scene);
        }
        if asked.header("authorization").is_some_and(|it| it.contains(BASIC) || it.contains(TOKEN))
        {
            return scene.well(asked);
        }
        challenges.iter().fold(Reply::new(401, ""), |reply, challenge| {
            reply.header("www-authenticate", *challenge)
        })
    })
}

pub fn challenges() -> Vec<Fault> {
    let mut faults = vec![
        fault("401 without a challenge").registry(|_, _| Reply::new(401, "")).fails("does not say how").asked(0, 1..=1),
        fault("401 and nobody has stored a password")
            .registry(|asked, scene| basic(asked, scene, "Basic realm=r"))
            .anonymous()
            .fails("authentication required")
            .asked(0, 1..=1),
        fault("401 for ever, whatever the password is")
            .registry(|_, _| Reply::challenge("Basic realm=r"))
            .fails("its credentials are refused")
            .asked(0, 2..=2),
        fault("401 for ever, and a token is given each time")
            .registry(|asked, scene| match asked.path() {
                "/token" => Reply::new(200, format!(r#"{{"token":"{TOKEN}.{}"}}"#, scene.count("token"))),
                _ => Reply::challenge(r#"Bearer realm="/token""#),
            })
            .fails("access denied")
            .asked(0, 3..=4),
        fault("401 for a blob only")
            .registry(|asked, scene| match asked.blob() {
                Some(_) => basic(asked, scene, "Basic realm=r"),
                None => scene.well(asked),
            })
            .pulls(),
        fault("401 for a blob only, and a token is wanted")
            .registry(|asked, scene| match asked.blob().is_some() || asked.path() == "/token" {
                true => bearer(asked, scene),
                false => scene.well(asked),
            })
            .pulls(),
        fault("403 after the password").registry(|asked, _| match asked.header("authorization") {
            Some(_) => Reply::new(403, r#"{"errors":[{"code":"DENIED"}]}"#),
            None => Reply::challenge("Basic realm=r"),
        })
        .fails("access denied: DENIED"),
        fault("407, as if it were a proxy")
            .registry(|_, _| Reply::new(407, "").header("proxy-authenticate", "Basic realm=r"))
            .fails("407"),
        fault("the registry changes from Basic to Bearer in between").registry(|asked, scene| match asked.manifest() {
            Some(_) => basic(asked, scene, "Basic realm=r"),
            None => bearer(asked, scene),
        })
        .pulls(),
        fault("the challenge asks for more than to pull, and from elsewhere")
            .registry(|asked, scene| match asked.path() {
                "/token" => bearer(asked, scene),
                _ if asked.header("authorization").is_some() => scene.well(asked),
                _ => Reply::challenge(
                    r#"Bearer realm="/token",service="s",scope="repository:victim:pull,push,delete registry:catalog:*""#,
                ),
            })
            .sees(|logs, _| {
                let token = logs[0].iter().find(|asked| asked.path() == "/token").unwrap();
                match token.target.contains("scope=repository%3Aapp%3Apull") && !token.target.contains("victim") {
                    true => Ok(()),
                    false => Err("another scope than ours".into()),
                }
            })
            .pulls(),
        fault("the name of the service would add to the question")
            .registry(|asked, scene| match asked.path() {
                "/token" => bearer(asked, scene),
                _ if asked.header("authorization").is_some() => scene.well(asked),
                _ => Reply::challenge(r#"Bearer realm="/token",service="s&scope=repository:victim:push#x""#),
            })
            .sees(|logs, _| {
                let token = logs[0].iter().find(|asked| asked.path() == "/token").unwrap();
                match token.target.matches("&scope=").count() {
                    1 => Ok(()),
                    n => Err(format!("{n} scopes")),
                }
            })
            .pulls(),
    ];
    for good in [
        &["Basic realm=\"r\""][..],
        &["basic"],
        &["BASIC realm=r, charset=\"UTF-8\""],
        &["Bearer realm=\"/token\""],
        &["bEaReR Realm = \"/token\" , Service = \"s\""],
        &["Negotiate", "NTLM", "Bearer realm=\"/token\"", "Basic realm=r"],
        &["Digest realm=\"r\", nonce=\"a, Basic b\", Basic realm=r"],
        &["Negotiate YIIabc==, Basic realm=\"a \\\"quoted\\\" one\""],
        &[",, ,Basic realm=r,,"],
        &["Bearer realm=\"/token\",error=\"invalid_token\",error_description=\"\tno, really\""],
    ] {
        faults.push(challenged(good).pulls());
    }
    for (bad, says) in [
        (&["Bearer"][..], "names no realm"),
        (&["Bearer realm=\"\""], "127.0.0.1:"),
        (&["Bearer realm=\"/token"], "names no realm"),
        (&["Bearer service=s"], "names no realm"),
        (&["Bearer realm=/token"], "names no realm"),
        (&["Basic realm=\"\x1b[31mred\""], "invalid HTTP header"),
        (&["Bearer realm=\"http://\""], "no URL"),
        (&["Bearer realm=\"http://[/token\""], "no URL"),
        (&["Bearer realm=\"http://a b/\""], "no URL"),
        (&["Negotiate"], "not supported: \"negotiate\""),
        (&["Digest realm=r, nonce=x"], "not supported: \"digest\""),
        (&["realm=r"], "does not say how"),
        (&["\"Basic\""], "does not say how"),
        (&[""], "does not say how"),
        (&["=,=,="], "does not say how"),
        (&["\u{ff}\u{fe} Basic"], "does not say how"),
    ] {
        faults.push(challenged(bad).fails(says));
    }
    faults.push(
        fault("a hundred challenges, and the last one is the one")
            .registry(|asked, scene| match asked.header("authorization") {
                Some(_) => scene.well(asked),
                None => (0..99)
                    .fold(Reply::new(401, ""), |reply, n| {
                        reply.header("www-authenticate", format!("Way{n} realm=r"))
                    })
                    .header("www-authenticate", "Basic realm=r"),
            })
            .ends(),
    );
    faults.push(
        fault("a challenge of 64 KiB")
            .registry(|_, _| Reply::challenge(format!("Basic realm=\"{}\"", "r".repeat(64 << 10))))
            .fails("127.0.0.1:"),
    );
    faults
}

pub fn tokens() -> Vec<Fault> {
    let mut faults = vec![
        fault("a token is wanted").registry(bearer).pulls().sees(|logs, _| {
            match logs[0].iter().filter(|asked| asked.path() == "/token").count() {
                1 => Ok(()),
                n => Err(format!("{n} tokens")),
            }
        }),
        token("a token is called access_token", |_, _| {
            Reply::new(200, format!(r#"{{"access_token":"{TOKEN}","issued_at":"never"}}"#))
        })
        .pulls(),
        token("a token is given under both names, the first one empty", |_, _| {
            Reply::new(200, format!(r#"{{"token":"","access_token":"{TOKEN}"}}"#))
        })
        .pulls(),
        token("a token service is busy, once", |asked, scene| match asked.nth {
            1 => Reply::new(503, ""),
            _ => bearer(asked, scene),
        })
        .pulls(),
        token("a token service asks for a second's patience", |asked, scene| match asked.nth {
            1 => Reply::new(429, "").header("retry-after", "1"),
            _ => bearer(asked, scene),
        })
        .pulls()
        .not_before(1.0),
        token("a token service hangs up, once", |asked, scene| match asked.nth {
            1 => Reply::raw(""),
            _ => bearer(asked, scene),
        })
        .pulls(),
        token("a token service breaks off, always", |asked, scene| {
            bearer(asked, scene).cut(9, Then::Reset)
        })
        .fails("127.0.0.1:"),
        token("a token service is broken", |_, _| Reply::new(500, "")).fails("500").asked(0, 6..=6),
        token("a token service refuses the password", |_, _| Reply::new(401, ""))
            .fails("does not accept the credentials"),
        token("a token service forbids", |_, _| Reply::new(403, ""))
            .fails("does not accept the credentials"),
        token("a token service wants a password, and there is none", |_, _| Reply::new(401, ""))
            .anonymous()
            .fails("authentication required"),
        token("a token service is not there", |_, _| Reply::new(404, "")).fails("answered 404"),
        token("a token service answers 200 and a page of HTML", |_, _| {
            Reply::new(200, "<html>hunter2")
        })
        .fails("holds no token"),
        token("a token service answers nothing", |_, _| Reply::new(200, ""))
            .fails("holds no token"),
        token("a token service answers null", |_, _| Reply::new(200, "null"))
            .fails("holds no token"),
        token("a token service answers a list", |_, _| Reply::new(200, r#"["hunter2"]"#))
            .fails("holds no token"),
        token("a token service answers a nest of brackets", |_, _| {
            Reply::new(200, "[".repeat(1 << 19))
        })
        .fails("holds no token"),
        token("a token service sends itself round in a circle", |_, _| Reply::to("/token"))
            .fails("redirects"),
        token("a token is null", |_, _| Reply::new(200, r#"{"token":null}"#))
            .fails("holds no token"),
        token("a token is empty", |_, _| Reply::new(200, r#"{"token":""}"#))
            .fails("holds no token"),
        token("a token is a number", |_, _| Reply::new(200, r#"{"token":5}"#))
            .fails("holds no token"),
        token("a token never ends", |_, _| {
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"token\":\"";
            Reply { then: Then::Flood(b"hunter2.".repeat(8 << 10)), ..Reply::raw(head) }
        })
        .fails("longer than 1048576 bytes"),
        token("an answer without a token never ends", |_, _| {
            Reply::new(200, " ")
                .length(Length::Chunked)
                .then(Then::Flood(format!("4000\r\n{}\r\n", " ".repeat(0x4000)).into()))
        })
        .fails("longer than 1048576 bytes"),
        token("the error of a token service never ends", |_, _| {
            Reply::new(500, " ").length(Length::Untold).then(Then::Flood(vec![b' '; 64 << 10]))
        })
        .fails("500"),
        token("a token of 900 kB", |_, _| {
            Reply::new(200, format!(r#"{{"token":"{}"}}"#, "hunter2".repeat(130_000)))
        })
        .ends(),
        fault("a token is good for one thing only, and then another is needed")
            .registry(|asked, scene| match asked.path() {
                "/token" => {
                    Reply::new(200, format!(r#"{{"token":"hunter2.{}"}}"#, scene.count("token")))
                }
                _ if asked.manifest().is_some() => for_token(asked, scene, "hunter2.1"),
                _ => for_token(asked, scene, "hunter2.2"),
            })
            .pulls(),
        fault("a token dies in the middle of a blob")
            .registry(|asked, scene| match asked.path() {
                "/token" => {
                    Reply::new(200, format!(r#"{{"token":"hunter2.{}"}}"#, scene.count("token")))
                }
                _ if asked.from().is_some() => for_token(asked, scene, "hunter2.2"),
                _ if scene.is_layer(asked) => {
                    let reply = for_token(asked, scene, "hunter2.1");
                    let some = reply.body.len().min(300_000);
                    reply.cut(some, Then::Reset)
                }
                _ => match asked.header("authorization").is_some_and(|it| it.contains("hunter2")) {
                    true => scene.well(asked),
                    false => for_token(asked, scene, "hunter2.1"),
                },
            })
            .pulls(),
        fault("a token is dead as soon as it is given")
            .registry(|asked, scene| match asked.path() {
                "/token" => Reply::new(200, format!(r#"{{"token":"{TOKEN}"}}"#)),
                _ if asked.header("authorization").is_none() => for_token(asked, scene, TOKEN),
                _ => Reply::challenge(r#"Bearer realm="/token",error="invalid_token""#),
            })
            .fails("access denied")
            .asked(0, 3..=4),
        fault("a dead token is given again, when the blobs come")
            .registry(|asked, scene| match asked.path() {
                "/token" => Reply::new(200, format!(r#"{{"token":"{TOKEN}"}}"#)),
                _ if asked.manifest().is_some() => for_token(asked, scene, TOKEN),
                _ => Reply::challenge(r#"Bearer realm="/token",error="invalid_token""#),
            })
            .fails("127.0.0.1:")
            .asked(0, 4..=20),
        fault("a token for one repository is asked for in each of two")
            .registry(|asked, scene| match asked.path() {
                "/token" => {
                    let for_b = asked.target.contains("scope=repository%3Ab%3Apull");
                    Reply::new(
                        200,
                        format!(r#"{{"token":"hunter2.{}"}}"#, if for_b { "b" } else { "app" }),
                    )
                }
                path if path.starts_with("/v2/b/") => for_token(asked, scene, "hunter2.b"),
                _ => for_token(asked, scene, "hunter2.app"),
            })
            .and("{0}/b:1")
            .sees(|logs, _| {
                let shown = |asked: &Asked, token: &str| {
                    asked
                        .header("authorization")
                        .is_none_or(|it| !it.starts_with("Bearer") || it.ends_with(token))
                };
                let mixed = logs[0].iter().find(|asked| match asked.path().starts_with("/v2/b/") {
                    true => !shown(asked, "hunter2.b"),
                    false => !shown(asked, "hunter2.app"),
                });
                mixed.map_or(Ok(()), |asked| {
                    Err(format!("a token of another repository: {asked:?}"))
                })
            })
            .pulls(),
    ];
    for (what, escaped) in [
        ("a line break", r"\r\n"),
        ("a line break and a header", r"\r\nhost: elsewhere"),
        ("a NUL", r"\u0000"),
        ("a blank", " "),
        ("a letter that is not ASCII", "é"),
        ("an escape", r"\u001b[31m"),
    ] {
        faults.push(
            token(&format!("in a token there is {what}"), move |_, _| {
                Reply::new(200, format!(r#"{{"token":"hunter2{escaped}x"}}"#))
            })
            .fails("control characters")
            .sees(|logs, _| {
                let sent = logs[0].iter().any(|asked| {
                    asked.header("authorization").is_some_and(|it| it.starts_with("Bearer"))
                });
                if sent { Err("it was sent".into()) } else { Ok(()) }
            }),
        );
    }
    for life in ["0", "1", "59", "18446744073709551615", "null"] {
        faults.push(
            token(&format!("a token's life is {life}"), move |_, _| {
                Reply::new(200, format!(r#"{{"token":"{TOKEN}","expires_in":{life}}}"#))
            })
            .pulls(),
        );
    }
    for life in ["-1", "1e400", "\"soon\"", "3.5"] {
        faults.push(
            token(&format!("a token's life is {life}"), move |_, _| {
                Reply::new(200, format!(r#"{{"token":"{TOKEN}","expires_in":{life}}}"#))
            })
            .ends(),
        );
    }
    faults
}

/// Returns the row of a registry on loopback whose token service is there.
fn realm(story: &str, realm: &'static str) -> Fault {
    fault(story).registry(move |asked, scene| {
        let realm = realm.replace("{1}", scene.addresses().get(1).map_or("", |it| it));
        match asked.header("authorization") == Some(&format!("Bearer {TOKEN}")) {
            true => scene.well(asked),
            false => Reply::challenge(format!(r#"Bearer realm="{realm}",service="s""#)),
        }
    })
}

/// Returns the row of a registry elsewhere whose token service is there.
fn realm_of(story: &str, place: &'static str) -> Fault {
    realm(story, place)
        .elsewhere("203.0.113.10:443", "registry.example.org/app:1")
        .tls("good")
        .environment(TRUST)
}

/// Lets a program trust the authority of the tests, and no other.
pub const TRUST: &str = "SSL_CERT_FILE={trusted}";

pub fn realms() -> Vec<Fault> {
    let give = |_: &Asked, _: &Scene| Reply::new(200, format!(r#"{{"token":"{TOKEN}"}}"#));
    let plain = "over plain HTTP";
    let mut faults = vec![
        realm("the token service is at another port of the registry's host", "http://{1}/token")
            .host("127.0.0.1:0", give)
            .trusted()
            .asked(1, 1..=1)
            .pulls(),
        realm("the token service is at another address of this machine", "http://{1}/token")
            .bait("127.0.0.2:0")
            .fails(plain),
        realm(
            "the token service is at localhost, and the registry at 127.0.0.1",
            "http://localhost:9/token",
        )
        .fails(plain),
        realm("the token service is at another address, with TLS", "https://{1}/token")
            .bait("127.0.0.2:0")
            .fails("which is an address, not a name"),
        realm(
            "the token service is at an address that looks like a number",
            "https://2130706434/token",
        )
        .fails("which is an address, not a name"),
        realm("the token service is a file", "file:///etc/passwd").fails("which is no web address"),
        realm("the token service is data", "data:application/json,{}").fails("which is no"),
        realm("the token service's URL has a password", "http://a:b@{1}/token")
            .bait("127.0.0.1:0")
            .fails("with a password in the URL"),
        realm("the token service sends to another port", "/token")
            .registry(|asked, scene| match asked.path() {
                "/token" => Reply::to(format!("http://{}/token", scene.at(1))),
                _ => for_token(asked, scene, TOKEN),
            })
            .host("127.0.0.1:0", give)
            .asked(1, 1..=1)
            .sees(|logs, _| match logs[1][0].header("authorization") {
                None => Ok(()),
                Some(_) => Err("with the password".into()),
            })
            .pulls(),
        realm("the token service sends to another port, which wants the password", "/token")
            .registry(|asked, scene| match asked.path() {
                "/token" => Reply::to(format!("http://{}/token", scene.at(1))),
                _ => for_token(asked, scene, TOKEN),
            })
            .host("127.0.0.1:0", |_, _| Reply::challenge("Basic realm=r"))
            .fails("does not accept the credentials"),
        realm("an identity token is asked for, and sent on", "/token")
            .registry(|asked, scene| match asked.path() {
                "/token" => {
                    Reply::new(308, "").header("location", format!("http://{}/token", scene.at(1)))
                }
                _ => for_token(asked, scene, TOKEN),
            })
            .bait("127.0.0.1:0")
            .prepare(|t, scene| {
                let auth = format!(
                    r#"{{"auths":{{"{}":{{"identitytoken":"hunter2-id"}}}}}}"#,
                    scene.at(0)
                );
                std::fs::write(t.path("home/.docker/config.json"), auth).unwrap();
            })
            .fails("answered 308"),
        realm_of(
            "elsewhere, the token service is at a public name",
            "https://auth.example.org/token",
        )
        .host("203.0.113.11:443", give)
        .tls("good")
        .trusted()
        .asked(1, 1..=1)
        .pulls(),
        realm_of(
            "elsewhere, the token service is at the registry's host, another port",
            "https://registry.example.org:8443/token",
        )
        .host("203.0.113.10:8443", give)
        .tls("good")
        .trusted()
        .pulls(),
        realm_of(
            "elsewhere, the token service is at the registry's host, without TLS",
            "http://registry.example.org/token",
        )
        .bait("203.0.113.10:80")
        .fails(plain),
        realm_of(
            "elsewhere, the token service is at a public name, without TLS",
            "http://auth.example.org/token",
        )
        .bait("203.0.113.11:80")
        .fails(plain),
        realm_of("elsewhere, the token service is at an address", "https://203.0.113.11/token")
            .bait("203.0.113.11:443")
            .tls("good")
            .fails("which is an address, not a name"),
        realm_of(
            "elsewhere, the token service is on the client's machine",
            "https://127.0.0.1:443/token",
        )
        .bait("127.0.0.1:443")
        .tls("good")
        .fails("which is an address, not a name"),
        realm_of(
            "elsewhere, the token service is on the client's machine, by name",
            "https://localhost/token",
        )
        .bait("127.0.0.1:443")
        .tls("good")
        .fails("which is no public name"),
        realm_of(
            "elsewhere, the token service is where clouds keep secrets",
            "https://169.254.169.254/latest",
        )
        .bait("169.254.169.254:443")
        .tls("good")
        .fails("which is an address, not a name"),
        realm_of(
            "elsewhere, the token service is where clouds keep secrets, without TLS",
            "http://169.254.169.254/latest",
        )
        .bait("169.254.169.254:80")
        .fails(plain),
        realm_of(
            "elsewhere, the token service is at a name without a dot",
            "https://intranet/token",
        )
        .bait("203.0.113.11:443")
        .tls("good")
        .fails("which is no public name"),
        realm_of(
            "elsewhere, the token service sends to the client's machine",
            "https://auth.example.org/token",
        )
        .host("203.0.113.11:443", |_, _| Reply::to("https://127.0.0.1/token"))
        .tls("good")
        .trusted()
        .bait("127.0.0.1:443")
        .tls("good")
        .fails("which is for this machine alone"),
        realm_of(
            "elsewhere, the token service has another's certificate",
            "https://auth.example.org/token",
        )
        .host("203.0.113.11:443", give)
        .tls("elsewhere")
        .asked(1, 0..=0)
        .fails("its certificate is not trusted"),
        realm_of(
            "elsewhere, the token service has no name server",
            "https://unknown.example.org/token",
        )
        .fails("no such host"),
    ];
    for (what, place) in [
        ("IPv6", "https://[::1]/token"),
        ("an IPv4 address in IPv6", "https://[::ffff:127.0.0.1]/token"),
    ] {
        faults.push(
            realm_of(&format!("elsewhere, the token service is at {what}"), place)
                .fails("which is an address"),
        );
    }
    faults
}

#[test]
fn a_registry_that_wants_to_know_who_asks_is_told_in_the_way_it_names() {
    run_all(challenges());
}

#[test]
fn a_token_is_used_for_what_it_was_given_for() {
    run_all(tokens());
}

#[test]
fn a_password_goes_to_no_token_service_elsewhere() {
    if lacks(&["openssl", "root", "ip", "unshare"]) {
        return;
    }
    run_all(realms());
}
