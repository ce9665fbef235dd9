//! Every instruction, every flag, every odd corner: a line, and what it says.

use proptest::prelude::*;

use super::instruction::{Arg, Command, Files, Healthcheck, Network, Security, Start};
use super::split::Pair;
use super::*;

/// Returns what an instruction says, in a line: the shell's text behind `$`, lists as JSON.
fn sketch(operation: &Operation) -> String {
    let json = |list: &Vec<String>| serde_json::to_string(list).unwrap();
    let command = |command: &Command| match command {
        Command::Shell(text) => format!("$ {text}"),
        Command::Exec(args) => json(args),
    };
    let pair = |pair: &Pair| {
        format!("{}{}{}", pair.name, if pair.legacy { " ~ " } else { "=" }, pair.value)
    };
    let pairs = |pairs: &Vec<Pair>| pairs.iter().map(pair).collect::<Vec<_>>().join(" | ");
    let mut said = match operation {
        Operation::Add(add) => files(&add.files),
        Operation::Arg(arguments) => {
            let one = |argument: &Arg| match &argument.default {
                Some(default) => format!("{}={default}", argument.name),
                None => argument.name.clone(),
            };
            arguments.iter().map(one).collect::<Vec<_>>().join(" | ")
        }
        Operation::Cmd(cmd) | Operation::Entrypoint(cmd) => command(cmd),
        Operation::Copy(copy) => files(&copy.files),
        Operation::Env(list) | Operation::Label(list) => pairs(list),
        Operation::Expose(list) | Operation::Volume(list) | Operation::Shell(list) => json(list),
        Operation::From(from) => match &from.name {
            Some(name) => format!("{} as {name}", from.image),
            None => from.image.clone(),
        },
        Operation::Healthcheck(Healthcheck::None) => "none".into(),
        Operation::Healthcheck(Healthcheck::Run {
            command: cmd,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        }) => format!(
            "{} {interval} {timeout} {start_period} {start_interval} {retries}",
            command(cmd)
        ),
        Operation::Maintainer(text)
        | Operation::Onbuild(text)
        | Operation::Stopsignal(text)
        | Operation::User(text)
        | Operation::Workdir(text) => text.clone(),
        Operation::Run(run) => command(&run.command),
    };
    let mut flag = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            said.push_str(&format!(" {name}={value}"));
        }
    };
    match operation {
        Operation::Add(add) => {
            flag("checksum", add.checksum.clone());
            flag("keep-git-dir", add.keep_git_dir.map(|on| on.to_string()));
            flag("unpack", add.unpack.map(|on| on.to_string()));
        }
        Operation::Copy(copy) => {
            flag("from", copy.from.clone());
            flag("parents", copy.parents.then(|| "true".into()));
        }
        Operation::From(from) => flag("platform", from.platform.clone()),
        Operation::Run(run) => {
            flag(
                "network",
                (run.network != Network::Default).then(|| format!("{:?}", run.network)),
            );
            let insecure = run.security == Security::Insecure;
            flag("security", insecure.then(|| "Insecure".into()));
            run.mounts.iter().for_each(|mount| flag("mount", Some(mount.text.clone())));
            for device in &run.devices {
                flag("device", Some(format!("{}:{}", device.name, device.required)));
            }
        }
        _ => {}
    }
    said
}

fn files(files: &Files) -> String {
    let contents = files.contents.iter().map(|content| {
        let raw = if content.expand { "" } else { "raw " };
        format!("<{raw}{} {:?}>", content.name, content.text)
    });
    let sources: Vec<String> = files.sources.iter().cloned().chain(contents).collect();
    let mut said = format!("{} > {}", sources.join(" "), files.destination);
    let flags = [("chown", &files.chown), ("chmod", &files.chmod)];
    for (name, value) in flags {
        said.extend(value.iter().map(|value| format!(" {name}={value}")));
    }
    said.push_str(if files.link { " link=true" } else { "" });
    said.extend(files.exclude.iter().map(|pattern| format!(" exclude={pattern}")));
    said
}

/// Reads the last instruction of a stage.
fn last(text: &str) -> Result<Instruction> {
    let file = Dockerfile::parse(format!("FROM base\n{text}").as_bytes())?;
    let stage = file.stages.last().unwrap();
    Ok(stage.instructions.last().unwrap_or(&stage.begin).clone())
}

fn check(table: &[(&str, &str)]) {
    for (text, expected) in table {
        let said = match last(text) {
            Ok(instruction) => sketch(&instruction.operation),
            Err(err) => format!("! {}", err.message),
        };
        assert_eq!(said, *expected, "{text:?}");
    }
}

#[test]
fn from_begins_a_stage() {
    check(&[
        ("FROM a", "a"),
        ("from a", "a"),
        ("FROM a:1", "a:1"),
        ("FROM a@sha256:1", "a@sha256:1"),
        ("FROM a AS b", "a as b"),
        ("FROM a as b", "a as b"),
        ("FROM a aS B-1_x.y", "a as b-1_x.y"),
        ("FROM   a\tAS\tb  ", "a as b"),
        ("FROM --platform=linux/arm64 a", "a platform=linux/arm64"),
        ("FROM --platform=$BUILDPLATFORM a AS b", "a as b platform=$BUILDPLATFORM"),
        ("FROM --platform= a", "a"),
        ("FROM ${A}/b:${C:-d}", "${A}/b:${C:-d}"),
        ("FROM", "! it needs an image"),
        ("FROM a b", "! it takes an image, and AS with a name"),
        ("FROM a AS", "! it takes an image, and AS with a name"),
        ("FROM a AS b c", "! it takes an image, and AS with a name"),
        ("FROM a IN b", "! IN: only AS may follow the image"),
        ("FROM a AS 1", "! 1: not a stage's name"),
        ("FROM a AS -b", "! -b: not a stage's name"),
        ("FROM a AS b/c", "! b/c: not a stage's name"),
        ("FROM a AS ü", "! ü: not a stage's name"),
        ("FROM a AS $b", "! $b: not a stage's name"),
        ("FROM --plattform=x a", "! there is no flag --plattform"),
        ("FROM --platform a", "! --platform without a value"),
        ("FROM --platform=a --platform=b c", "! --platform is given twice"),
    ]);
}

#[test]
fn run_is_for_the_shell_or_not() {
    check(&[
        ("RUN echo hi", "$ echo hi"),
        ("run echo hi", "$ echo hi"),
        ("RUN   echo   hi  ", "$ echo   hi"),
        ("RUN echo $A \"$B\" 'c' # d", "$ echo $A \"$B\" 'c' # d"),
        ("RUN", "$ "),
        ("RUN [\"a\", \"b c\"]", "[\"a\",\"b c\"]"),
        ("RUN [ \"a\" , \"\\u00e4\\n\" ] ", "[\"a\",\"ä\\n\"]"),
        ("RUN []", "[]"),
        ("RUN [\"a\", \"\\ud83d\\ude00\"]", "[\"a\",\"😀\"]"),
        ("RUN [\"a\", \"x\\ud83dy\\\"\\\\\"]", "[\"a\",\"x\u{fffd}y\\\"\\\\\"]"),
        // Nearly JSON is text, as for Docker.
        ("RUN [\"a\", \"b\"", "$ [\"a\", \"b\""),
        ("RUN ['a', 'b']", "$ ['a', 'b']"),
        ("RUN [\"a\",]", "$ [\"a\",]"),
        ("RUN [\"a\"] && b", "$ [\"a\"] && b"),
        ("RUN [ -f x ] || exit 1", "$ [ -f x ] || exit 1"),
        ("RUN [[ a == b ]]", "$ [[ a == b ]]"),
        ("RUN [\"a\tb\"]", "$ [\"a\tb\"]"),
        ("RUN [\"\\x41\"]", "$ [\"\\x41\"]"),
        // JSON of other things is an error.
        ("RUN [1]", "! 1: not a string in an array of strings"),
        ("RUN [\"a\", null]", "! null: not a string in an array of strings"),
        ("RUN [[\"a\"]]", "! [\"a\"]: not a string in an array of strings"),
        ("RUN [true, \"a\"]", "! true: not a string in an array of strings"),
        ("RUN {\"a\": 1}", "$ {\"a\": 1}"),
        ("RUN --network=none a", "$ a network=None"),
        ("RUN --network=host a", "$ a network=Host"),
        ("RUN --network=default a", "$ a"),
        ("RUN --network= a", "! --network=: there is no such network"),
        ("RUN --network=bridge a", "! --network=bridge: there is no such network"),
        ("RUN --network a", "! --network without a value"),
        ("RUN --security=insecure a", "$ a security=Insecure"),
        ("RUN --security=sandbox a", "$ a"),
        ("RUN --security=none a", "! --security=none: there is no such security"),
        ("RUN --device=v/c=n a", "$ a device=v/c=n:false"),
        ("RUN --device=v/c=n,required a", "$ a device=v/c=n:true"),
        ("RUN --device=name=x,required=false a", "$ a device=x:false"),
        ("RUN --device=required a", "$ a device=:true"),
        ("RUN --device=x,y a", "! --device: y: there is no such key"),
        ("RUN --device=name=x,name=y a", "! --device: name=y: it has a name already"),
        ("RUN --device=x,required=maybe a", "! --device: required=maybe: neither true nor false"),
        ("RUN --mount=type=cache,target=/c a", "$ a mount=type=cache,target=/c"),
        (
            "RUN --mount=type=tmpfs,target=/t --mount=from=b,target=/b a",
            "$ a mount=type=tmpfs,target=/t mount=from=b,target=/b",
        ),
        ("RUN --mount='type=bind,source=a b' a", "$ a mount=type=bind,source=a b"),
        // What else is wrong with a mount is seen when its variables are known.
        ("RUN --mount=type=$T a", "$ a mount=type=$T"),
        ("RUN --mount=from=$b a", "! --mount: from=$b: no variables here"),
        ("RUN --mount=from=b$ a", "$ a mount=from=b$"),
        ("RUN --mount= a", "! --mount: there is nothing in it"),
        ("RUN --mount=a\"b a", "$  mount=ab a"),
        ("RUN --mounts=x a", "! there is no flag --mounts"),
        ("RUN -- --network=none a", "$ --network=none a"),
        ("RUN --network=none -- --x", "$ --x network=None"),
        ("RUN a --network=none", "$ a --network=none"),
        ("RUN -x", "$ -x"),
        ("RUN --", "$ "),
    ]);
}

#[test]
fn here_documents_follow_the_line() {
    check(&[
        ("RUN <<EOF\na\nb\nEOF\n", "$ <<EOF"),
        ("RUN <<EOF cat\nEOF\n", "$ <<EOF cat"),
        ("RUN cat <<A <<B\n1\nA\n2\nB\n", "$ cat <<A <<B"),
        ("RUN cat<<EOF", "$ cat<<EOF"),
        ("RUN cat <<<EOF", "$ cat <<<EOF"),
        ("RUN x << EOF\nEOF\n", "$ x << EOF"),
        ("RUN <<", "$ <<"),
        ("RUN echo it's <<EOF", "$ echo it's <<EOF"),
        ("RUN '<<EOF'", "$ '<<EOF'"),
        ("RUN [\"<<EOF\"]", "[\"<<EOF\"]"),
        ("RUN <<EOF\na\n", "! no line EOF ends the here-document"),
        ("RUN <<EOF\na\nEOF ", "! no line EOF ends the here-document"),
        ("RUN <<EOF\na\n\tEOF", "! no line EOF ends the here-document"),
        ("RUN <<-EOF\na\n\tEOF", "$ <<-EOF"),
        ("RUN <<EOF\r\na\r\nEOF\r\n", "$ <<EOF"),
        ("RUN <<\"E F\"\nE F\n", "$ <<\"E F\""),
        ("RUN 5<<EOF\nEOF", "$ 5<<EOF"),
        ("COPY <<EOF /a\n$x\nEOF", "<EOF \"$x\\n\"> > /a"),
        ("COPY <<'EOF' /a\n$x\nEOF", "<raw EOF \"$x\\n\"> > /a"),
        ("COPY <<\"EOF\" /a\nEOF", "<raw EOF \"\"> > /a"),
        ("COPY <<E\"O\"F /a\nEOF", "<raw EOF \"\"> > /a"),
        ("COPY <<E\\OF /a\nEOF", "<EOF \"\"> > /a"),
        ("COPY <<-EOF /a\n\t\tb\n\t c\n\tEOF", "<EOF \"b\\n c\\n\"> > /a"),
        ("COPY b <<A c <<B /d/\n1\nA\n2\nB\n", "b c <A \"1\\n\"> <B \"2\\n\"> > /d/"),
        ("COPY <<A <<A /d\n1\nA\n2\nA", "<A \"2\\n\"> <A \"2\\n\"> > /d"),
        ("COPY [\"<<EOF\", \"/a\"]", "<EOF \"\"> > /a"),
        ("COPY a <<EOF\nEOF", "! a here-document is a source, and no destination"),
        ("ADD --chmod=644 <<EOF /a\nx\nEOF", "<EOF \"x\\n\"> > /a chmod=644"),
        // No other instruction has them.
        ("CMD <<EOF", "$ <<EOF"),
        ("ENV a=<<EOF", "a=<<EOF"),
        ("ONBUILD RUN <<EOF\na\nEOF", "RUN <<EOF\na\nEOF"),
        ("ONBUILD COPY <<-EOF /a\n\tb\n\tEOF", "COPY <<-EOF /a\n\tb\nEOF"),
        ("ONBUILD CMD <<EOF", "CMD <<EOF"),
        // A line in it that looks like a comment or goes on is a line.
        ("COPY <<EOF /a\n# b\nc \\\nd\n\nEOF", "<EOF \"# b\\nc \\\\\\nd\\n\\n\"> > /a"),
    ]);
}

#[test]
fn run_starts_what_is_left_of_its_here_documents() {
    let table = [
        ("RUN a b", Start::Shell("a b".into())),
        ("RUN [\"a\"]", Start::Exec(vec!["a".into()])),
        ("RUN <<EOF\na\nEOF", Start::Shell("a\n".into())),
        ("RUN <<-EOF\n\ta\nEOF", Start::Shell("a\n".into())),
        (
            "RUN <<EOF\n#!/bin/x\na\nEOF",
            Start::Script { name: "EOF".into(), text: "#!/bin/x\na\n".into() },
        ),
        ("RUN <<EOF sh\na\nEOF", Start::Shell("<<EOF sh\na\nEOF".into())),
        ("RUN cat <<A <<-B\n1\nA\n\t2\n\tB", Start::Shell("cat <<A <<-B\n1\nA\n\t2\nB".into())),
    ];
    for (text, expected) in table {
        let instruction = last(text).unwrap();
        let Operation::Run(run) = &instruction.operation else { panic!("{text}") };
        assert_eq!(instruction.start(run), expected, "{text}");
    }
}

#[test]
fn copy_and_add_have_sources_and_a_destination() {
    check(&[
        ("COPY a /b", "a > /b"),
        ("COPY a b c/", "a b > c/"),
        ("COPY a\tb   c", "a b > c"),
        ("COPY a$X \"b c\" d", "a$X \"b c\" > d"),
        ("COPY [\"a b\", \"c\"]", "a b > c"),
        ("COPY [\"a\"]", "! a destination is missing"),
        ("COPY [\"a\", 1]", "! 1: not a string in an array of strings"),
        ("COPY [\"a\" \"b\"]", "[\"a\" > \"b\"]"),
        ("COPY a", "! a destination is missing"),
        ("COPY", "! a source and a destination is missing"),
        ("COPY --from=b a c", "a > c from=b"),
        ("COPY --from=0 a c", "a > c from=0"),
        ("COPY --from= a c", "a > c"),
        ("COPY --chown=1:2 a c", "a > c chown=1:2"),
        ("COPY --chmod=0755 a c", "a > c chmod=0755"),
        ("COPY --chmod=u=rwX,go=rX a c", "a > c chmod=u=rwX,go=rX"),
        ("COPY --link a c", "a > c link=true"),
        ("COPY --link=true a c", "a > c link=true"),
        ("COPY --link=TRUE a c", "a > c link=true"),
        ("COPY --link=false a c", "a > c"),
        ("COPY --link=1 a c", "! --link=1: neither true nor false"),
        ("COPY --link= a c", "! --link without a value"),
        ("COPY --parents a c", "a > c parents=true"),
        ("COPY --parents=false a c", "a > c"),
        ("COPY --exclude=*.o --exclude=b a c", "a > c exclude=*.o exclude=b"),
        ("COPY --exclude='x y' a c", "a > c exclude=x y"),
        ("COPY --exclude=x\\ y a c", "a > c exclude=x y"),
        ("COPY --exclude=\"a\\\"b\" a c", "a > c exclude=a\"b"),
        ("COPY --exclude=ü a c", "a > c exclude=ü"),
        ("COPY --exclude a c", "! --exclude without a value"),
        ("COPY --chown=a --chown=b a c", "! --chown is given twice"),
        ("COPY --checksum=x a c", "! there is no flag --checksum"),
        ("COPY --unpack a c", "! there is no flag --unpack"),
        ("COPY --From=b a c", "! there is no flag --From"),
        ("COPY -- --from=b c", "--from=b > c"),
        ("ADD a /b", "a > /b"),
        ("ADD https://h/x /b", "https://h/x > /b"),
        ("ADD --checksum=sha256:0 https://h/x b", "https://h/x > b checksum=sha256:0"),
        ("ADD --keep-git-dir https://h/x.git b", "https://h/x.git > b keep-git-dir=true"),
        ("ADD --keep-git-dir=false a b", "a > b keep-git-dir=false"),
        ("ADD --unpack a.tar b", "a.tar > b unpack=true"),
        ("ADD --unpack=false a.tar b", "a.tar > b unpack=false"),
        (
            "ADD --link --chown=x --chmod=1 --exclude=e a b",
            "a > b chown=x chmod=1 link=true exclude=e",
        ),
        ("ADD --from=x a b", "! there is no flag --from"),
        ("ADD --parents a b", "! there is no flag --parents"),
        ("ADD a", "! a destination is missing"),
    ]);
}

#[test]
fn env_and_label_have_pairs() {
    check(&[
        ("ENV a=b", "a=b"),
        ("ENV a=b c=d", "a=b | c=d"),
        ("ENV a=", "a="),
        ("ENV a=b=c", "a=b=c"),
        ("ENV a=\"b c\" d='e f'", "a=\"b c\" | d='e f'"),
        ("ENV a=b\\ c d=e", "a=b\\ c | d=e"),
        ("ENV a=\"b\\\"c\" d=e", "a=\"b\\\"c\" | d=e"),
        ("ENV a='b\\' c=d", "a='b\\' | c=d"),
        ("ENV a=$x:${y}", "a=$x:${y}"),
        ("ENV a=b\\", "a=b"),
        ("ENV a=\"b", "a=\"b"),
        ("ENV a b", "a ~ b"),
        ("ENV a b c=d", "a ~ b c=d"),
        ("ENV a   b  c", "a ~ b  c"),
        ("ENV a \"b c\"", "a ~ \"b c\""),
        ("ENV \"a b\" c", "\"a ~ b\" c"),
        ("ENV a", "! a: the value is missing"),
        ("ENV", "! a name and a value are missing"),
        ("ENV a=b c", "! c: no = in it"),
        ("ENV =b", "! a name is missing before ="),
        ("ENV a=b =c", "! a name is missing before ="),
        ("ENV --x=y a=b", "! there is no flag --x"),
        ("LABEL a=b", "a=b"),
        ("LABEL a.b=\"c d\" \"e f\"=g", "a.b=\"c d\" | \"e f\"=g"),
        ("LABEL a b c", "a ~ b c"),
        ("LABEL a", "! a: the value is missing"),
        ("LABEL", "! a name and a value are missing"),
        ("LABEL a={\"b\": 1}", "! 1}: no = in it"),
        ("LABEL a='{\"b\": 1}'", "a='{\"b\": 1}'"),
    ]);
}

#[test]
fn arg_has_names_and_defaults() {
    check(&[
        ("ARG a", "a"),
        ("ARG a=b", "a=b"),
        ("ARG a=", "a="),
        ("ARG a=b c d=\"e f\"", "a=b | c | d=\"e f\""),
        ("ARG a=b=c", "a=b=c"),
        ("ARG a=$b", "a=$b"),
        ("ARG", "! it needs a name"),
        ("ARG =a", "! a name is missing before ="),
        // BuildKit looks at no flag here.
        ("ARG --x a", "a"),
    ]);
}

#[test]
fn commands_are_for_the_shell_or_not() {
    check(&[
        ("CMD a b", "$ a b"),
        ("CMD [\"a\", \"b\"]", "[\"a\",\"b\"]"),
        ("CMD []", "[]"),
        ("CMD", "$ "),
        ("CMD [1]", "! 1: not a string in an array of strings"),
        ("CMD --x a", "! there is no flag --x"),
        ("ENTRYPOINT a b", "$ a b"),
        ("ENTRYPOINT [\"a\"]", "[\"a\"]"),
        ("ENTRYPOINT []", "[]"),
        ("ENTRYPOINT", "$ "),
        ("ENTRYPOINT --x a", "! there is no flag --x"),
        ("SHELL [\"/bin/bash\", \"-c\"]", "[\"/bin/bash\",\"-c\"]"),
        ("SHELL /bin/bash -c", "! it takes its arguments as JSON"),
        ("SHELL []", "! it needs an argument"),
        ("SHELL", "! it takes its arguments as JSON"),
    ]);
}

#[test]
fn expose_has_ports_in_order() {
    check(&[
        ("EXPOSE 80", "[\"80\"]"),
        ("EXPOSE 80/tcp 53/udp", "[\"53/udp\",\"80/tcp\"]"),
        ("EXPOSE 8000-8010", "[\"8000-8010\"]"),
        ("EXPOSE $p", "[\"$p\"]"),
        // What is wrong with a port is seen when its variables are known.
        ("EXPOSE x", "[\"x\"]"),
        ("EXPOSE", "! it needs an argument"),
        ("EXPOSE --x 80", "! there is no flag --x"),
    ]);
}

#[test]
fn healthcheck_has_options() {
    check(&[
        ("HEALTHCHECK NONE", "none"),
        ("HEALTHCHECK none", "none"),
        ("HEALTHCHECK --interval=5s NONE", "none"),
        ("HEALTHCHECK NONE a", "! nothing follows NONE"),
        ("HEALTHCHECK CMD a b", "$ a b 0 0 0 0 0"),
        ("HEALTHCHECK cmd a", "$ a 0 0 0 0 0"),
        ("HEALTHCHECK CMD [\"a\", \"b\"]", "[\"a\",\"b\"] 0 0 0 0 0"),
        ("HEALTHCHECK CMD", "! CMD without a command"),
        ("HEALTHCHECK CMD []", "! CMD without a command"),
        ("HEALTHCHECK", "! it needs CMD or NONE"),
        ("HEALTHCHECK RUN a", "! RUN: neither CMD nor NONE"),
        ("HEALTHCHECK --interval=30s CMD a", "$ a 30000000000 0 0 0 0"),
        ("HEALTHCHECK --timeout=1m30s CMD a", "$ a 0 90000000000 0 0 0"),
        ("HEALTHCHECK --start-period=1.5h CMD a", "$ a 0 0 5400000000000 0 0"),
        ("HEALTHCHECK --start-interval=100ms CMD a", "$ a 0 0 0 100000000 0"),
        ("HEALTHCHECK --retries=3 CMD a", "$ a 0 0 0 0 3"),
        ("HEALTHCHECK --retries=+3 CMD a", "$ a 0 0 0 0 3"),
        ("HEALTHCHECK --retries=0 CMD a", "$ a 0 0 0 0 0"),
        ("HEALTHCHECK --interval=0 CMD a", "$ a 0 0 0 0 0"),
        ("HEALTHCHECK --interval= CMD a", "$ a 0 0 0 0 0"),
        ("HEALTHCHECK --interval=1ms CMD a", "$ a 1000000 0 0 0 0"),
        ("HEALTHCHECK --interval=999us CMD a", "! --interval=999us: less than 1ms"),
        ("HEALTHCHECK --interval=-1s CMD a", "! --interval=-1s: less than 1ms"),
        ("HEALTHCHECK --interval=30 CMD a", "! --interval=30: not a time"),
        ("HEALTHCHECK --interval=1d CMD a", "! --interval=1d: not a time"),
        ("HEALTHCHECK --retries=-1 CMD a", "! --retries=-1: not a number"),
        ("HEALTHCHECK --retries=x CMD a", "! --retries=x: not a number"),
        ("HEALTHCHECK --retries=9999999999 CMD a", "! --retries=9999999999: not a number"),
        ("HEALTHCHECK --intervall=1s CMD a", "! there is no flag --intervall"),
    ]);
}

#[test]
fn onbuild_keeps_an_instruction() {
    check(&[
        ("ONBUILD RUN a  b", "RUN a  b"),
        ("onbuild   run a", "run a"),
        ("ONBUILD COPY --link a b", "COPY --link a b"),
        ("ONBUILD ENV a=b", "ENV a=b"),
        ("ONBUILD RUN", "RUN"),
        // What it is worth is seen when it is used.
        ("ONBUILD COPY a", "COPY a"),
        ("ONBUILD FOO a", "FOO a"),
        ("ONBUILD ENV =a", "ENV =a"),
        ("ONBUILD", "! it needs an instruction"),
        ("ONBUILD ONBUILD RUN a", "! ONBUILD cannot be kept for later"),
        ("ONBUILD FROM a", "! FROM cannot be kept for later"),
        ("ONBUILD from a", "! FROM cannot be kept for later"),
        ("ONBUILD MAINTAINER a", "! MAINTAINER cannot be kept for later"),
        ("ONBUILD ENV a", "! a: the value is missing"),
        ("ONBUILD RUN [1]", "! 1: not a string in an array of strings"),
        ("ONBUILD --x RUN a", "! there is no flag --x"),
    ]);
}

#[test]
fn others_have_one_argument() {
    check(&[
        ("MAINTAINER A B <c@d>", "A B <c@d>"),
        ("MAINTAINER", "! it needs an argument"),
        ("STOPSIGNAL SIGTERM", "SIGTERM"),
        ("STOPSIGNAL $s", "$s"),
        ("STOPSIGNAL --x 9", "9"),
        ("STOPSIGNAL", "! it needs an argument"),
        ("USER a:b", "a:b"),
        ("USER a b", "a b"),
        ("USER", "! it needs an argument"),
        ("USER --x a", "! there is no flag --x"),
        ("WORKDIR /a/b c", "/a/b c"),
        ("WORKDIR", "! it needs an argument"),
        ("VOLUME /a /b", "[\"/a\",\"/b\"]"),
        ("VOLUME [\"/a b\", \" /c \"]", "[\"/a b\",\"/c\"]"),
        ("VOLUME [\"\"]", "! a volume's path is empty"),
        ("VOLUME []", "! it needs an argument"),
        ("VOLUME", "! it needs an argument"),
    ]);
}

#[test]
fn keywords_are_known() {
    let above = "if it belongs to the line above, end that one with the escape, \\";
    let table = [
        ("COPPY a b", "COPPY", "COPY"),
        ("copyy a b", "copyy", "COPY"),
        ("RNU a", "RNU", "RUN"),
        ("ENVV a=b", "ENVV", "ENV"),
        ("EXPSOE 80", "EXPSOE", "EXPOSE"),
        ("&& apt-get install -y curl", "&&", above),
        ("apt-get install -y curl", "apt-get", above),
        ("\\", "", above),
    ];
    for (text, keyword, hint) in table {
        let expected = match keyword {
            "" => "2: an instruction is missing".into(),
            keyword => format!("2: {}: there is no such instruction", keyword.to_uppercase()),
        };
        let err = last(text).unwrap_err();
        assert_eq!(err.to_string(), expected);
        assert_eq!(err.hint.as_deref(), Some(hint), "{text}");
    }
}

#[test]
fn a_hint_says_what_to_write_instead() {
    let table = [
        ("COPY --form=b a c", "--from"),
        ("COPY --chwon=b a c", "--chown"),
        ("COPY --frm=b a c", "--from"),
        ("RUN --mout=a b", "--mount"),
        ("FROM --plattform=a b", "--platform"),
        ("HEALTHCHECK --intervall=1s CMD a", "--interval"),
        ("CMD --x a", "-- before an argument that begins so"),
        ("ENV a=b c", "NAME=value, with quotes around a value that holds blanks"),
        ("ENV a", "a=value"),
        ("SHELL sh -c", "SHELL [\"/bin/bash\", \"-c\"]"),
        ("RUN --network=bridge a", "--network=default|none|host"),
        ("RUN --mount=from=$a b", "a stage of its own: FROM $a AS name"),
        ("MAINTAINER", "LABEL org.opencontainers.image.authors=NAME"),
    ];
    for (text, hint) in table {
        assert_eq!(last(text).unwrap_err().hint.as_deref(), Some(hint), "{text}");
    }
}

/// Returns each instruction's lines and its text.
fn layout(text: &str) -> Vec<(usize, usize, String)> {
    let file = Dockerfile::parse(text.as_bytes()).unwrap();
    file.instructions().map(|one| (one.first, one.last, one.source.clone())).collect()
}

#[test]
fn lines_are_put_together() {
    type Line = (usize, usize, &'static str);
    let table: &[(&str, &[Line])] = &[
        ("FROM a", &[(1, 1, "FROM a")]),
        ("FROM a\n", &[(1, 1, "FROM a")]),
        ("\n\n  FROM a  \n\n", &[(3, 3, "FROM a")]),
        ("\u{feff}FROM a\r\nRUN b\r\n", &[(1, 1, "FROM a"), (2, 2, "RUN b")]),
        ("FROM a\nRUN b \\\n  c", &[(1, 1, "FROM a"), (2, 3, "RUN b   c")]),
        ("FROM a\nRUN b\\\nc", &[(1, 1, "FROM a"), (2, 3, "RUN bc")]),
        ("FROM a\nRUN b \\  \t\n c", &[(1, 1, "FROM a"), (2, 3, "RUN b  c")]),
        ("FROM a\nRUN b \\\r\n c\r\n", &[(1, 1, "FROM a"), (2, 3, "RUN b  c")]),
        // Two escapes are one, of the shell's.
        ("FROM a\nRUN b \\\\\nRUN c", &[(1, 1, "FROM a"), (2, 2, "RUN b \\\\"), (3, 3, "RUN c")]),
        ("FROM a\nRUN b \\\n# x\n  # y\n c", &[(1, 1, "FROM a"), (2, 5, "RUN b  c")]),
        ("FROM a\nRUN b \\\n\n \t\n c", &[(1, 1, "FROM a"), (2, 5, "RUN b  c")]),
        ("FROM a\nRUN b \\\n", &[(1, 1, "FROM a"), (2, 2, "RUN b")]),
        ("FROM a\nRUN b \\\n# x\n\n", &[(1, 1, "FROM a"), (2, 4, "RUN b")]),
        ("FROM a\nRUN b \\\n # x \\\n c", &[(1, 1, "FROM a"), (2, 4, "RUN b  c")]),
        ("\\\nFROM a", &[(1, 2, "FROM a")]),
        ("FR\\\nOM a", &[(1, 2, "FROM a")]),
        ("FROM a\nRUN b # c", &[(1, 1, "FROM a"), (2, 2, "RUN b # c")]),
        ("# escape=`\nFROM a\nRUN b `\n c\\", &[(2, 2, "FROM a"), (3, 4, "RUN b  c\\")]),
        (
            "# escape=`\nFROM a\nCOPY b c:\\\nRUN d",
            &[(2, 2, "FROM a"), (3, 3, "COPY b c:\\"), (4, 4, "RUN d")],
        ),
        ("#escape = `\nFROM a\nRUN b`\nc", &[(2, 2, "FROM a"), (3, 4, "RUN bc")]),
        ("  #  ESCAPE=`  \nFROM a\nRUN b`\nc", &[(2, 2, "FROM a"), (3, 4, "RUN bc")]),
        // Too late, or below what is none: a comment.
        ("# x\n# escape=`\nFROM a\nRUN b \\\n c", &[(3, 3, "FROM a"), (4, 5, "RUN b  c")]),
        ("\n# escape=`\nFROM a\nRUN b \\\n c", &[(3, 3, "FROM a"), (4, 5, "RUN b  c")]),
        ("# foo=bar\n# escape=`\nFROM a\nRUN b \\\n c", &[(3, 3, "FROM a"), (4, 5, "RUN b  c")]),
        (
            "FROM a\nCOPY <<A /b\n1\n2\nA\nRUN c",
            &[(1, 1, "FROM a"), (2, 5, "COPY <<A /b"), (6, 6, "RUN c")],
        ),
        ("ARG a\nFROM a", &[(1, 1, "ARG a"), (2, 2, "FROM a")]),
        ("FROM a\n\u{2003}RUN b", &[(1, 1, "FROM a"), (2, 2, "RUN b")]),
    ];
    for (text, expected) in table {
        let expected: Vec<_> =
            expected.iter().map(|(first, last, text)| (*first, *last, (*text).into())).collect();
        assert_eq!(layout(text), expected, "{text:?}");
    }
}

#[test]
fn a_file_that_is_none_is_an_error_with_its_line() {
    let table: &[(&[u8], &str)] = &[
        (b"", "there is no instruction in it"),
        (b"\n \n# a\n", "there is no instruction in it"),
        (b"RUN a", "1: RUN: only ARG may stand before the first FROM"),
        (b"ARG a\n\nENV a=b\nFROM c", "3: ENV: only ARG may stand before the first FROM"),
        (b"ARG a", "there is no FROM"),
        (b"FROM a\n\nCOPPY a b", "3: COPPY: there is no such instruction"),
        (b"FROM a\nRUN b \\\n [1]\nFOO", "4: FOO: there is no such instruction"),
        (b"# escape=`\n# escape=`\nFROM a", "2: a second directive escape"),
        (b"# syntax=a\n# syntax=b\nFROM a", "2: a second directive syntax"),
        (b"# escape=x\nFROM a", "1: escape=x: it can be \\ or `"),
        (b"# escape= \nFROM a", "1: escape= : it can be \\ or `"),
        (b"FROM a\nRUN \xff", "2: not UTF-8"),
        (b"FROM a\nCOPY <<A /b\n\xff\nA", "2: the here-document A is not UTF-8"),
        (b"\xff\xfeF\0R\0O\0M\0", "1: not UTF-8"),
    ];
    for (bytes, expected) in table {
        let err = Dockerfile::parse(bytes).unwrap_err();
        assert_eq!(err.to_string(), *expected, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn comments_may_be_of_any_encoding() {
    assert!(Dockerfile::parse(b"# caf\xe9\nFROM a\nRUN b \\\n# \xff\n c").is_ok());
}

#[test]
fn a_line_has_a_limit_and_a_file_too() {
    let run = |length: usize| format!("FROM a\nRUN {}", "x".repeat(length - 4));
    assert!(Dockerfile::parse(run(lines::LONGEST_LINE).as_bytes()).is_ok());
    let err = Dockerfile::parse(run(lines::LONGEST_LINE + 1).as_bytes()).unwrap_err();
    assert_eq!(err.to_string(), "2: the line is longer than 65535 bytes");
    // Of several lines an instruction may have more.
    let long = format!("FROM a\nRUN {}", "x\\\n".repeat(lines::LONGEST_LINE));
    assert!(Dockerfile::parse(long.as_bytes()).is_ok());
    let comments = format!("FROM a\n{}", "#\n".repeat(LONGEST / 2));
    let err = Dockerfile::parse(comments.as_bytes()).unwrap_err();
    assert_eq!(err.to_string(), "longer than 4 MiB");
}

#[test]
fn comments_belong_to_the_instruction_below() {
    let comments = |text: &str| {
        let file = Dockerfile::parse(text.as_bytes()).unwrap();
        file.stages.last().unwrap().begin.comments.clone()
    };
    assert_eq!(comments("# a\n#b  \nFROM x"), ["a", "b"]);
    assert_eq!(comments("# a\n#\n# b\nFROM x"), ["b"]);
    assert_eq!(comments("# a\n\nFROM x"), ["a"]);
    assert_eq!(comments("# a\nARG b\nFROM x"), [""; 0]);
    assert_eq!(comments("# syntax=a\n# b\nFROM x"), ["b"]);
    assert_eq!(comments("  # a\nFROM x"), ["# a"]);
    assert_eq!(comments("FROM \\\n# a\n x"), [""; 0]);
}

#[test]
fn directives_are_at_the_top() {
    let table = [
        ("# syntax=docker/dockerfile:1\nFROM a", Some("docker/dockerfile:1"), None),
        ("#syntax = a b\nFROM a", Some("a"), None),
        ("# Syntax=a\n# check=skip=all;error=true\nFROM a", Some("a"), Some("skip=all;error=true")),
        ("#!/usr/bin/env x\n# syntax=a\nFROM a", Some("a"), None),
        ("\u{feff}# syntax=a\r\n# check=b\r\nFROM a", Some("a"), Some("b")),
        ("# x\n# syntax=a\nFROM a", None, None),
        ("\n# syntax=a\nFROM a", None, None),
        (" # syntax=a\nFROM a", None, None),
        ("FROM a\n# syntax=a", None, None),
        ("# escape=`\n# syntax=a\nFROM a", Some("a"), None),
    ];
    for (text, syntax, check) in table {
        let found = Dockerfile::parse(text.as_bytes()).unwrap().directives;
        assert_eq!(found.syntax.as_deref(), syntax, "{text:?}");
        assert_eq!(found.check.as_deref(), check, "{text:?}");
    }
}

#[test]
fn empty_lines_in_an_instruction_are_noticed() {
    let gaps = |text: &str| Dockerfile::parse(text.as_bytes()).unwrap().gaps;
    assert_eq!(gaps("FROM a\nRUN b \\\n\n c\nRUN d"), [4]);
    assert_eq!(gaps("FROM a\nRUN b \\\n# x\n c"), [0; 0]);
    assert_eq!(gaps("FROM a\nRUN b \\\n\n"), [3]);
}

#[test]
fn nothing_nests_without_end() {
    // Each of these once made a parser somewhere run out of stack.
    for text in [
        format!("FROM a\nRUN {}", "[".repeat(60_000)),
        format!("FROM a\nRUN [{}\"\"]", "[],".repeat(20_000)),
        format!("FROM a\nRUN {}<<EOF", "${a:-".repeat(10_000)),
        format!("FROM a\n{}RUN x", "ONBUILD ".repeat(8_000)),
        format!("FROM a\nRUN {}", "<<A ".repeat(10_000)),
    ] {
        let _ = Dockerfile::parse(text.as_bytes());
    }
}

/// Lines of a file that may be one.
fn anything() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "FROM a",
        "FROM a AS b",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "CMD ",
        "LABEL ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "SHELL ",
        "EXPOSE ",
        "\n",
        "\n",
        "\n",
        "\r\n",
        "\\\n",
        "`\n",
        "# escape=`",
        "# syntax=x",
        "#",
        " ",
        "\t",
        "--from=b ",
        "--mount=type=cache,target=/x ",
        "--chmod=755 ",
        "<<EOF",
        "<<-'EOF'",
        "EOF\n",
        "[\"a\", \"b\"]",
        "[",
        "]",
        "\"",
        "'",
        "\\",
        "`",
        "a=b",
        "=",
        "$a",
        "${a:-b}",
        "${a",
        "é",
        "\u{a0}",
        "x",
        "/y",
        "CMD",
        "NONE",
    ]);
    let text = prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat());
    prop_oneof![
        text,
        "\\PC{0,60}",
        any::<Vec<u8>>().prop_map(|b| String::from_utf8_lossy(&b).into())
    ]
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in anything()) {
        let _ = Dockerfile::parse(text.as_bytes());
    }

    #[test]
    fn lines_are_in_order_and_none_is_lost(text in anything()) {
        let text = format!("FROM a\n{text}");
        let Ok(file) = Dockerfile::parse(text.as_bytes()) else { return Ok(()) };
        let mut next = 1;
        let lines: Vec<&str> = text.split('\n').collect();
        let quiet = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
        for one in file.instructions() {
            prop_assert!(next <= one.first && one.first <= one.last && one.last <= lines.len());
            // What is between instructions says nothing.
            prop_assert!(lines[next - 1..one.first - 1].iter().all(quiet), "{:?}", text);
            prop_assert!(!quiet(&lines[one.first - 1]), "{:?}", text);
            next = one.last + 1;
        }
        prop_assert!(lines[(next - 1).min(lines.len())..].iter().all(quiet), "{:?}", text);
    }

    #[test]
    fn an_array_comes_back_as_it_was_written(args in prop::collection::vec("\\PC{0,12}", 0..5)) {
        let json = serde_json::to_string(&args).unwrap();
        // A line ends in an escape only outside of JSON.
        let one = last(&format!("RUN {json}")).unwrap();
        let Operation::Run(run) = one.operation else { panic!() };
        prop_assert_eq!(run.command, Command::Exec(args));
    }

    #[test]
    fn a_command_for_the_shell_is_kept_to_the_letter(text in "[!-,.-Z\\^_a-z][ -Z\\^_a-z]{0,40}") {
        prop_assume!(!text.contains("<<"));
        let one = last(&format!("RUN {text}")).unwrap();
        let Operation::Run(run) = one.operation else { panic!() };
        prop_assert_eq!(run.command, Command::Shell(text.trim().to_owned()));
    }

    #[test]
    fn where_lines_are_broken_does_not_matter(
        words in prop::collection::vec("[a-z0-9/=.]{1,8}", 1..6),
        breaks in prop::collection::vec(0usize..4, 6),
    ) {
        let whole = format!("RUN {}", words.join(" "));
        let breaks = breaks.iter().map(|n| [" ", " \\\n", " \\\n# x\n", " \\\n\n"][*n]);
        let broken: String = words.iter().zip(breaks).map(|(word, end)| format!("{word}{end}")).collect();
        let whole = last(&whole).unwrap();
        let broken = last(&format!("RUN {broken}")).unwrap();
        prop_assert_eq!(whole.operation, broken.operation);
    }

    #[test]
    fn a_here_document_is_kept_to_the_byte(
        body in prop::collection::vec("[ -~\t]{0,20}", 0..6),
        end in "[A-Z]{3,6}",
        chomp in any::<bool>(),
    ) {
        prop_assume!(body.iter().all(|line| line.trim_start_matches('\t') != end));
        let dash = if chomp { "-" } else { "" };
        let text: String = body.iter().map(|line| format!("{line}\n")).collect();
        let one = last(&format!("COPY <<{dash}\"{end}\" /x\n{text}{end}\nRUN x\n")).unwrap();
        prop_assert_eq!(&one.source, "RUN x");
        let file = format!("FROM a\nCOPY <<{dash}\"{end}\" /x\n{text}{end}");
        let file = Dockerfile::parse(file.as_bytes()).unwrap();
        let copy = &file.stages[0].instructions[0];
        prop_assert_eq!(&copy.heredocs[0].content, &text);
        let Operation::Copy(copy) = &copy.operation else { panic!() };
        let chomped: String = body.iter().map(|line| format!("{}\n", line.trim_start_matches('\t'))).collect();
        prop_assert_eq!(&copy.files.contents[0].text, if chomp { &chomped } else { &text });
    }
}
