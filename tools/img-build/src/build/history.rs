//! What the history says of an instruction: BuildKit's words, which are Go's.

use crate::dockerfile::instruction::{Command, Healthcheck, Instruction, Operation, Start};
use crate::dockerfile::scope::Scope;
use crate::dockerfile::words::Values;
use crate::source::address::redacted;

use super::config::Config;

/// Returns what the history says of an instruction, its variables replaced; nothing if it says nothing.
///
/// `config` is as it was before the instruction, but for WORKDIR, whose directory it has.
pub fn created_by(instruction: &Instruction, config: &Config, scope: &Scope) -> Option<String> {
    let joined = |pairs: &[crate::dockerfile::split::Pair]| {
        let pairs = pairs.iter().map(|pair| format!("{}={}", pair.name, pair.value));
        pairs.collect::<Vec<_>>().join(" ")
    };
    Some(match &instruction.operation {
        Operation::Run(run) => {
            let shell = config.shell().join(" ");
            let command = match instruction.start(run) {
                Start::Exec(args) => args.join(" "),
                Start::Shell(text) => format!("{shell} {text}"),
                Start::Script { name, .. } => format!("{shell} /dev/pipes/{name}"),
            };
            format!("RUN {}{command} # buildkit", given(scope))
        }
        Operation::Copy(copy) => {
            let files = &copy.files;
            let parents = if copy.parents { "--parents " } else { "" };
            format!("COPY {parents}{}{} # buildkit", owner(files), places(files))
        }
        Operation::Add(add) => {
            format!("ADD {}{} # buildkit", owner(&add.files), places(&add.files))
        }
        Operation::Arg(arguments) => {
            let value = |name: &str| {
                let known = scope.arguments.iter().rev().find(|(known, _)| known == name);
                known.and_then(|(_, value)| value.clone())
            };
            let one = |name: &String| match value(name) {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            };
            let all = arguments.iter().map(|argument| one(&argument.name));
            format!("ARG {}", all.collect::<Vec<_>>().join(" "))
        }
        Operation::Env(pairs) => format!("ENV {}", joined(pairs)),
        Operation::Label(pairs) => format!("LABEL {}", joined(pairs)),
        Operation::Expose(ports) => {
            let mut ports = ports.clone();
            ports.sort();
            format!("EXPOSE [{}]", ports.join(" "))
        }
        Operation::Volume(volumes) => format!("VOLUME [{}]", volumes.join(" ")),
        Operation::Stopsignal(signal) => format!("STOPSIGNAL {signal}"),
        Operation::User(user) => format!("USER {user}"),
        Operation::Maintainer(author) => format!("MAINTAINER {author}"),
        Operation::Shell(shell) => format!("SHELL [{}]", shell.join(" ")),
        Operation::Workdir(_) => format!("WORKDIR {}", config.absolute(".")),
        Operation::Cmd(command) => format!("CMD {}", quoted(command, config)),
        Operation::Entrypoint(command) => format!("ENTRYPOINT {}", quoted(command, config)),
        Operation::Healthcheck(check) => format!("HEALTHCHECK {}", healthcheck(check)),
        Operation::Onbuild(_) | Operation::From(_) => return None,
    })
}

/// Returns the arguments that a RUN step has, and how many: each once, with the value that the step sees.
fn given(scope: &Scope) -> String {
    let mut given: Vec<&str> = Vec::new();
    for (name, _) in &scope.arguments {
        if !given.contains(&name.as_str()) {
            given.push(name);
        }
    }
    let one = |name: &&str| format!("{name}={} ", scope.variables.get(name).unwrap_or_default());
    match given.len() {
        0 => String::new(),
        n => format!("|{n} {}", given.iter().map(one).collect::<String>()),
    }
}

fn owner(files: &crate::dockerfile::instruction::Files) -> String {
    let flag = |name: &str, value: &Option<String>| match value {
        Some(value) => format!("--{name}={value} "),
        None => String::new(),
    };
    flag("chown", &files.chown) + &flag("chmod", &files.chmod)
}

fn places(files: &crate::dockerfile::instruction::Files) -> String {
    let contents = files.contents.iter().map(|content| format!("<<{}", content.name));
    let places = files.sources.iter().map(|source| redacted(source)).chain(contents);
    places.chain([files.destination.clone()]).collect::<Vec<_>>().join(" ")
}

/// Returns a command as Go's `%q` writes a list.
fn quoted(command: &Command, config: &Config) -> String {
    let args = match command {
        Command::Exec(args) => args.clone(),
        Command::Shell(text) => {
            config.shell().into_iter().map(str::to_owned).chain([text.clone()]).collect()
        }
    };
    let args: Vec<String> = args.iter().map(|arg| go_quote(arg, '"')).collect();
    format!("[{}]", args.join(" "))
}

fn healthcheck(check: &Healthcheck) -> String {
    let (test, times, retries) = match check {
        Healthcheck::None => (vec!["NONE".to_owned()], [0; 4], 0),
        Healthcheck::Run { command, interval, timeout, start_period, start_interval, retries } => {
            let test = match command {
                Command::Exec(args) => ["CMD".to_owned()].into_iter().chain(args.clone()).collect(),
                Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
            };
            (test, [*interval, *timeout, *start_period, *start_interval], *retries)
        }
    };
    let test: Vec<String> = test.iter().map(|arg| go_quote(arg, '"')).collect();
    let times: Vec<String> = times.iter().map(|time| format!("\"{}\"", duration(*time))).collect();
    // A number is a character to `%q`.
    let retries = u32::try_from(retries).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
    let retries = go_quote(&retries.to_string(), '\'');
    format!("&{{[{}] {} {retries}}}", test.join(" "), times.join(" "))
}

/// Returns a text as Go's `strconv.Quote` writes it.
fn go_quote(text: &str, quote: char) -> String {
    // Behind a letter a mark is printed, as Go prints it everywhere.
    let is_print = |c: char| format!("x{c}").escape_debug().eq(['x', c]);
    let mut quoted = String::from(quote);
    for c in text.chars() {
        match c {
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0b' => quoted.push_str("\\v"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            c if c == quote => quoted.extend(['\\', c]),
            '"' | '\'' => quoted.push(c),
            c if is_print(c) => quoted.push(c),
            c if c < ' ' || c == '\x7f' => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c if c <= '\u{ffff}' => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    quoted.push(quote);
    quoted
}

/// Returns a time as Go writes it: `1m0s`, `1.5s`, `2ms`.
fn duration(nanoseconds: i64) -> String {
    let (whole, part) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    let fraction = |number: i64, digits: usize| match number {
        0 => String::new(),
        number => format!(".{}", format!("{number:0digits$}").trim_end_matches('0')),
    };
    match (whole, part) {
        (0, 0) => "0s".into(),
        (0, part) => format!("{}{}ms", part / 1_000_000, fraction(part % 1_000_000, 6)),
        _ => {
            let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
            let seconds = format!("{seconds}{}s", fraction(part, 9));
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                _ => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use common::platform::Platform;

    use super::*;
    use crate::dockerfile::Dockerfile;
    use crate::dockerfile::expand::expand;
    use crate::dockerfile::scope::Variables;

    #[test]
    fn history_is_in_buildkits_words() {
        let table = [
            ("RUN echo a  b", "RUN |2 A=1 B= /bin/sh -c echo a  b # buildkit"),
            ("RUN [\"sh\", \"-c\", \"a\"]", "RUN |2 A=1 B= sh -c a # buildkit"),
            ("RUN <<EOF\necho 1\nEOF", "RUN |2 A=1 B= /bin/sh -c echo 1\n # buildkit"),
            ("COPY --chown=1 --link a b /c/", "COPY --chown=1 a b /c/ # buildkit"),
            ("COPY --chmod=7 --parents a/b /x/", "COPY --parents --chmod=7 a/b /x/ # buildkit"),
            ("COPY <<A /h/\nx\nA", "COPY <<A /h/ # buildkit"),
            ("ADD --chmod=600 a.tgz /t", "ADD --chmod=600 a.tgz /t # buildkit"),
            ("ARG A=7 B", "ARG A=1 B"),
            ("ENV X=1 Y=\"a b\"", "ENV X=1 Y=a b"),
            ("VOLUME /v1 /v2", "VOLUME [/v1 /v2]"),
            ("SHELL [\"/bin/sh\", \"-ec\"]", "SHELL [/bin/sh -ec]"),
            ("CMD [\"a\", \"b c\"]", "CMD [\"a\" \"b c\"]"),
            ("ENTRYPOINT a b", "ENTRYPOINT [\"/bin/sh\" \"-c\" \"a b\"]"),
            (
                "HEALTHCHECK --interval=5s --timeout=1m --retries=4 CMD curl -f x",
                "HEALTHCHECK &{[\"CMD-SHELL\" \"curl -f x\"] \"5s\" \"1m0s\" \"0s\" \"0s\" '\\x04'}",
            ),
        ];
        let config = Config::empty(&Platform::host());
        let argument = |name: &str, value: &str| (name.into(), Some(value.into()));
        let arguments = vec![argument("A", "0"), ("B".into(), None), argument("A", "1")];
        // The last of what ARG and ENV have said.
        let scope = Scope { arguments, variables: Variables::of(["X=2", "A=1"]) };
        for (line, expected) in table {
            let file = Dockerfile::parse(format!("FROM scratch\n{line}\n").as_bytes()).unwrap();
            let written = &file.stages[0].instructions[0];
            let operation = expand(written, &scope.variables, '\\').unwrap().operation;
            let instruction = Instruction { operation, ..written.clone() };
            let told = created_by(&instruction, &config, &scope);
            assert_eq!(told.as_deref(), Some(expected), "{line}");
        }
    }

    #[test]
    fn texts_are_quoted_as_go_quotes_them() {
        let table = [
            ("a \"b\" 'c'", r#""a \"b\" 'c'""#),
            ("\0\x01\x07\x08\t\n\x0b\x0c\r\x1b\x7f", r#""\x00\x01\a\b\t\n\v\f\r\x1b\x7f""#),
            ("\\é日\u{301}", "\"\\\\é日\u{301}\""),
            ("\u{a0}\u{200b}\u{85}\u{e0001}", r#""\u00a0\u200b\u0085\U000e0001""#),
        ];
        table.iter().for_each(|(text, expected)| assert_eq!(go_quote(text, '"'), *expected));
        for (retries, expected) in [(4, "'\\x04'"), (10, "'\\n'"), (65, "'A'"), (39, "'\\''")] {
            let check = Healthcheck::Run {
                command: Command::Exec(Vec::new()),
                interval: 0,
                timeout: 0,
                start_period: 0,
                start_interval: 0,
                retries,
            };
            assert!(healthcheck(&check).ends_with(&format!(" {expected}}}")), "{retries}");
        }
    }

    #[test]
    fn times_are_gos() {
        let table = [
            (0, "0s"),
            (1_000_000_000, "1s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
            (2_500_000, "2.5ms"),
        ];
        table.iter().for_each(|(time, expected)| assert_eq!(duration(*time), *expected));
    }
}
