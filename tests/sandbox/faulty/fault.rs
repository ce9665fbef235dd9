//! A row of a table of faults: what happens, and what must come of it.
//!
//! Every row is held to the same, whatever else it demands:
//!
//! ```text
//! the end      in time; either the image, or status 1, one line that says why, and nothing on stdout
//! the store    every blob hashes to its name; after an error nothing has a name
//! the rerun    once the registry is well, the next run gets the image
//! secrets      no host but the one they are for has seen them; nor have stderr, stdout and the store
//! the screen   no panic, no control character
//! memory       not more than LIMIT, which the kernel sees to
//! ```

use std::collections::HashMap;
use std::fs;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::content::{self, Content};
use super::message::{Asked, Reply};
use super::net::{self, Dns};
use super::server::{FLOOD, Hunger, Meet, Port, Server, Welcome};
use super::shelf::Shelf;
use super::tls;
use crate::Sandbox;
use crate::image::read_json;
use crate::run::Run;

/// In every secret of the tests, so that it is found wherever it went.
pub const SECRET: &str = "hunter2";
/// The user and password that are stored for the registry.
pub const USER: &str = "user";
pub const PASSWORD: &str = "hunter2-Zq";
/// The same as `Authorization` has them.
pub const BASIC: &str = "dXNlcjpodW50ZXIyLVpx";

/// The most memory that a program may have for its data, in KiB: ulimit -d, which counts the stacks of all threads.
const LIMIT: u32 = 96 << 10;

/// When a run is taken for one that hangs.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// How long a row may take, on a machine that does other things as well: less than a registry is silent.
const PATIENCE: Duration = Duration::from_secs(35);

/// How many rows are run at a time: most of them wait.
const AT_ONCE: usize = 6;

/// What a row's hosts know: the image, each other's addresses, and how it went until now.
pub struct Scene {
    pub content: Arc<Content>,
    /// What was pushed to the registry.
    pub shelf: Shelf,
    addresses: Vec<String>,
    /// The registry is well again.
    calm: AtomicBool,
    counts: Mutex<HashMap<String, usize>>,
}

impl Scene {
    /// Returns the address and port of a host of the row: 0 is the registry.
    pub fn at(&self, host: usize) -> &str {
        &self.addresses[host]
    }

    /// Returns the addresses and ports of all hosts.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Counts: returns 1 when it is called with this word for the first time.
    pub fn count(&self, word: &str) -> usize {
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry(word.into()).or_default();
        *count += 1;
        *count
    }

    /// Returns whether the first layer is asked for.
    pub fn is_layer(&self, asked: &Asked) -> bool {
        asked.blob() == Some(&self.content.layer())
    }

    /// Returns whether bytes of the first layer come.
    pub fn carries_layer(&self, asked: &Asked) -> bool {
        let length = asked.header("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
        asked.carries() && length > 300_000
    }

    /// Answers as a registry should.
    pub fn well(&self, asked: &Asked) -> Reply {
        self.shelf.answer(asked).unwrap_or_else(|| self.content.answer(asked))
    }
}

/// Says what to answer, by what is known of the row.
type Answer = Box<dyn Fn(&Asked, &Scene) -> Reply + Send + Sync>;
/// Says how much of a body is taken, by what is known of the row.
type Takes = Box<dyn Fn(&Asked, &Scene) -> Option<usize> + Send + Sync>;
/// Looks at what each host was asked.
type Look = Box<dyn Fn(&[Vec<Asked>], &Scene) -> Result<(), String> + Send + Sync>;
/// Prepares the place where the program is run.
type Prepare = Box<dyn Fn(&Sandbox, &Scene) + Send + Sync>;

struct Host {
    at: String,
    /// The certificate that it shows, and whether it wants one.
    tls: Option<(&'static str, bool)>,
    meet: Meet,
    takes: Takes,
    answer: Answer,
    /// The password is for it too.
    trusted: bool,
}

impl Host {
    fn at(at: &str, answer: Answer) -> Host {
        let meet = Box::new(|_| Welcome::Serve);
        let takes = Box::new(|_: &Asked, _: &Scene| None);
        Host { at: at.into(), tls: None, meet, takes, answer, trusted: false }
    }
}

enum Ends {
    /// With the image, or with another one of this digest.
    Pulls(Option<String>),
    /// With an error that says this.
    Fails(String),
    /// With the image or with an error, whatever it says.
    Either,
}

/// A fault. The words that describe it are its methods, in the order in which they are best read.
pub struct Fault {
    story: String,
    hosts: Vec<Host>,
    net: Option<Dns>,
    name: String,
    and: Option<String>,
    options: String,
    environment: String,
    prepare: Prepare,
    stored: bool,
    ends: Ends,
    looks: Vec<Look>,
    untouched: Vec<usize>,
    spawns: bool,
    pushes: bool,
    /// What the image is called in the store that it is pushed from, beside `app:1`.
    called: Vec<String>,
    limit: Duration,
    least: Duration,
    rerun: bool,
    loud: bool,
    flood: bool,
}

/// Begins a row with what happens in it.
///
/// The registry is well until it is said what is wrong with it, listens on
/// loopback without TLS, and wants no password; one is stored for it.
pub fn fault(story: impl Into<String>) -> Fault {
    let mut registry = Host::at("127.0.0.1:0", Box::new(|asked, scene| scene.well(asked)));
    registry.trusted = true;
    Fault {
        story: story.into(),
        hosts: vec![registry],
        net: None,
        name: "{0}/app:1".into(),
        and: None,
        options: String::new(),
        environment: String::new(),
        prepare: Box::new(|_, _| {}),
        stored: true,
        ends: Ends::Either,
        looks: Vec::new(),
        untouched: Vec::new(),
        spawns: false,
        pushes: false,
        called: Vec::new(),
        limit: PATIENCE,
        least: Duration::ZERO,
        rerun: true,
        loud: false,
        flood: false,
    }
}

impl Fault {
    /// The registry answers so.
    pub fn registry(
        mut self,
        answer: impl Fn(&Asked, &Scene) -> Reply + Send + Sync + 'static,
    ) -> Fault {
        self.hosts[0].answer = Box::new(answer);
        self
    }

    /// The registry takes so much of a body, and answers then; it does not read the rest.
    pub fn takes(
        mut self,
        takes: impl Fn(&Asked, &Scene) -> Option<usize> + Send + Sync + 'static,
    ) -> Fault {
        self.hosts[0].takes = Box::new(takes);
        self
    }

    /// The registry meets connections so: on loopback the first is only asked whether it speaks TLS.
    pub fn meets(mut self, meet: impl Fn(usize) -> Welcome + Send + Sync + 'static) -> Fault {
        self.hosts.last_mut().unwrap().meet = Box::new(meet);
        self
    }

    /// There is another host, at this address: `127.0.0.1:0` is any port. What follows says how it listens.
    pub fn host(
        mut self,
        at: &str,
        answer: impl Fn(&Asked, &Scene) -> Reply + Send + Sync + 'static,
    ) -> Fault {
        self.hosts.push(Host::at(at, Box::new(answer)));
        self
    }

    /// There is another host, and nothing may come to it.
    pub fn bait(mut self, at: &str) -> Fault {
        self.untouched.push(self.hosts.len());
        self.host(at, |asked, scene| scene.well(asked))
    }

    /// The last host speaks TLS, with this certificate.
    pub fn tls(mut self, certificate: &'static str) -> Fault {
        self.hosts.last_mut().unwrap().tls = Some((certificate, false));
        self
    }

    /// The last host speaks TLS, and wants to see the client's certificate.
    pub fn wants_certificate(mut self) -> Fault {
        self.hosts.last_mut().unwrap().tls = Some(("good", true));
        self
    }

    /// The last host may see the password too.
    pub fn trusted(mut self) -> Fault {
        self.hosts.last_mut().unwrap().trusted = true;
        self
    }

    /// All of it happens on a network of its own, and the registry is `registry.example.org`.
    pub fn elsewhere(self, at: &str, name: &str) -> Fault {
        self.elsewhere_with(Dns::Answers, at, name)
    }

    /// The same with this name server.
    pub fn elsewhere_with(mut self, dns: Dns, at: &str, name: &str) -> Fault {
        self.net = Some(dns);
        self.hosts[0].at = at.into();
        self.name = name.into();
        self
    }

    /// The program is given this name; `{1}` is the address of host 1.
    pub fn name(self, name: &str) -> Fault {
        Fault { name: name.into(), ..self }
    }

    /// The program is given this name too, and is to pull both.
    pub fn and(self, name: &str) -> Fault {
        Fault { and: Some(name.into()), ..self }
    }

    /// The program is given these options too.
    pub fn options(mut self, options: &str) -> Fault {
        self.options = format!("{} {options}", self.options);
        self
    }

    /// The program has these in its environment.
    pub fn environment(self, environment: &str) -> Fault {
        Fault { environment: environment.into(), ..self }
    }

    /// No password is stored.
    pub fn anonymous(self) -> Fault {
        Fault { stored: false, ..self }
    }

    /// This is done before.
    pub fn prepare(self, prepare: impl Fn(&Sandbox, &Scene) + Send + Sync + 'static) -> Fault {
        Fault { prepare: Box::new(prepare), ..self }
    }

    /// It is ctr-spawn that wants the image.
    pub fn spawns(self) -> Fault {
        Fault { spawns: true, ..self }
    }

    /// The image is in the store, and is to be pushed.
    pub fn pushes(self) -> Fault {
        Fault { pushes: true, ..self }
    }

    /// The image that is pushed has this name here too.
    pub fn called(mut self, name: &str) -> Fault {
        self.called.push(name.into());
        self
    }

    /// It ends with the image in the registry.
    pub fn arrives(self) -> Fault {
        Fault { ends: Ends::Pulls(None), pushes: true, ..self }
    }

    /// The program is to say what it does.
    pub fn loud(self) -> Fault {
        Fault { loud: true, ..self }
    }

    /// It may take so long, in seconds.
    pub fn within(self, seconds: f64) -> Fault {
        Fault { limit: Duration::from_secs_f64(seconds), ..self }
    }

    /// It must take so long, in seconds.
    pub fn not_before(self, seconds: f64) -> Fault {
        Fault { least: Duration::from_secs_f64(seconds), ..self }
    }

    /// It is time that ends it, and not a number of bytes.
    pub fn may_flood(self) -> Fault {
        Fault { flood: true, ..self }
    }

    /// The registry cannot become well.
    pub fn for_good(self) -> Fault {
        Fault { rerun: false, ..self }
    }

    /// This host is asked so often.
    pub fn asked(self, host: usize, times: RangeInclusive<usize>) -> Fault {
        self.sees(move |logs, _| match times.contains(&logs[host].len()) {
            true => Ok(()),
            false => {
                Err(format!("host {host} was asked {} times, not {times:?}", logs[host].len()))
            }
        })
    }

    /// What the hosts were asked is looked at.
    pub fn sees(
        mut self,
        look: impl Fn(&[Vec<Asked>], &Scene) -> Result<(), String> + Send + Sync + 'static,
    ) -> Fault {
        self.looks.push(Box::new(look));
        self
    }

    /// It ends with the image.
    pub fn pulls(self) -> Fault {
        Fault { ends: Ends::Pulls(None), ..self }
    }

    /// It ends with the image of this digest.
    pub fn pulls_other(self, digest: impl Into<String>) -> Fault {
        Fault { ends: Ends::Pulls(Some(digest.into())), ..self }
    }

    /// It ends with an error that says this.
    pub fn fails(self, words: impl Into<String>) -> Fault {
        Fault { ends: Ends::Fails(words.into()), ..self }
    }

    /// It ends with the image or with an error.
    pub fn ends(self) -> Fault {
        Fault { ends: Ends::Either, ..self }
    }

    /// Runs the row in a sandbox that others have been run in, and returns what is wrong with what came of it.
    fn run(self, t: &mut Sandbox) -> Vec<String> {
        let t: &Sandbox = t;
        if let Some(dns) = self.net {
            net::enter(dns);
        }
        for name in ["work", "tare", "home", "xdg"] {
            let dir = t.path(name);
            fs::remove_dir_all(&dir).unwrap();
            fs::create_dir(&dir).unwrap();
        }
        let ports: Vec<Port> = self.hosts.iter().map(|host| Port::take(&host.at)).collect();
        let scene = Arc::new(Scene {
            content: Content::of_tests(),
            shelf: Shelf::default(),
            addresses: ports.iter().map(|port| port.address.to_string()).collect(),
            calm: AtomicBool::new(false),
            counts: Mutex::default(),
        });
        let trusted: Vec<bool> = self.hosts.iter().map(|host| host.trusted).collect();
        let mut servers = Vec::new();
        for (host, port) in self.hosts.into_iter().zip(ports) {
            let tls = host.tls.map(|(certificate, wants_one)| tls::server(certificate, wants_one));
            let (answer, of_host) = (host.answer, scene.clone());
            let answer = move |asked: &Asked| match of_host.calm.load(SeqCst) {
                true => of_host.well(asked),
                false => answer(asked, &of_host),
            };
            let (meet, of_host) = (host.meet, scene.clone());
            let meet = move |nth| match of_host.calm.load(SeqCst) {
                true => Welcome::Serve,
                false => meet(nth),
            };
            let (takes, of_host) = (host.takes, scene.clone());
            let hunger: Hunger = Box::new(move |asked| match of_host.calm.load(SeqCst) {
                true => None,
                false => takes(asked, &of_host),
            });
            servers.push(port.serve(tls, Box::new(meet), hunger, Box::new(answer)));
        }
        let fill = |text: &str| {
            let filled = match text.contains("{trusted}") {
                true => text.replace("{trusted}", tls::authority().to_str().unwrap()),
                false => text.to_owned(),
            };
            let addresses = scene.addresses.iter().enumerate();
            addresses.fold(filled, |text, (n, at)| text.replace(&format!("{{{n}}}"), at))
        };
        let names: Vec<String> = [Some(&self.name), self.and.as_ref()]
            .into_iter()
            .flatten()
            .map(|it| fill(it))
            .collect();
        if self.stored {
            store_password(t, &names[0]);
        }
        if self.pushes {
            let called = self.called.iter().map(|name| fill(name));
            let names: Vec<String> = called.chain(["docker.io/library/app:1".into()]).collect();
            scene.content.write_to(&t.path("tare/images"), &names);
        }
        (self.prepare)(t, &scene);
        let words = self.net.map(|_| net::words(t)).unwrap_or_default();
        let tool = match (self.spawns, self.pushes) {
            (true, _) => "ctr-spawn",
            (_, true) => "img-push",
            _ => "img-pull",
        };
        let program = match (self.spawns, self.loud) {
            _ if self.pushes => format!(
                "img-push -q --retry-delay 5ms {} app:1 {}",
                fill(&self.options),
                names.join(" ")
            ),
            (true, _) => format!("ctr-spawn --rm --network none {} echo ran", names[0]),
            (false, loud) => format!(
                "img-pull {} --retry-delay 5ms {} {}",
                if loud { "--progress plain" } else { "-q" },
                fill(&self.options),
                names.join(" ")
            ),
        };
        let limit = if self.spawns { String::new() } else { format!("ulimit -d {LIMIT}; ") };
        let script = format!("{limit}{} exec {words} {program}", export(&fill(&self.environment)));

        let mut judge = Judge { t, scene: &scene, tool, names: &names, wrong: Vec::new() };
        let run = t.sh(&script);
        let logs: Vec<Vec<Asked>> = servers.iter().map(Server::log).collect();
        for (n, server) in servers.iter().enumerate() {
            if self.untouched.contains(&n) && server.connections() > 0 {
                judge.say(format!("there were connections to host {n}: {:?}", logs[n]));
            }
            if server.sent() >= FLOOD && !self.flood {
                judge.say(format!("host {n} could send {} bytes", server.sent()));
            }
            for asked in logs[n].iter().filter(|asked| !trusted[n] && is_secret(asked)) {
                judge.say(format!("host {n} has seen a secret: {asked:?}"));
            }
        }
        for look in &self.looks {
            if let Err(what) = look(&logs, &scene) {
                judge.say(format!("{what}: {:#?}", paths(&logs)));
            }
        }
        if run.took > self.limit || run.took < self.least {
            judge.say(format!("it took {:?}", run.took));
        }
        judge.words(&run, self.spawns || self.loud);
        let pulled = judge.end(&run, &self.ends, self.spawns);
        match self.pushes {
            true => judge.shelf(pulled),
            false => judge.store(pulled, &self.ends),
        }
        if !pulled && self.rerun {
            scene.calm.store(true, SeqCst);
            let run = t.sh(&script);
            if run.code != 0 {
                judge.say(format!("it cannot go on: {}", String::from_utf8_lossy(&run.stderr)));
            }
            match self.pushes {
                true => judge.shelf(run.code == 0),
                false => judge.store(run.code == 0, &Ends::Pulls(None)),
            }
        }
        let wrong = std::mem::take(&mut judge.wrong);
        let _ = fs::remove_dir_all(t.path("tare/images/.partial"));
        wrong
    }
}

/// Stores a password for the registry that `name` names.
fn store_password(t: &Sandbox, name: &str) {
    let domain = name.split('/').next().unwrap();
    let auth = json!({ "auths": { domain: { "auth": BASIC } } });
    fs::create_dir_all(t.path("home/.docker")).unwrap();
    fs::write(t.path("home/.docker/config.json"), auth.to_string()).unwrap();
}

fn export(environment: &str) -> String {
    match environment {
        "" => String::new(),
        set => format!("export {set};"),
    }
}

fn is_secret(asked: &Asked) -> bool {
    asked.holds(SECRET) || asked.holds(BASIC)
}

/// Returns what was asked of each host, in short.
fn paths(logs: &[Vec<Asked>]) -> Vec<Vec<String>> {
    let line = |asked: &Asked| {
        let authorization = asked.header("authorization").unwrap_or_default();
        format!("{} {} {authorization}", asked.method, asked.target)
    };
    logs.iter().map(|log| log.iter().map(line).collect()).collect()
}

/// Looks at what came of a row.
struct Judge<'a> {
    t: &'a Sandbox,
    scene: &'a Scene,
    tool: &'a str,
    names: &'a [String],
    wrong: Vec<String>,
}

impl Judge<'_> {
    fn say(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// Looks at what was written, by whomever it was thought up.
    fn words(&mut self, run: &Run, many: bool) {
        let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
        let odd = |c: char| c.is_control() && c != '\n' || matches!(c, '\u{202a}'..='\u{202e}');
        if stderr.contains(odd) {
            self.say(format!("control characters: {stderr:?}"));
        }
        for bad in [SECRET, BASIC, "panicked", "memory allocation"] {
            if stderr.contains(bad) || String::from_utf8_lossy(&run.stdout).contains(bad) {
                self.say(format!("{bad:?} is in what it wrote: {stderr}"));
            }
        }
        let errors = stderr.lines().filter(|line| !line.starts_with("hint: "));
        if !many && errors.count() > usize::from(run.code != 0) {
            self.say(format!("more than one line: {stderr}"));
        }
        if let Some(long) = stderr.lines().find(|line| line.len() > 1000) {
            self.say(format!("a line of {} bytes: {long}", long.len()));
        }
    }

    /// Looks at how it ended, and returns whether the image is to be there.
    fn end(&mut self, run: &Run, ends: &Ends, spawns: bool) -> bool {
        let stdout = String::from_utf8_lossy(&run.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
        let digest = match ends {
            Ends::Pulls(Some(digest)) => digest.clone(),
            _ => self.scene.content.digest.clone(),
        };
        let result = match spawns {
            true => "ran\n".into(),
            false => self.names.iter().map(|name| format!("{name}@{digest}\n")).collect::<String>(),
        };
        let program = self.tool;
        let pulled = run.code == 0;
        match ends {
            Ends::Fails(words) if pulled || !stderr.contains(words) => {
                self.say(format!("no error that says {words:?}: status {}: {stderr}", run.code));
            }
            Ends::Pulls(_) if !pulled => self.say(format!("no image: {stderr}")),
            _ => {}
        }
        if pulled && stdout != result {
            self.say(format!("the result is {stdout:?}, not {result:?}"));
        }
        if !pulled {
            let status = if spawns { 125 } else { 1 };
            let said = stderr.lines().any(|line| line.starts_with(&format!("{program}: ")));
            if run.code != status || !stdout.is_empty() || !said {
                self.say(format!("status {}, stdout {stdout:?}, stderr {stderr:?}", run.code));
            }
        }
        pulled
    }

    /// Looks at what the registry has got, and at what was left where it came from.
    fn shelf(&mut self, pushed: bool) {
        let tag = self.scene.shelf.tag("1");
        let expected = pushed.then(|| self.scene.content.digest.clone());
        if tag != expected {
            self.say(format!("the registry has {tag:?} under the tag, not {expected:?}"));
        }
        let kept = self.scene.shelf.kept();
        for (digest, bytes) in &self.scene.content.blobs {
            match kept.get(digest) {
                Some(kept) if kept != bytes => self.say(format!("corrupt: {digest}")),
                None if pushed => self.say(format!("{digest} is not there")),
                _ => {}
            }
        }
        for dir in fs::read_dir(self.t.path("tare")).unwrap().map(|it| it.unwrap().path()) {
            let left = fs::read_dir(&dir).unwrap().map(|it| it.unwrap().path());
            // When an image was used last is to be remembered.
            let left: Vec<_> = left.filter(|it| !it.ends_with("cache/used")).collect();
            if dir.file_name().unwrap() != "images" && !left.is_empty() {
                self.say(format!("it left {left:?}"));
            }
        }
        if holds_secret(&self.t.path("tare")) {
            self.say("a secret is in the store".into());
        }
    }

    /// Looks at the store.
    fn store(&mut self, pulled: bool, ends: &Ends) {
        let images = self.t.path("tare/images");
        let index = read_json(&images.join("index.json"));
        let named: Vec<&str> = index["manifests"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|desc| desc["digest"].as_str().unwrap())
            .collect();
        let digest = match ends {
            Ends::Pulls(Some(digest)) => digest,
            _ => &self.scene.content.digest,
        };
        let expected = vec![digest.as_str(); if pulled { self.names.len() } else { 0 }];
        if named != expected {
            self.say(format!("the store has names for {named:?}, not {expected:?}"));
        }
        let known = &self.scene.content.blobs;
        for entry in fs::read_dir(images.join("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            let digest = format!("sha256:{}", path.file_name().unwrap().to_str().unwrap());
            let bytes = fs::read(&path).unwrap();
            let right = match known.get(&digest) {
                Some(known) => bytes == *known,
                None => content::digest(&bytes) == digest,
            };
            if !right {
                self.say(format!("corrupt: {digest}"));
            }
        }
        if pulled && *digest == self.scene.content.digest {
            let missing =
                known.keys().find(|it| !images.join("blobs").join(it.replace(':', "/")).exists());
            if let Some(digest) = missing {
                self.say(format!("{digest} is not there"));
            }
        }
        if holds_secret(&images) {
            self.say("a secret is in the store".into());
        }
        let left: Vec<_> =
            fs::read_dir(&images).unwrap().map(|it| it.unwrap().file_name()).collect();
        let known = ["oci-layout", "index.json", "blobs", ".partial"];
        if left.iter().any(|name| !known.contains(&name.to_str().unwrap())) {
            self.say(format!("in the store: {left:?}"));
        }
    }
}

/// Returns whether a secret is in a file below `dir`.
fn holds_secret(dir: &Path) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds_secret(&path);
        }
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
    })
}

/// Runs the rows of a table, several at a time, and fails with what is wrong in any of them.
#[track_caller]
pub fn run_all(faults: Vec<Fault>) {
    Content::of_tests();
    let queue = Mutex::new(faults.into_iter());
    let wrong = Mutex::new(String::new());
    let next = || queue.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                // To look for what is left behind takes longer than most rows.
                let mut t = Sandbox::new().with_limit(TIME_LIMIT);
                while let Some(fault) = next() {
                    let (story, start) = (fault.story.clone(), Instant::now());
                    // A thread that has entered a network of its own does not come back.
                    let t = &mut t;
                    let row = thread::scope(|scope| {
                        let run = move || catch_unwind(AssertUnwindSafe(|| fault.run(t)));
                        scope.spawn(run).join().unwrap()
                    });
                    let found = match row {
                        Ok(found) => found,
                        Err(panic) => vec![match panic.downcast::<String>() {
                            Ok(text) => *text,
                            Err(_) => "a panic".into(),
                        }],
                    };
                    eprintln!("{:6.2} s  {story}", start.elapsed().as_secs_f32());
                    if !found.is_empty() {
                        *wrong.lock().unwrap() += &format!("\n{story}:\n  {}", found.join("\n  "));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong}\n");
}

impl Fault {
    /// Returns what happens.
    pub fn story(&self) -> &str {
        &self.story
    }
}
