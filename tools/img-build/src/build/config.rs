//! An image's config and history, instruction by instruction, as Docker writes them.
//!
//! What the base says is kept as far as an image can say it: the fields of the
//! image-spec's config.md, and Docker's own `Healthcheck`, `OnBuild` and `Shell`.
//! The rest of what older builders left, such as the container that they
//! committed, is not an image's to say.
//!
//! Nothing here reads a clock: the moment is the build's epoch.

use anyhow::{Context, Result, ensure};
use common::digest::Digest;
use common::image;
use common::path::clean;
use common::platform::Platform;
use serde_json::{Map, Value, json};

use crate::dockerfile::instruction::{Command, Healthcheck, Operation};
use crate::dockerfile::scope::PATH;

/// The fields of `config` that stay.
const KEPT: [&str; 13] = [
    "ArgsEscaped",
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// The comment of a step that a builder made: what reads histories knows it by this.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// The config of an image that is being made.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What it is for.
    pub platform: Platform,
    os_version: Option<Value>,
    os_features: Option<Value>,
    author: Option<String>,
    container: Map<String, Value>,
    history: Vec<Value>,
    /// CMD was said in this stage, so ENTRYPOINT leaves it.
    has_cmd: bool,
}

impl Config {
    /// Returns the config of an image with nothing in it.
    pub fn empty(platform: &Platform) -> Config {
        let container = Map::from_iter([
            ("Env".to_owned(), json!([format!("PATH={PATH}")])),
            ("WorkingDir".to_owned(), json!("/")),
        ]);
        Config {
            platform: platform.clone(),
            os_version: None,
            os_features: None,
            author: None,
            container,
            history: Vec::new(),
            has_cmd: false,
        }
    }

    /// Reads the config of a base image that has so many layers.
    pub fn of(bytes: &[u8], layers: usize) -> Result<Config> {
        let parsed = image::parse_config(bytes)?;
        let variant = parsed.variant().as_deref();
        let (os, architecture) = (parsed.os().to_string(), parsed.architecture().to_string());
        let Value::Object(mut fields) = serde_json::from_slice(bytes)? else {
            anyhow::bail!("not an image config");
        };
        let mut container = match fields.remove("config") {
            Some(Value::Object(container)) => container,
            _ => Map::new(),
        };
        container.retain(|name, value| KEPT.contains(&name.as_str()) && !is_empty(value));
        let mut history = match fields.remove("history") {
            Some(Value::Array(history)) => history,
            _ => Vec::new(),
        };
        fit(&mut history, layers);
        let mut config = Config {
            platform: Platform::new(&os, &architecture, variant),
            os_version: fields.remove("os.version"),
            os_features: fields.remove("os.features"),
            author: fields.remove("author").and_then(|author| author.as_str().map(str::to_owned)),
            container,
            history,
            has_cmd: false,
        };
        if !config.env().iter().any(|variable| variable.starts_with("PATH=")) {
            config.set_env("PATH", PATH);
        }
        Ok(config)
    }

    /// Begins a stage on what another stage has made.
    pub fn begin_stage(&mut self) {
        self.has_cmd = false;
    }

    /// Returns the variables, `NAME=value` each.
    pub fn env(&self) -> Vec<&str> {
        self.strings("Env")
    }

    /// Returns whom commands run as; empty is root.
    pub fn user(&self) -> &str {
        self.text("User")
    }

    /// Returns the working directory, absolute.
    pub fn workdir(&self) -> &str {
        match self.text("WorkingDir") {
            "" => "/",
            dir => dir,
        }
    }

    /// Returns what runs the commands of the shell form.
    pub fn shell(&self) -> Vec<&str> {
        match self.strings("Shell") {
            shell if shell.is_empty() => vec!["/bin/sh", "-c"],
            shell => shell,
        }
    }

    /// Takes the instructions that the image kept for builds on top of it.
    pub fn take_triggers(&mut self) -> Vec<String> {
        let triggers = self.strings("OnBuild").into_iter().map(str::to_owned).collect();
        self.container.remove("OnBuild");
        triggers
    }

    /// Adds labels that were given from outside.
    pub fn label(&mut self, name: &str, value: &str) {
        self.object("Labels").insert(name.into(), value.into());
    }

    /// Applies an instruction, its variables replaced. Those that change files alone change nothing here.
    pub fn apply(&mut self, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Env(pairs) => {
                pairs.iter().for_each(|pair| self.set_env(&pair.name, &pair.value));
            }
            Operation::Label(pairs) => {
                pairs.iter().for_each(|pair| self.label(&pair.name, &pair.value));
            }
            Operation::Expose(ports) => {
                let exposed = self.object("ExposedPorts");
                ports.iter().for_each(|port| drop(exposed.insert(port.clone(), json!({}))));
            }
            Operation::Volume(volumes) => {
                let all = self.object("Volumes");
                volumes.iter().for_each(|volume| drop(all.insert(volume.clone(), json!({}))));
            }
            Operation::User(user) => self.set("User", user.clone().into()),
            Operation::Workdir(dir) => {
                // What is absolute stays as it is written, as in Docker.
                let dir = if dir.starts_with('/') { dir.clone() } else { self.absolute(dir) };
                self.set("WorkingDir", dir.into());
            }
            Operation::Cmd(command) => {
                self.has_cmd = true;
                let args = self.args(command);
                self.set("ArgsEscaped", true.into());
                self.set("Cmd", args);
            }
            Operation::Entrypoint(command) => {
                let args = self.args(command);
                self.set("Entrypoint", args);
                if !self.has_cmd {
                    self.container.remove("Cmd");
                }
            }
            Operation::Shell(shell) => self.set("Shell", shell.clone().into()),
            Operation::Stopsignal(signal) => self.set("StopSignal", signal.clone().into()),
            Operation::Healthcheck(check) => self.set("Healthcheck", healthcheck(check)),
            Operation::Onbuild(trigger) => {
                let mut triggers: Vec<Value> =
                    self.strings("OnBuild").into_iter().map(Value::from).collect();
                triggers.push(trigger.clone().into());
                self.set("OnBuild", triggers.into());
            }
            Operation::Maintainer(author) => self.author = Some(author.clone()),
            Operation::Add(_)
            | Operation::Arg(_)
            | Operation::Copy(_)
            | Operation::From(_)
            | Operation::Run(_) => {}
        }
        Ok(())
    }

    /// Returns where a path leads from the working directory.
    pub fn absolute(&self, path: &str) -> String {
        match path.starts_with('/') {
            true => clean(path),
            false => clean(&format!("{}/{path}", self.workdir())),
        }
    }

    /// Adds a step to the history: what it says, and whether it made a layer.
    pub fn record(&mut self, created_by: String, has_layer: bool, epoch: i64) -> Result<()> {
        let mut step = Map::new();
        step.insert("created".into(), moment(epoch)?.into());
        step.insert("created_by".into(), created_by.into());
        if let Some(author) = &self.author {
            step.insert("author".into(), author.clone().into());
        }
        step.insert("comment".into(), COMMENT.into());
        if !has_layer {
            step.insert("empty_layer".into(), true.into());
        }
        self.history.push(step.into());
        Ok(())
    }

    /// Says that all layers above the first `kept` are one now.
    pub fn squash(&mut self, kept: usize, created_by: String, epoch: i64) -> Result<()> {
        let mut layers = 0;
        for step in &mut self.history {
            let Value::Object(step) = step else { continue };
            if step.get("empty_layer") == Some(&Value::Bool(true)) {
                continue;
            }
            layers += 1;
            if layers > kept {
                step.insert("empty_layer".into(), true.into());
            }
        }
        self.record(created_by, true, epoch)
    }

    /// Returns the bytes of the config of an image with these layers.
    pub fn to_json(&self, diff_ids: &[Digest], epoch: i64) -> Result<Vec<u8>> {
        let layers = self.history.iter().filter(|step| step["empty_layer"] != true).count();
        ensure!(
            layers == diff_ids.len(),
            "the history has {layers} layers, the image {}",
            diff_ids.len()
        );
        let mut config = Map::new();
        config.insert("architecture".into(), self.platform.architecture.clone().into());
        config.insert("os".into(), self.platform.os.clone().into());
        let rest = [
            ("variant", self.platform.variant.clone().map(Value::from)),
            ("os.version", self.os_version.clone()),
            ("os.features", self.os_features.clone()),
            ("author", self.author.clone().map(Value::from)),
        ];
        for (name, value) in rest {
            if let Some(value) = value {
                config.insert(name.into(), value);
            }
        }
        config.insert("created".into(), moment(epoch)?.into());
        config.insert("config".into(), self.container.clone().into());
        let diff_ids: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
        config.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": diff_ids }));
        config.insert("history".into(), self.history.clone().into());
        let mut config = Value::Object(config);
        config.sort_all_objects();
        Ok(serde_json::to_vec(&config)?)
    }

    fn args(&self, command: &Command) -> Value {
        match command {
            Command::Exec(args) => args.clone().into(),
            Command::Shell(text) => {
                self.shell().into_iter().chain([text.as_str()]).collect::<Vec<_>>().into()
            }
        }
    }

    /// Sets a field; an empty one is left out.
    fn set(&mut self, name: &str, value: Value) {
        match is_empty(&value) {
            true => drop(self.container.remove(name)),
            false => drop(self.container.insert(name.into(), value)),
        }
    }

    fn set_env(&mut self, name: &str, value: &str) {
        let mut env: Vec<String> = self.env().into_iter().map(str::to_owned).collect();
        let variable = format!("{name}={value}");
        match env.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => *known = variable,
            None => env.push(variable),
        }
        self.set("Env", env.into());
    }

    fn text(&self, name: &str) -> &str {
        self.container.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn strings(&self, name: &str) -> Vec<&str> {
        let list = self.container.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn object(&mut self, name: &str) -> &mut Map<String, Value> {
        let value = self.container.entry(name).or_insert_with(|| json!({}));
        if !value.is_object() {
            *value = json!({});
        }
        match value {
            Value::Object(object) => object,
            _ => unreachable!("it was made one"),
        }
    }
}

/// Returns whether a value is what Go leaves out where it is told to omit what is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

/// Makes a history speak of so many layers: a base's may say nothing of some, or too much.
fn fit(history: &mut Vec<Value>, layers: usize) {
    let told = history.iter().filter(|step| step["empty_layer"] != true).count();
    history.extend((told..layers).map(|_| json!({ "created_by": "unknown" })));
    let making = history.iter_mut().filter(|step| step["empty_layer"] != true);
    for step in making.take(told.saturating_sub(layers)) {
        match step {
            Value::Object(step) => drop(step.insert("empty_layer".into(), true.into())),
            step => *step = json!({ "empty_layer": true }),
        }
    }
}

/// Returns the JSON of HEALTHCHECK, in which durations are nanoseconds and zero is left out.
fn healthcheck(check: &Healthcheck) -> Value {
    let Healthcheck::Run { command, interval, timeout, start_period, start_interval, retries } =
        check
    else {
        return json!({ "Test": ["NONE"] });
    };
    let test: Vec<&str> = match command {
        Command::Shell(text) => vec!["CMD-SHELL", text],
        Command::Exec(args) => ["CMD"].into_iter().chain(args.iter().map(String::as_str)).collect(),
    };
    let mut fields = Map::from_iter([("Test".to_owned(), json!(test))]);
    let durations = [
        ("Interval", interval),
        ("Timeout", timeout),
        ("StartPeriod", start_period),
        ("StartInterval", start_interval),
    ];
    for (name, duration) in durations {
        if *duration != 0 {
            fields.insert(name.into(), json!(*duration));
        }
    }
    if *retries != 0 {
        fields.insert("Retries".into(), json!(*retries));
    }
    fields.into()
}

/// Returns a moment as images write it: RFC 3339.
pub fn moment(epoch: i64) -> Result<String> {
    let timestamp = jiff::Timestamp::from_second(epoch);
    Ok(timestamp.with_context(|| format!("{epoch}: not a moment"))?.to_string())
}

/// Returns the epoch of what was made at this moment: its second.
pub fn epoch_of(created: &str) -> Option<i64> {
    created.parse::<jiff::Timestamp>().ok().map(|moment| moment.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::Dockerfile;
    use crate::dockerfile::expand::expand;
    use crate::dockerfile::scope::Variables;

    fn built(mut config: Config, lines: &str) -> Value {
        let file = Dockerfile::parse(format!("FROM scratch\n{lines}").as_bytes()).unwrap();
        for instruction in &file.stages[0].instructions {
            let expanded = expand(instruction, &Variables::default(), '\\').unwrap();
            config.apply(&expanded.operation).unwrap();
        }
        let bytes = config.to_json(&[], 0).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["config"].clone()
    }

    #[test]
    fn each_instruction_says_what_docker_has_it_say() {
        let path = format!("PATH={PATH}");
        let table = [
            ("ENV A=1 B=2\nENV A=3", "Env", json!([path, "A=3", "B=2"])),
            ("LABEL a=1\nLABEL b=2 a=3", "Labels", json!({ "a": "3", "b": "2" })),
            ("EXPOSE 80 53/udp", "ExposedPorts", json!({ "53/udp": {}, "80/tcp": {} })),
            ("VOLUME /a /b\nVOLUME [\"/c\"]", "Volumes", json!({ "/a": {}, "/b": {}, "/c": {} })),
            ("USER me:us", "User", json!("me:us")),
            ("WORKDIR /a\nWORKDIR b/../c", "WorkingDir", json!("/a/c")),
            ("WORKDIR /a/", "WorkingDir", json!("/a/")),
            ("WORKDIR a", "WorkingDir", json!("/a")),
            ("CMD a b", "Cmd", json!(["/bin/sh", "-c", "a b"])),
            ("CMD a\nCMD []", "Cmd", Value::Null),
            ("USER a\nUSER \"\"", "User", Value::Null),
            ("CMD [\"a\"]\nENTRYPOINT [\"b\"]", "Cmd", json!(["a"])),
            ("SHELL [\"sh\", \"-ec\"]\nENTRYPOINT a", "Entrypoint", json!(["sh", "-ec", "a"])),
            ("STOPSIGNAL 9", "StopSignal", json!("9")),
            ("ONBUILD RUN a\nONBUILD USER b", "OnBuild", json!(["RUN a", "USER b"])),
            ("HEALTHCHECK NONE", "Healthcheck", json!({ "Test": ["NONE"] })),
            (
                "HEALTHCHECK --interval=2s --retries=3 CMD a b",
                "Healthcheck",
                json!({ "Test": ["CMD-SHELL", "a b"], "Interval": 2_000_000_000_i64, "Retries": 3 }),
            ),
        ];
        for (lines, field, expected) in table {
            let config = built(Config::empty(&Platform::host()), lines);
            assert_eq!(config[field], expected, "{lines}");
        }
    }

    #[test]
    fn an_entrypoint_drops_the_command_of_the_base_and_nothing_else() {
        let base = json!({
            "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] },
            "container_config": { "Cmd": ["x"] },
            "config": { "Cmd": ["base"], "User": "u", "Hostname": "h", "Healthcheck": { "Test": ["NONE"] }, "Env": ["A=b"] }
        });
        let base = Config::of(base.to_string().as_bytes(), 0).unwrap();
        let config = built(base, "ENTRYPOINT [\"e\"]");
        let expected = json!({
            "Entrypoint": ["e"], "User": "u", "Healthcheck": { "Test": ["NONE"] }, "Env": ["A=b", format!("PATH={PATH}")]
        });
        assert_eq!(config, expected);
    }

    #[test]
    fn a_bases_history_is_made_to_fit_its_layers() {
        let step = |empty: bool| if empty { json!({ "empty_layer": true }) } else { json!({}) };
        for (steps, layers) in [(vec![], 2), (vec![false, true], 2), (vec![false, false, true], 1)]
        {
            let history: Vec<Value> = steps.into_iter().map(step).collect();
            let base = json!({
                "architecture": "amd64", "os": "linux", "history": history,
                "rootfs": { "type": "layers", "diff_ids": [] }, "config": {}
            });
            let mut config = Config::of(base.to_string().as_bytes(), layers).unwrap();
            config.record("RUN a".into(), true, 0).unwrap();
            assert!(config.to_json(&vec![Digest::of(b"a"); layers + 1], 0).is_ok(), "{base}");
        }
    }

    #[test]
    fn a_history_that_does_not_fit_the_layers_is_an_error() {
        let mut config = Config::empty(&Platform::host());
        config.record("RUN a".into(), true, 0).unwrap();
        config.record("ENV a=b".into(), false, 0).unwrap();
        assert!(config.to_json(&[], 0).is_err());
        assert!(config.to_json(&[Digest::of(b"a")], 0).is_ok());
        config.record("RUN b".into(), true, 0).unwrap();
        config.squash(0, "squashed".into(), 0).unwrap();
        assert!(config.to_json(&[Digest::of(b"b")], 0).is_ok());
    }

    #[test]
    fn moments_are_seconds() {
        assert_eq!(moment(0).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(epoch_of("2024-02-03T04:05:06.789Z"), Some(1_706_933_106));
        assert_eq!(epoch_of("yesterday"), None);
    }
}
