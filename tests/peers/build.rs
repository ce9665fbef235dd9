//! Building beside buildah and Docker: one corpus of Dockerfiles, one tree and one config of each.
//!
//! `build/cases` holds the corpus; [`case`] says how it is written. Each Dockerfile is built by
//! img-build, by buildah, and by the BuildKit in Debian's docker.io, from the same context and with
//! the same options. What comes out may differ in times and in the wording of history alone. A
//! builder that is known to do otherwise is left out by name and with the reason, and so is one
//! that lacks what the case is about; what must come out is then written in the case itself.

mod builder;
mod case;
mod outcome;
mod served;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use sandbox::dockerd::Dockerd;
use sandbox::{Sandbox, lacks};

use builder::{Builder, prepare};
use case::Case;
use outcome::{Outcome, Tree};

/// How many cases are built at once.
const WORKERS: usize = 2;

#[test]
fn the_corpus_gives_the_same_as_buildah_and_docker() {
    if lacks(super::PEERS) || lacks(&["dockerd", "setfattr", "setcap", "xz", "zstd", "bzip2"]) {
        return;
    }
    let only = std::env::var("TARE_TEST_CASE").unwrap_or_default();
    let cases: Vec<Case> =
        Case::all().into_iter().filter(|case| case.name.contains(&only)).collect();
    let docker = Sandbox::new();
    prepare(&docker);
    let old = std::env::var_os("TARE_DEV_DOCKER28").is_none();
    let daemon = old.then(|| Dockerd::building(&docker));
    if !old {
        docker.set("DOCKER", "/usr/bin/docker");
        docker.set("DOCKER_HOST", "unix:///tmp/bk28/docker.sock");
    }
    let docker = Mutex::new(docker);
    builder::load(&docker.lock().unwrap());

    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let t = Sandbox::new().with_limit(Duration::from_secs(300));
                prepare(&t);
                served::serve(&t);
                let base = Tree::of(&t, "base");
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = compare(&t, &docker, &base, case);
                    found.iter().for_each(|one| eprintln!("{one}"));
                    wrong.lock().unwrap().extend(found);
                }
                builder::clean(&t);
            });
        }
    });
    drop(daemon);
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// Builds a case with each builder, and returns what is not as it should be.
fn compare(t: &Sandbox, docker: &Mutex<Sandbox>, base: &Tree, case: &Case) -> Vec<String> {
    case.make_context(t);
    let mut wrong = Vec::new();
    let mut ours: Option<Outcome> = None;
    let alone = std::env::var_os("TARE_DEV_PEERS").is_some();
    for builder in [Builder::Ours, Builder::Buildah, Builder::Docker] {
        if builder == Builder::Buildah && std::env::var_os("TARE_DEV_NO_BUILDAH").is_some() {
            continue;
        }
        if case.without(builder) || (alone && builder == Builder::Ours) {
            continue;
        }
        let outcome = match builder {
            Builder::Docker => builder.build(&docker.lock().unwrap(), t, base, case),
            _ => builder.build(t, t, base, case),
        };
        let outcome = match (outcome, &case.fails) {
            (Err(said), None) => {
                wrong.push(format!("== {}: {builder:?} fails:\n{said}", case.name));
                continue;
            }
            (Ok(_), Some(_)) => {
                wrong.push(format!("== {}: {builder:?} does not fail", case.name));
                continue;
            }
            (Err(said), Some(expected)) => {
                if builder == Builder::Ours && !said.contains(expected.trim()) {
                    wrong.push(format!("== {}: the error is another:\n{said}", case.name));
                }
                continue;
            }
            (Ok(outcome), None) => outcome,
        };
        let mut differs = outcome.against_case(case);
        if let Some(ours) = &ours {
            differs += &outcome.against(ours, builder);
        }
        if builder == Builder::Ours {
            differs += &outcome.history_against_case(case);
        }
        if !differs.is_empty() {
            wrong.push(format!("== {}: {builder:?}:\n{differs}", case.name));
        }
        // Who comes first is who the others are compared with: us, but where a case is a question to them.
        ours.get_or_insert(outcome);
    }
    wrong
}

#[test]
fn the_corpus_covers_the_language() {
    let cases = Case::all();
    assert!(cases.len() >= 80, "{} cases", cases.len());
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    let text: String = cases
        .iter()
        .filter(|case| case.fails.is_none())
        .map(|case| format!("{}\n{}\n", case.dockerfile, case.options))
        .collect();
    let missing: Vec<_> = LANGUAGE.iter().filter(|word| !text.contains(*word)).collect();
    assert!(missing.is_empty(), "nothing builds {missing:?}");
}

/// What has to be in some Dockerfile, or on some command line, that is built.
#[rustfmt::skip]
const LANGUAGE: &[&str] = &[
    "FROM --platform=", " AS ", "FROM scratch", "ARG ",
    "RUN [", "--mount=type=bind", "--mount=type=cache", "--mount=type=tmpfs", "--mount=type=secret", "--mount=type=ssh",
    "--network=none", "--network=host", "--security=", "RUN <<",
    "COPY [", "--from=", "--chown=", "--chmod=", "--link", "--parents", "--exclude=", "COPY <<",
    "ADD ", "--checksum=", "--keep-git-dir", "--unpack", "ADD $HTTP", ".git#",
    "ENV ", "WORKDIR ", "USER ", "CMD ", "CMD [", "ENTRYPOINT ", "ENTRYPOINT [", "SHELL [", "LABEL ", "EXPOSE ",
    "VOLUME ", "VOLUME [", "STOPSIGNAL ", "HEALTHCHECK ", "--interval=", "--timeout=", "--start-period=",
    "--start-interval=", "--retries=", "HEALTHCHECK NONE", "ONBUILD ", "MAINTAINER ",
    "#syntax=", "# escape=", "check=skip=", "--target ", "--build-arg ", "--label ", "-f ", "--secret ", "--ssh ",
    "TARGETARCH", "BUILDPLATFORM", "HTTP_PROXY",
    ":-", "{NONE-", ":+", "{NONE+", "{V#*", "{V##", "{V%", "{V%%", "{V/", "{V//",
];
