use proptest::prelude::*;

use super::*;
use crate::dockerfile::scope::Told;

fn graph(text: &str) -> Result<Graph> {
    let file = Dockerfile::parse(text.as_bytes())?;
    let globals = Globals::of(&file, &Told::nothing())?;
    Graph::of(&file, &globals, &Default::default())
}

/// Returns what is built for a target, each stage with what it needs.
fn plan(text: &str, target: Option<&str>) -> String {
    let plan = || -> Result<String> {
        let graph = graph(text)?;
        let order = graph.order(graph.target(target)?)?;
        let base = |base: &Base| match base {
            Base::Scratch => "scratch".to_owned(),
            Base::Stage(stage) => graph.name(*stage),
            Base::Context(name) => format!("={name}"),
            Base::Image(image) => format!("@{image}"),
        };
        let stage = |stage: &usize| {
            let needs: Vec<String> = graph.needs(*stage).map(base).collect();
            format!("{}: {}", graph.name(*stage), needs.join(" "))
        };
        Ok(order.iter().map(stage).collect::<Vec<_>>().join("; "))
    };
    plan().unwrap_or_else(|err| format!("! {err}"))
}

#[test]
fn only_what_a_target_needs_is_built() {
    let table = [
        ("FROM a", None, "0: @a"),
        ("FROM scratch", None, "0: scratch"),
        ("FROM a AS b", None, "b: @a"),
        ("FROM a AS b\nFROM b", None, "b: @a; 1: b"),
        ("FROM a AS b\nFROM c", None, "1: @c"),
        ("FROM a AS b\nFROM c", Some("b"), "b: @a"),
        ("FROM a AS b\nFROM c", Some("B"), "b: @a"),
        ("FROM a AS b\nFROM c\nCOPY --from=b x y", None, "b: @a; 1: @c b"),
        ("FROM a AS b\nFROM c\nCOPY --from=B x y", None, "b: @a; 1: @c b"),
        ("FROM a AS b\nFROM c\nCOPY --from=0 x y", None, "b: @a; 1: @c b"),
        ("FROM a\nCOPY --from=d:1 x y", None, "0: @a @d:1"),
        ("FROM a\nCOPY --from=scratch x y", None, "0: @a scratch"),
        ("FROM a AS b\nFROM c\nRUN --mount=from=b,target=/x y", None, "b: @a; 1: @c b"),
        ("FROM a\nRUN --mount=from=d,target=/x y", None, "0: @a @d"),
        ("FROM a\nRUN --mount=from=d,target=/x,type=tmpfs y", None, "0: @a"),
        // The number of a stage is only for COPY.
        ("FROM a AS b\nFROM c\nRUN --mount=from=0,target=/x y", None, "1: @c @0"),
        // A number is no name even if a stage might be called so.
        (
            "FROM a AS b\nFROM b AS c\nFROM scratch AS d\nFROM d\nCOPY --from=c x y",
            None,
            "b: @a; c: b; d: scratch; 3: d c",
        ),
        // FROM looks for the name as it is written.
        ("FROM a AS b\nFROM b", Some("b"), "b: @a"),
        // Of two with one name, the later one.
        ("FROM a AS b\nFROM c AS b\nFROM b", None, "b: @c; 2: b"),
        ("FROM b AS b\nFROM b", None, "b: @b; 1: b"),
        ("FROM a AS scratch\nFROM scratch", None, "scratch: @a; 1: scratch"),
        // arguments
        ("ARG v=1\nFROM a:$v", None, "0: @a:1"),
        ("ARG s=b\nFROM a AS b\nFROM $s", None, "b: @a; 1: b"),
        ("FROM ${x:-a}", None, "0: @a"),
        // triggers
        ("FROM a AS b\nONBUILD COPY --from=d x y\nFROM b", None, "b: @a; 1: b @d"),
        (
            "FROM a AS d\nFROM a AS b\nONBUILD COPY --from=d x y\nFROM b\nCOPY --from=e f g",
            None,
            "d: @a; b: @a; 2: b d @e",
        ),
        // A trigger is of the next stage alone.
        (
            "FROM a AS b\nONBUILD COPY --from=d x y\nFROM b AS c\nFROM c",
            None,
            "b: @a; c: b @d; 2: c",
        ),
    ];
    for (text, target, expected) in table {
        assert_eq!(plan(text, target), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_built_is_an_error_with_its_line() {
    let table = [
        ("FROM a\nCOPY --from=0 x y", None, "! 2: COPY: a stage cannot take from itself"),
        ("FROM a AS b\nCOPY --from=b x y", None, "! 2: COPY: a stage cannot take from itself"),
        (
            "FROM a AS b\nCOPY --from=c x y\nFROM a AS c\nRUN --mount=from=b,target=/x y",
            None,
            "! 4: RUN: stages b and c need each other",
        ),
        (
            "FROM a AS b\nCOPY --from=c x y\nFROM a AS c\nFROM b",
            None,
            "! 2: COPY: stage c does not come before this one",
        ),
        // What is not needed may be as it likes.
        ("FROM a AS b\nCOPY --from=c x y\nFROM a AS c\nFROM d", None, "2: @d"),
        ("FROM a\nCOPY --from=1 x y", None, "! 2: COPY: --from=1: there is no such stage"),
        ("FROM a\nCOPY --from=-1 x y", None, "! 2: COPY: --from=-1: there is no such stage"),
        ("FROM a\nCOPY --from=$b x y", None, "! 2: COPY: --from=$b: no variables here"),
        ("FROM a AS b\nFROM c", Some("x"), "! x: there is no such stage"),
        ("FROM $a", None, "! 1: FROM: $a: nothing is left of the image's name"),
        ("FROM ${a", None, "! 1: FROM: ${ has no }"),
        ("ARG a=${b\nFROM c", None, "! 1: ARG: ${ has no }"),
        ("FROM --platform=$p a", None, "! 1: FROM: --platform=$p: nothing is left of it"),
        ("FROM a AS b\nONBUILD FOO\nFROM b", None, "! 3: FOO: there is no such instruction"),
        ("FROM a AS b\nONBUILD COPY x\nFROM b", None, "! 3: COPY: a destination is missing"),
        ("FROM a AS b\nONBUILD FOO\nFROM b\nFROM c", None, "2: @c"),
        (
            "FROM a AS b\nONBUILD COPY --from=c x y\nFROM b AS c",
            None,
            "! 3: COPY: stage c does not come before this one",
        ),
    ];
    for (text, target, expected) in table {
        assert_eq!(plan(text, target), expected, "{text}");
    }
    for bad in ["FROM A", "FROM a AS b\nFROM B", "FROM a\nCOPY --from=A/B:c:d x y", "FROM a:b:c"] {
        assert!(graph(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_hint_names_the_stage_that_is_meant() {
    let hint = |text: &str, target: Option<&str>| {
        let target = graph(text).and_then(|graph| graph.target(target));
        target.unwrap_err().hint
    };
    assert_eq!(hint("FROM a AS build\nFROM b", Some("biuld")).as_deref(), Some("build"));
    assert_eq!(hint("FROM a AS x\nFROM b AS y", Some("final")).as_deref(), Some("one of x, y"));
    assert_eq!(hint("FROM a", Some("b")).as_deref(), Some("FROM image AS name"));
    assert_eq!(hint("FROM a AS build\nFROM Build", None).as_deref(), Some("build"));
}

#[test]
fn a_platform_is_one_or_an_error() {
    let graph =
        graph("FROM --platform=$BUILDPLATFORM a\nFROM --platform=linux/arm64/v8 b").unwrap();
    assert_eq!(graph.stages[0].platform, Some(Platform::host()));
    assert_eq!(graph.stages[1].platform.as_ref().unwrap().to_string(), "linux/arm64");
    assert!(self::graph("FROM --platform=a/b/c/d x").is_err());
}

#[test]
fn a_trigger_is_read_as_if_it_stood_in_the_line_of_from() {
    let trigger = trigger("RUN <<A\nx\nA", 7).unwrap();
    assert_eq!((trigger.first, trigger.last), (7, 7));
    assert_eq!(trigger.heredocs[0].content, "x\n");
    for bad in ["", "RUN a\nRUN b", "FROM a", "# x"] {
        assert_eq!(self::trigger(bad, 7).unwrap_err().line, Some(7), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn what_is_needed_comes_first(
        takes in prop::collection::vec(prop::collection::vec(0usize..8, 0..3), 1..8),
    ) {
        let mut text = String::new();
        for (index, from) in takes.iter().enumerate() {
            text.push_str(&format!("FROM image AS s{index}\n"));
            for stage in from.iter().filter(|stage| **stage < takes.len()) {
                text.push_str(&format!("COPY --from=s{stage} a b\n"));
            }
        }
        let forward = takes.iter().enumerate().any(|(index, from)| {
            from.iter().any(|stage| *stage < takes.len() && *stage >= index)
        });
        let Ok(graph) = graph(&text) else {
            prop_assert!(forward);
            return Ok(());
        };
        match graph.order(takes.len() - 1) {
            Err(_) => prop_assert!(forward),
            Ok(order) => {
                prop_assert_eq!(order.last(), Some(&(takes.len() - 1)));
                for (place, stage) in order.iter().enumerate() {
                    for need in graph.needs(*stage).filter_map(Base::stage) {
                        prop_assert!(order[..place].contains(&need));
                    }
                }
            }
        }
    }
}

#[test]
fn names_that_are_one_image_are_one_name() {
    let table = [
        ("alpine", "alpine"),
        ("alpine:latest", "alpine"),
        ("docker.io/library/alpine", "alpine"),
        ("alpine:3", "alpine:3"),
        ("h:5000/a", "h:5000/a"),
        ("BASE", "BASE"),
    ];
    for (name, expected) in table {
        assert_eq!(key(name), expected);
    }
}

#[test]
fn only_the_user_names_paths_of_this_host() {
    let paths =
        [".", "/a.tar", "./a", "../a:v1", "oci:/a", "oci:v1", "oci-archive:a", "docker-archive:a"];
    for path in paths {
        let froms = [
            (format!("FROM {path}"), "1: FROM"),
            (format!("ARG a={path}\nFROM $a AS b\nFROM c"), "2: FROM"),
            (format!("FROM a\nCOPY --from={path} x y"), "2: COPY"),
            (format!("FROM a\nRUN --mount=from={path},target=/x y"), "2: RUN"),
            (format!("FROM a AS b\nONBUILD COPY --from={path} x y\nFROM b"), "3: COPY"),
        ];
        for (text, place) in froms {
            let file = Dockerfile::parse(text.as_bytes()).unwrap();
            assert!(graph(&text).is_ok(), "{text}");
            let err = refuse_paths(&file, &Told::nothing()).unwrap_err();
            let refused = format!("{place}: {path}: only the user names paths of this host");
            assert_eq!(err.to_string(), refused, "{text}");
            assert_eq!(err.hint.as_deref(), Some("--build-context NAME=PLACE"));
        }
        let mut graph = graph("FROM a\nCOPY --from=b x y").unwrap();
        for trigger in
            [format!("COPY --from={path} x y"), format!("RUN --mount=from={path},target=/x y")]
        {
            let err = graph.adopt(0, std::slice::from_ref(&trigger), '\\').unwrap_err();
            assert!(err.to_string().contains("only the user"), "{trigger}: {err}");
        }
        graph.adopt(0, &["COPY --from=c x y".to_owned()], '\\').unwrap();
        assert_eq!(graph.stages[0].triggers.len(), 1);
    }
    let file =
        Dockerfile::parse(b"FROM a AS b\nCOPY --from=b:1 x y\nFROM b\nCOPY --from=0 x y").unwrap();
    refuse_paths(&file, &Told::nothing()).unwrap();
}
