use super::*;
use crate::dockerfile::Dockerfile;
use crate::dockerfile::scope::{Globals, Scope, Told, Variables};

/// Walks through the last stage on a base with these variables; returns the last instruction, replaced.
fn last(text: &str, env: &[&str], told: &Told) -> Result<(Expanded, Scope)> {
    let file = Dockerfile::parse(text.as_bytes())?;
    let globals = Globals::of(&file, told)?;
    let mut scope = Scope::on(Variables::of(env.iter().copied()));
    let mut done = None;
    let stage = file.stages.last().unwrap();
    for instruction in &stage.instructions {
        let expanded = expand(instruction, &scope.variables, file.escape)?;
        let replaced = Instruction { operation: expanded.operation.clone(), ..instruction.clone() };
        scope.take(&replaced, &globals, told, Lexer::new(file.escape))?;
        done = Some(expanded);
    }
    Ok((done.unwrap(), scope))
}

fn operation(line: &str) -> Operation {
    let text = format!("FROM x\nENV a=A s='x y' u=https://h/x\n{line}");
    last(&text, &[], &Told::nothing()).unwrap().0.operation
}

fn message(line: &str) -> String {
    let text = format!("FROM x\nENV a=A s='x y' u=https://h/x\n{line}");
    last(&text, &[], &Told::nothing()).unwrap_err().to_string()
}

#[test]
fn variables_are_replaced_where_they_are() {
    let Operation::Env(pairs) = operation("ENV $a=$a b=\"$s\" c='$a' d=\\$a") else { panic!() };
    let pairs: Vec<_> = pairs.iter().map(|pair| (&*pair.name, &*pair.value)).collect();
    assert_eq!(pairs, [("A", "A"), ("b", "x y"), ("c", "$a"), ("d", "$a")]);

    let Operation::Label(pairs) = operation("LABEL $a $s z") else { panic!() };
    assert_eq!((&*pairs[0].name, &*pairs[0].value), ("A", "x y z"));

    let copy = "COPY --chown=$a --chmod=${m:-755} --exclude=$a $a \"$s\" /$a/";
    let Operation::Copy(copy) = operation(copy) else { panic!() };
    assert_eq!(copy.files.sources, ["A", "x y"]);
    assert_eq!(copy.files.destination, "/A/");
    assert_eq!(copy.files.chown.as_deref(), Some("A"));
    assert_eq!(copy.files.chmod.as_deref(), Some("755"));
    assert_eq!(copy.files.exclude, ["$a"]);

    let Operation::Copy(copy) = operation("COPY <<A <<'B' /\n$a 'x' \"\\$a\"\nA\n$a\nB") else {
        panic!()
    };
    assert_eq!(copy.files.contents[0].text, "A 'x' \"$a\"\n");
    assert_eq!(copy.files.contents[1].text, "$a\n");

    assert_eq!(operation("USER $a"), Operation::User("A".into()));
    assert_eq!(operation("USER '$a'"), Operation::User("$a".into()));
    assert_eq!(operation("WORKDIR /$a/${b:-c}"), Operation::Workdir("/A/c".into()));
    assert_eq!(operation("VOLUME /$a /b"), Operation::Volume(vec!["/A".into(), "/b".into()]));
    assert_eq!(operation("STOPSIGNAL SIG${b:-TERM}"), Operation::Stopsignal("SIGTERM".into()));
    // These are somebody else's.
    for line in ["RUN $a", "CMD $a", "ENTRYPOINT [\"$a\"]", "ONBUILD RUN $a", "HEALTHCHECK CMD $a"]
    {
        assert!(format!("{:?}", operation(line)).contains("$a"), "{line}");
    }
}

#[test]
fn a_port_may_become_several() {
    let expose = |line: &str| match operation(line) {
        Operation::Expose(ports) => ports.join(" "),
        _ => panic!(),
    };
    assert_eq!(expose("EXPOSE ${p:-80}"), "80/tcp");
    assert_eq!(expose("EXPOSE 80${p:-80}/udp"), "8080/udp");
    assert_eq!(expose("EXPOSE 2 1-3 2/tcp"), "1/tcp 2/tcp 3/tcp");
    assert_eq!(expose("EXPOSE $none"), "");
    assert_eq!(message("EXPOSE $a"), "3: EXPOSE: A: not a port");
    let ports = last("FROM x\nENV p='1 2'\nEXPOSE $p", &[], &Told::nothing()).unwrap().0.operation;
    assert_eq!(ports, Operation::Expose(vec!["1/tcp".into(), "2/tcp".into()]));
    // However often they are said, there are no more than there are.
    let Operation::Expose(all) = operation(&format!("EXPOSE {}", "0-65535 ".repeat(2))) else {
        panic!()
    };
    assert_eq!(all.len(), 65536);
}

#[test]
fn what_is_wrong_only_now_is_an_error() {
    let table = [
        ("STOPSIGNAL $a", "3: STOPSIGNAL: A: there is no such signal"),
        ("STOPSIGNAL 0", "3: STOPSIGNAL: 0: there is no such signal"),
        ("STOPSIGNAL SIGRTMIN+16", "3: STOPSIGNAL: SIGRTMIN+16: there is no such signal"),
        ("VOLUME /x $none", "3: VOLUME: a volume's path is empty"),
        ("COPY --chmod=$a x y", "3: COPY: --chmod=A: no permissions"),
        ("COPY $u x", "3: COPY: https://h/x: it copies files, no URLs"),
        ("COPY git@h:x y", "3: COPY: git@h:x: it copies files, no URLs"),
        ("ADD --checksum=x a b", "3: ADD: --checksum: a is no URL"),
        ("ADD --checksum=x $u b", "3: ADD: --checksum=x: no digest"),
        ("ADD --checksum=x $u a b", "3: ADD: --checksum is of one source"),
        ("RUN --mount=type=$a x", "3: RUN: --mount: type=A: there is no such type"),
        ("WORKDIR ${x:?no x}", "3: WORKDIR: x: no x"),
        ("USER \"a", "3: USER: a quote \" is not closed"),
        ("COPY <<A b\n${x:?no x}\nA", "3: COPY: x: no x"),
    ];
    for (line, expected) in table {
        assert_eq!(message(line), expected, "{line}");
    }
    for fine in
        ["9", "-9", "TERM", "sigterm", "SIGRTMIN", "rtmin+15", "RTMAX-14", "RTMAX", "SIGCLD"]
    {
        operation(&format!("STOPSIGNAL {fine}"));
    }
    let digest = "0".repeat(64);
    operation(&format!("ADD --checksum=sha256:{digest} $u /x"));
    operation("ADD --checksum=abc123 https://h/x.git /x");
}

#[test]
fn values_come_from_where_they_should() {
    let told = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Told { arguments: pairs.collect(), ..Told::nothing() }
    };
    let user = |text: &str, env: &[&str], told: &Told| match last(
        &format!("{text}\nUSER [$v]"),
        env,
        told,
    )
    .unwrap()
    .0
    .operation
    {
        Operation::User(user) => user,
        _ => panic!(),
    };
    let nothing = told(&[]);
    let some = told(&[("v", "told")]);
    let table: &[(&str, &[&str], &Told, &str)] = &[
        ("FROM x", &[], &nothing, "[]"),
        ("FROM x", &["v=base"], &nothing, "[base]"),
        ("FROM x\nENV v=env", &["v=base"], &nothing, "[env]"),
        ("FROM x\nARG v=default", &[], &nothing, "[default]"),
        ("FROM x\nARG v=default", &[], &some, "[told]"),
        ("FROM x\nARG v", &[], &some, "[told]"),
        ("FROM x\nARG v", &[], &nothing, "[]"),
        // What nobody asked for is not there.
        ("FROM x", &[], &some, "[]"),
        ("ARG v=global\nFROM x", &[], &nothing, "[]"),
        ("ARG v=global\nFROM x\nARG v", &[], &nothing, "[global]"),
        ("ARG v=global\nFROM x\nARG v=default", &[], &nothing, "[default]"),
        ("ARG v=global\nFROM x\nARG v", &[], &some, "[told]"),
        ("ARG w=1\nARG v=$w$w\nFROM x\nARG v", &[], &nothing, "[11]"),
        // The later of ARG and ENV.
        ("FROM x\nENV v=env\nARG v=arg", &[], &nothing, "[arg]"),
        ("FROM x\nENV v=env\nARG v", &[], &nothing, "[env]"),
        ("FROM x\nARG v=arg\nENV v=env", &[], &some, "[env]"),
        ("FROM x\nARG v=arg\nENV v=${v:-env}", &[], &some, "[told]"),
        // One value for the whole instruction.
        ("FROM x\nENV v=1\nENV v=2 w=$v\nENV v=$w", &[], &nothing, "[1]"),
        ("FROM x\nARG w=1 v=$w", &[], &nothing, "[1]"),
        ("FROM x\nARG v=$v-x", &["v=base"], &nothing, "[base-x]"),
        // A stage has no arguments of the one before.
        ("FROM x\nARG v=arg\nFROM y", &[], &nothing, "[]"),
    ];
    for (text, env, told, expected) in table {
        assert_eq!(user(text, env, told), *expected, "{text:?} {env:?} {:?}", told.arguments);
    }
}

#[test]
fn the_platforms_are_known_before_the_first_stage() {
    let mut told = Told::nothing();
    told.platform = "linux/arm/v7".parse().unwrap();
    told.builder = "linux/amd64".parse().unwrap();
    let text = "FROM a AS last\nARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM \
        BUILDOS BUILDARCH BUILDVARIANT TARGETSTAGE\nUSER $TARGETPLATFORM:$TARGETOS:$TARGETARCH:\
        $TARGETVARIANT:$BUILDPLATFORM:$BUILDOS:$BUILDARCH:$BUILDVARIANT:$TARGETSTAGE";
    let user = |told: &Told| match last(text, &[], told).unwrap().0.operation {
        Operation::User(user) => user,
        _ => panic!(),
    };
    assert_eq!(user(&told), "linux/arm/v7:linux:arm:v7:linux/amd64:linux:amd64::last");
    told.arguments.insert("TARGETARCH".into(), "mine".into());
    told.target = Some("other".into());
    assert_eq!(user(&told), "linux/arm/v7:linux:mine:v7:linux/amd64:linux:amd64::other");
    // They must be asked for.
    let (_, scope) = last("FROM a\nUSER x", &[], &told).unwrap();
    assert_eq!(scope.variables.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["PATH"]);
}

#[test]
fn what_is_missing_is_named() {
    let missing = |line: &str| {
        let text = format!("FROM x\nARG known\nENV a=A\n{line}");
        let (expanded, _) = last(&text, &[], &Told::nothing()).unwrap();
        expanded.missing.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(missing("COPY $x $a ${y:-b} /$z"), "x y z");
    assert_eq!(missing("RUN --mount=type=cache,target=/t/$x echo $y"), "x");
    assert_eq!(missing("COPY <<A /\n$x\nA"), "x");
    assert_eq!(missing("COPY <<'A' /\n$x\nA"), "");
    // Nor are those of ports asked for by BuildKit.
    assert_eq!(missing("EXPOSE $x"), "");
    assert_eq!(missing("USER $known"), "known");
}
