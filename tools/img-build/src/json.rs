//! A Dockerfile as JSON, for editors and linters: what `--parse` prints.
//!
//! ```text
//! {"escape": "\\", "syntax": null, "check": null, "instructions": [
//!   {"instruction": "COPY", "keyword": "copy", "lines": [3, 5], "stage": 0, "source": "copy --link a /b",
//!    "comments": [], "flags": ["--link"], "heredocs": [], "arguments": {...}}, ...
//! ]}
//! ```
//!
//! `arguments` has the fields of the instruction, every one of them, so that a
//! reader need not know what is left out when. `stage` is null before the first
//! FROM. Variables are as they are written.

use serde_json::{Value, json};

use crate::dockerfile::Dockerfile;
use crate::dockerfile::heredoc::Heredoc;
use crate::dockerfile::instruction::{Arg, Command, Files, Healthcheck, Instruction, Operation};
use crate::dockerfile::split::Pair;

/// Returns a Dockerfile as JSON.
pub fn document(file: &Dockerfile) -> Value {
    let mut instructions: Vec<Value> =
        file.arguments.iter().map(|one| instruction(one, None)).collect();
    for (index, stage) in file.stages.iter().enumerate() {
        instructions.push(instruction(&stage.begin, Some(index)));
        instructions.extend(stage.instructions.iter().map(|one| instruction(one, Some(index))));
    }
    json!({
        "escape": file.escape.to_string(),
        "syntax": file.directives.syntax,
        "check": file.directives.check,
        "instructions": instructions,
    })
}

fn instruction(one: &Instruction, stage: Option<usize>) -> Value {
    json!({
        "instruction": one.keyword.to_uppercase(),
        "keyword": one.keyword,
        "lines": [one.first, one.last],
        "stage": stage,
        "source": one.source,
        "comments": one.comments,
        "flags": one.flags,
        "heredocs": one.heredocs.iter().map(heredoc).collect::<Vec<_>>(),
        "arguments": arguments(&one.operation),
    })
}

fn heredoc(heredoc: &Heredoc) -> Value {
    json!({
        "name": heredoc.name,
        "descriptor": heredoc.descriptor,
        "expand": heredoc.expand,
        "chomp": heredoc.chomp,
        "content": heredoc.content,
    })
}

fn arguments(operation: &Operation) -> Value {
    match operation {
        Operation::Add(add) => {
            let mut value = files(&add.files);
            value["checksum"] = json!(add.checksum);
            value["keep_git_dir"] = json!(add.keep_git_dir);
            value["unpack"] = json!(add.unpack);
            value
        }
        Operation::Arg(arguments) => {
            let one = |argument: &Arg| json!({"name": argument.name, "default": argument.default});
            json!({"arguments": arguments.iter().map(one).collect::<Vec<_>>()})
        }
        Operation::Cmd(command) | Operation::Entrypoint(command) => {
            json!({"command": self::command(command)})
        }
        Operation::Copy(copy) => {
            let mut value = files(&copy.files);
            value["from"] = json!(copy.from);
            value["parents"] = json!(copy.parents);
            value
        }
        Operation::Env(pairs) => json!({"variables": self::pairs(pairs)}),
        Operation::Expose(ports) => json!({"ports": ports}),
        Operation::From(from) => {
            json!({"image": from.image, "platform": from.platform, "name": from.name})
        }
        Operation::Healthcheck(Healthcheck::None) => json!({"command": null}),
        Operation::Healthcheck(Healthcheck::Run {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        }) => json!({
            "command": self::command(command),
            "interval": interval,
            "timeout": timeout,
            "start_period": start_period,
            "start_interval": start_interval,
            "retries": retries,
        }),
        Operation::Label(pairs) => json!({"labels": self::pairs(pairs)}),
        Operation::Maintainer(author) => json!({"author": author}),
        Operation::Onbuild(trigger) => json!({"trigger": trigger}),
        Operation::Run(run) => json!({
            "command": command(&run.command),
            "mounts": run.mounts.iter().map(|mount| &mount.text).collect::<Vec<_>>(),
            "network": run.network,
            "security": run.security,
            "devices": run.devices.iter().map(|device| {
                json!({"name": device.name, "required": device.required})
            }).collect::<Vec<_>>(),
        }),
        Operation::Shell(shell) => json!({"shell": shell}),
        Operation::Stopsignal(signal) => json!({"signal": signal}),
        Operation::User(user) => json!({"user": user}),
        Operation::Volume(volumes) => json!({"volumes": volumes}),
        Operation::Workdir(directory) => json!({"directory": directory}),
    }
}

/// A string is for the shell, an array is not.
fn command(command: &Command) -> Value {
    match command {
        Command::Shell(text) => json!(text),
        Command::Exec(args) => json!(args),
    }
}

fn pairs(pairs: &[Pair]) -> Vec<Value> {
    let one = |pair: &Pair| json!({"name": pair.name, "value": pair.value, "legacy": pair.legacy});
    pairs.iter().map(one).collect()
}

fn files(files: &Files) -> Value {
    json!({
        "sources": files.sources,
        "contents": files.contents.iter().map(|content| {
            json!({"name": content.name, "text": content.text, "expand": content.expand})
        }).collect::<Vec<_>>(),
        "destination": files.destination,
        "chown": files.chown,
        "chmod": files.chmod,
        "link": files.link,
        "exclude": files.exclude,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::dockerfile::instruction::KEYWORDS;

    fn parsed(text: &str) -> Value {
        document(&Dockerfile::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn a_file_is_its_instructions() {
        let document = parsed(
            "# syntax=docker/dockerfile:1\n# escape=`\nARG v=1\n# what it is\nfrom a:$v AS B\n\
             COPY --link --chown=u <<E x `\n /y/\n$z\nE\n",
        );
        let expected = json!({
            "escape": "`",
            "syntax": "docker/dockerfile:1",
            "check": null,
            "instructions": [
                {
                    "instruction": "ARG", "keyword": "ARG", "lines": [3, 3], "stage": null,
                    "source": "ARG v=1", "comments": [], "flags": [], "heredocs": [],
                    "arguments": {"arguments": [{"name": "v", "default": "1"}]},
                },
                {
                    "instruction": "FROM", "keyword": "from", "lines": [5, 5], "stage": 0,
                    "source": "from a:$v AS B", "comments": ["what it is"], "flags": [],
                    "heredocs": [],
                    "arguments": {"image": "a:$v", "platform": null, "name": "b"},
                },
                {
                    "instruction": "COPY", "keyword": "COPY", "lines": [6, 9], "stage": 0,
                    "source": "COPY --link --chown=u <<E x  /y/", "comments": [],
                    "flags": ["--link", "--chown=u"],
                    "heredocs": [{
                        "name": "E", "descriptor": 0, "expand": true, "chomp": false,
                        "content": "$z\n",
                    }],
                    "arguments": {
                        "sources": ["x"],
                        "contents": [{"name": "E", "text": "$z\n", "expand": true}],
                        "destination": "/y/", "chown": "u", "chmod": null, "link": true,
                        "exclude": [], "from": null, "parents": false,
                    },
                },
            ],
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn every_instruction_has_arguments() {
        let text = "FROM a\nADD --unpack a b\nARG a b=c\nCMD a\nCOPY --from=x a b\nENTRYPOINT [\"a\"]\n\
            ENV a=b\nEXPOSE 80\nHEALTHCHECK --interval=1s CMD a\nLABEL a b\nMAINTAINER a\nONBUILD RUN a\n\
            RUN --mount=target=/x --network=none --device=d --security=insecure a\nSHELL [\"a\"]\n\
            STOPSIGNAL 9\nUSER a\nVOLUME /a\nWORKDIR /a\n";
        let document = parsed(text);
        let arguments: Vec<String> = document["instructions"].as_array().unwrap()[1..]
            .iter()
            .map(|one| one["arguments"].to_string())
            .collect();
        let expected = [
            r#"{"checksum":null,"chmod":null,"chown":null,"contents":[],"destination":"b","exclude":[],"keep_git_dir":null,"link":false,"sources":["a"],"unpack":true}"#,
            r#"{"arguments":[{"default":null,"name":"a"},{"default":"c","name":"b"}]}"#,
            r#"{"command":"a"}"#,
            r#"{"chmod":null,"chown":null,"contents":[],"destination":"b","exclude":[],"from":"x","link":false,"parents":false,"sources":["a"]}"#,
            r#"{"command":["a"]}"#,
            r#"{"variables":[{"legacy":false,"name":"a","value":"b"}]}"#,
            r#"{"ports":["80"]}"#,
            r#"{"command":"a","interval":1000000000,"retries":0,"start_interval":0,"start_period":0,"timeout":0}"#,
            r#"{"labels":[{"legacy":true,"name":"a","value":"b"}]}"#,
            r#"{"author":"a"}"#,
            r#"{"trigger":"RUN a"}"#,
            r#"{"command":"a","devices":[{"name":"d","required":false}],"mounts":["target=/x"],"network":"none","security":"insecure"}"#,
            r#"{"shell":["a"]}"#,
            r#"{"signal":"9"}"#,
            r#"{"user":"a"}"#,
            r#"{"volumes":["/a"]}"#,
            r#"{"directory":"/a"}"#,
        ];
        assert_eq!(arguments, expected);
        let instructions = document["instructions"].as_array().unwrap().iter();
        let there: BTreeSet<&str> =
            instructions.map(|one| one["instruction"].as_str().unwrap()).collect();
        assert_eq!(there, KEYWORDS.into_iter().collect());
        assert_eq!(
            parsed("FROM a\nHEALTHCHECK NONE")["instructions"][1]["arguments"],
            json!({"command": null})
        );
    }
}
