use super::*;

/// What is said of a file on images that are all alike, each warning as its line and its rule.
fn told(text: &str, told: &Told, ignore: Option<&str>) -> Vec<String> {
    let file = Dockerfile::parse(text.as_bytes()).unwrap();
    let ignore = ignore.map(|text| Ignore::parse(text.as_bytes()).unwrap());
    let image = |_: &str| Some(Image { env: vec!["PATH=/bin".into()], has_shell: false });
    let known = Known { told, ignore: ignore.as_ref(), image: &image };
    let found = check(&file, &known).unwrap();
    found.warnings.iter().map(|warning| format!("{} {}", warning.line, warning.rule)).collect()
}

fn rules(text: &str) -> Vec<String> {
    told(text, &Told::nothing(), None)
}

#[test]
fn what_an_unknown_image_may_have_is_not_missed() {
    let check = |text: &str| {
        let file = Dockerfile::parse(text.as_bytes()).unwrap();
        let known = Known { told: &Told::nothing(), ignore: None, image: &|_| None };
        check(&file, &known).map(|found| found.warnings.len())
    };
    for text in [
        "FROM a\nENV b=${c:?missing}",
        "FROM a\nARG b=${c:?missing}",
        "FROM a\nEXPOSE $c",
        "FROM a\nWORKDIR $c",
        "FROM a AS b\nFROM b\nADD x ${c?}",
    ] {
        assert_eq!(check(text), Ok(0), "{text}");
    }
    // What is wrong whatever there is stays wrong.
    for text in ["FROM a\nENV b=${c", "FROM scratch\nENV b=${c:?missing}", "FROM a\nENV b=${c!}"] {
        assert!(check(text).is_err(), "{text}");
    }
}

/// Checks for each text that these are all the warnings there are.
fn table(table: &[(&str, &[&str])]) {
    for (text, expected) in table {
        assert_eq!(rules(text), *expected, "{text}");
    }
}

#[test]
fn names_and_keywords_have_a_case() {
    table(&[
        ("FROM a AS b", &[]),
        ("FROM a AS B", &["1 StageNameCasing"]),
        ("FROM a as b", &["1 FromAsCasing"]),
        ("from a as b", &[]),
        ("from a AS b", &["1 FromAsCasing"]),
        ("From a As b", &["1 ConsistentInstructionCasing"]),
        ("FROM a\nrun b", &["2 ConsistentInstructionCasing"]),
        ("FROM a\nrun b\nrun c", &["1 ConsistentInstructionCasing"]),
        ("FROM a\nRun b", &["2 ConsistentInstructionCasing"]),
        ("from a\nRun b", &["2 ConsistentInstructionCasing"]),
        // Arguments before the first stage do not count.
        ("arg a=b\nFROM $a\nRUN x", &[]),
    ]);
}

#[test]
fn a_stage_has_a_name_of_its_own() {
    table(&[
        ("FROM a AS b\nFROM a AS c", &[]),
        ("FROM a AS b\nFROM a AS B", &["2 DuplicateStageName", "2 StageNameCasing"]),
        ("FROM a AS scratch", &["1 ReservedStageName"]),
        ("FROM a AS context", &["1 ReservedStageName"]),
    ]);
}

#[test]
fn commands_are_json_and_once() {
    table(&[
        ("FROM a\nCMD [\"b\"]\nENTRYPOINT [\"c\"]", &[]),
        ("FROM a\nCMD b", &["2 JSONArgsRecommended"]),
        ("FROM a\nENTRYPOINT b", &["2 JSONArgsRecommended"]),
        ("FROM a\nSHELL [\"b\"]\nCMD c", &[]),
        ("FROM a AS x\nSHELL [\"b\"]\nFROM x\nCMD c", &[]),
        ("FROM a\nCMD [\"b\"]\nCMD [\"c\"]", &["2 MultipleInstructionsDisallowed"]),
        ("FROM a\nENTRYPOINT [\"b\"]\nENTRYPOINT [\"c\"]", &["2 MultipleInstructionsDisallowed"]),
        ("FROM a\nHEALTHCHECK NONE\nHEALTHCHECK CMD x", &["2 MultipleInstructionsDisallowed"]),
        ("FROM a AS x\nCMD [\"b\"]\nFROM x\nCMD [\"c\"]", &[]),
    ]);
}

#[test]
fn old_forms_are_noticed() {
    table(&[
        ("FROM a\nENV b=c\nLABEL d=e", &[]),
        ("FROM a\nENV b c", &["2 LegacyKeyValueFormat"]),
        ("FROM a\nLABEL b c", &["2 LegacyKeyValueFormat"]),
        ("FROM a\nMAINTAINER b", &["2 MaintainerDeprecated"]),
        ("FROM a\nRUN b \\\n\n c", &["4 NoEmptyContinuation"]),
        ("FROM a\nWORKDIR /b\nWORKDIR c", &[]),
        ("FROM a\nWORKDIR b\nWORKDIR c", &["2 WorkdirRelativePath"]),
        ("FROM a AS x\nWORKDIR /b\nFROM x\nWORKDIR c", &[]),
        ("FROM a\nENV d=/e\nWORKDIR $d", &[]),
        ("FROM a\nEXPOSE 80/tcp", &[]),
        ("FROM a\nEXPOSE 80/TCP", &["2 ExposeProtoCasing"]),
        ("FROM a\nEXPOSE 8080:80", &["2 ExposeInvalidFormat"]),
        ("FROM a\nEXPOSE 127.0.0.1:80:80/Udp", &["2 ExposeInvalidFormat", "2 ExposeProtoCasing"]),
    ]);
}

#[test]
fn secrets_have_names() {
    table(&[
        ("FROM a\nENV API_KEY=x", &["2 SecretsUsedInArgOrEnv"]),
        ("FROM a\nARG token", &["2 SecretsUsedInArgOrEnv"]),
        ("FROM a\nARG AUTH DB_PASSWORD=y", &["2 SecretsUsedInArgOrEnv", "2 SecretsUsedInArgOrEnv"]),
        ("FROM a\nENV KEYBOARD=x MONKEY=y", &[]),
        ("FROM a\nENV PUBLIC_KEY=x KEY_FILE=y TOKEN_VERSION=1", &[]),
        ("FROM a\nLABEL token=x", &[]),
        ("ARG token\nFROM a", &[]),
    ]);
}

#[test]
fn variables_are_known_before_they_are_used() {
    table(&[
        ("FROM a\nUSER $b", &["2 UndefinedVar"]),
        ("FROM a\nARG b\nUSER $b", &[]),
        ("FROM a\nENV b=c\nUSER $b", &[]),
        ("FROM a\nUSER $PATH", &[]),
        ("FROM a\nARG b=$b", &["2 UndefinedVar"]),
        ("FROM a\nARG b c=$b", &[]),
        ("FROM a\nRUN $b", &[]),
        ("FROM a\nEXPOSE ${b:-80}", &[]),
        ("FROM a\nCOPY <<E /b\n$c\nE", &["2 UndefinedVar"]),
        ("FROM a AS x\nARG b\nFROM x\nUSER $b", &[]),
        ("FROM scratch\nUSER $b", &["2 UndefinedVar"]),
        ("FROM a$b", &["1 UndefinedArgInFrom"]),
        ("ARG b\nFROM a$b", &[]),
        ("FROM a$TARGETARCH", &[]),
        ("FROM a:${b:-c}", &["1 UndefinedArgInFrom"]),
        ("ARG b=c\nFROM $b", &[]),
        ("FROM --platform=$b${TARGETPLATFORM} a", &["1 UndefinedArgInFrom"]),
    ]);
    // Of what is in an image that nobody knows nothing is said.
    let file = Dockerfile::parse(b"FROM a AS x\nUSER $b\nFROM x\nUSER $c").unwrap();
    let known = Known { told: &Told::nothing(), ignore: None, image: &|_| None };
    assert_eq!(check(&file, &known).unwrap().warnings, []);
}

#[test]
fn an_image_has_a_name_whatever_is_told() {
    let mut some = Told::nothing();
    some.arguments.insert("b".into(), "c".into());
    assert_eq!(told("ARG b\nFROM a:$b", &some, None), ["2 InvalidDefaultArgInFrom"]);
    assert_eq!(told("ARG b=d\nFROM a:$b", &some, None), [""; 0]);
    assert_eq!(told("ARG b\nFROM a:${b:-d}", &some, None), [""; 0]);
}

#[test]
fn a_platform_is_said_for_a_reason() {
    table(&[
        ("FROM --platform=$BUILDPLATFORM a", &[]),
        ("FROM --platform=$TARGETPLATFORM a", &["1 RedundantTargetPlatform"]),
        ("FROM --platform=${TARGETPLATFORM} a", &["1 RedundantTargetPlatform"]),
        ("FROM --platform=$TARGETOS/$TARGETARCH a", &[]),
        ("FROM --platform=linux/arm64 a", &["1 FromPlatformFlagConstDisallowed"]),
        ("FROM --platform=linux/arm64 a AS b", &["1 FromPlatformFlagConstDisallowed"]),
        ("FROM --platform=linux/arm64 a AS b-arm64", &[]),
        ("FROM --platform=linux/arm64 a AS linux", &[]),
    ]);
}

#[test]
fn what_is_ignored_is_not_copied() {
    let of = |text: &str, ignore: &str| told(text, &Told::nothing(), Some(ignore));
    let one = ["2 CopyIgnoredFile"];
    assert_eq!(of("FROM a\nCOPY b /", "b"), one);
    assert_eq!(of("FROM a\nCOPY ./b/c /", "b"), one);
    assert_eq!(of("FROM a\nADD b /", "b"), one);
    assert_eq!(of("FROM a\nCOPY c b /", "b"), one);
    assert_eq!(of("FROM a\nCOPY c /", "b"), [""; 0]);
    assert_eq!(of("FROM a\nCOPY . /", "b"), [""; 0]);
    assert_eq!(of("FROM a\nCOPY . /", "*"), one);
    assert_eq!(of("FROM a\nCOPY . /", "**"), one);
    assert_eq!(of("FROM a\nCOPY b /", "*\n!c"), [""; 0]);
    assert_eq!(of("FROM a\nADD https://h/b /", "**"), [""; 0]);
    assert_eq!(of("FROM a AS x\nFROM a\nCOPY --from=x b /", "b"), [""; 0]);
    assert_eq!(of("FROM a\nCOPY <<b /\nb", "b"), [""; 0]);
}

#[test]
fn a_comment_says_what_counts() {
    table(&[
        ("# check=skip=JSONArgsRecommended\nFROM a\nCMD b", &[]),
        ("# check=skip=StageNameCasing,JSONArgsRecommended\nFROM a AS B\nCMD b", &[]),
        ("# check=skip=StageNameCasing\nFROM a AS B\nCMD b", &["3 JSONArgsRecommended"]),
        ("# check=skip=all\nFROM a AS B\nCMD b", &[]),
        ("FROM a AS B\n# check=skip=JSONArgsRecommended\nCMD b", &["1 StageNameCasing"]),
        ("FROM a\n# check=skip=all\nCMD b\nENTRYPOINT c", &["4 JSONArgsRecommended"]),
        ("# x\n# check=skip=all\nFROM a AS B\nCMD b", &["4 JSONArgsRecommended"]),
        // It is the later one of two that is to be quiet.
        ("FROM a\nCMD [\"b\"]\n# check=skip=all\nCMD [\"c\"]", &[]),
        ("# x is y\nFROM a AS z", &[]),
        ("# check=experimental=all\n# x is y\nFROM a AS z", &["3 InvalidDefinitionDescription"]),
        ("# check=experimental=all\n# z is y\nFROM a AS z", &[]),
        ("# check=experimental=all\n# x is y\n#\nFROM a AS z", &[]),
        (
            "# check=experimental=InvalidDefinitionDescription\n# x\nARG y z\nFROM a",
            &["3 InvalidDefinitionDescription"],
        ),
        (
            "# check=experimental=all;skip=all\n# x\nARG y\nFROM a",
            &["3 InvalidDefinitionDescription"],
        ),
    ]);
    let strict = |text: &str| {
        let file = Dockerfile::parse(text.as_bytes()).unwrap();
        let known = Known { told: &Told::nothing(), ignore: None, image: &|_| None };
        check(&file, &known).map(|found| found.strict)
    };
    assert_eq!(strict("# check=error=true\nFROM a"), Ok(true));
    assert_eq!(strict("# check=skip=all;error=false\nFROM a"), Ok(false));
    assert_eq!(strict("FROM a"), Ok(false));
    for bad in ["x", "skip", "error=maybe", "skip=a;x=y"] {
        let err = strict(&format!("# check={bad}\nFROM a")).unwrap_err();
        assert_eq!(err.line, Some(1), "{bad}");
    }
}

#[test]
fn every_rule_can_be_told_apart_and_is_tested() {
    let is_rule = |text: &&str| {
        text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.contains(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_alphabetic())
    };
    let rules: BTreeSet<&str> = include_str!("../check.rs").split('"').filter(is_rule).collect();
    assert_eq!(rules.len(), 21, "{rules:?}");
    let tests = include_str!("tests.rs");
    for rule in rules {
        assert!(tests.contains(&format!(" {rule}\"")), "{rule}");
    }
}

#[test]
fn a_warning_says_what_to_do() {
    let file = Dockerfile::parse(b"FROM a\nENV b=c\nUSER $bb").unwrap();
    let known = Known { told: &Told::nothing(), ignore: None, image: &|_| Some(Image::default()) };
    let found = check(&file, &known).unwrap();
    let said: Vec<String> = found.warnings.iter().map(Warning::to_string).collect();
    assert_eq!(said, ["3: UndefinedVar: $bb is not set; $b is"]);
}

#[test]
fn what_cannot_be_built_cannot_be_checked() {
    for (text, expected) in [
        ("FROM a\nSTOPSIGNAL x", "2: STOPSIGNAL: x: there is no such signal"),
        ("FROM a AS b\nCOPY --from=b c d", "2: COPY: a stage cannot take from itself"),
        ("FROM A", "1: FROM"),
    ] {
        let file = Dockerfile::parse(text.as_bytes()).unwrap();
        let known = Known { told: &Told::nothing(), ignore: None, image: &|_| None };
        let err = check(&file, &known).unwrap_err().to_string();
        assert!(err.starts_with(expected), "{err}");
    }
}
