//! What the history says of an instruction: BuildKit's words, which are Go's.

use crate::dockerfile::instruction::{Command, Healthcheck, Instruction, Operation, Start};
use crate::dockerfile::scope::Scope;
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
            format!("COPY {}{} # buildkit", owner(files), places(files))
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

/// Returns the arguments that a RUN step has, and how many.
fn given(scope: &Scope) -> String {
    let one = |(name, value): &(String, Option<String>)| {
        format!("{name}={} ", value.as_deref().unwrap_or_default())
    };
    match scope.arguments.len() {
        0 => String::new(),
        n => format!("|{n} {}", scope.arguments.iter().map(one).collect::<String>()),
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
    let args: Vec<String> = args.iter().map(|arg| format!("{arg:?}")).collect();
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
    let test: Vec<String> = test.iter().map(|arg| format!("{arg:?}")).collect();
    let times: Vec<String> = times.iter().map(|time| format!("\"{}\"", duration(*time))).collect();
    format!("&{{[{}] {} '\\x{retries:02x}'}}", test.join(" "), times.join(" "))
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

    #[test]
    fn history_is_in_buildkits_words() {
        let table = [
            ("RUN echo a  b", "RUN |2 A=1 B= /bin/sh -c echo a  b # buildkit"),
            ("RUN [\"sh\", \"-c\", \"a\"]", "RUN |2 A=1 B= sh -c a # buildkit"),
            ("RUN <<EOF\necho 1\nEOF", "RUN |2 A=1 B= /bin/sh -c echo 1\n # buildkit"),
            ("COPY --chown=1 --link a b /c/", "COPY --chown=1 a b /c/ # buildkit"),
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
        let arguments = vec![("A".into(), Some("1".into())), ("B".into(), None)];
        let scope = Scope { arguments, ..Scope::default() };
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
