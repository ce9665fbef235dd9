//! A scratch directory and a shell: what the end-to-end tests run the programs in.
//!
//! ```text
//! work/            where a script starts; the rest is named by its environment
//! tare/  run/      TARE_ROOT and TARE_RUN
//! home/  xdg/      HOME and XDG_RUNTIME_DIR
//! tmp/             TMPDIR, empty again when the test ends
//! registry/        a registry on loopback, if the test asked for one: $REGISTRY
//! ```
//!
//! A script knows nothing of the machine but PATH, and the programs under test
//! are first in it. When a sandbox is dropped, what it started and mounted must
//! be gone: [`leftovers`] says how that is told from what other tests, which
//! run at the same time, have started and mounted.

#[path = "../hostile/corpus/mod.rs"]
pub mod corpus;
pub mod disk;
pub mod dockerd;
pub mod faulty;
pub mod image;
pub mod leftovers;
pub mod line;
pub mod registry;
pub mod run;
mod user;

use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use image::Image;
use leftovers::Before;
use registry::Registry;
use run::Run;
use user::User;

/// How long a script may take, unless its test says otherwise. Only what hangs takes so long.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// A place of its own for one test.
pub struct Sandbox {
    dir: TempDir,
    before: Before,
    user: Option<User>,
    limit: Duration,
    registry: Option<Registry>,
    env: RefCell<Vec<(String, String)>>,
}

impl Sandbox {
    /// Makes a sandbox with an empty store.
    pub fn new() -> Sandbox {
        let before = Before::now();
        let dir = tempfile::Builder::new().prefix("tare-test.").tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["work", "tare", "run", "home", "xdg", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::set_permissions(dir.path().join("xdg"), Permissions::from_mode(0o700)).unwrap();
        programs();
        Sandbox {
            dir,
            before,
            user: None,
            limit: TIME_LIMIT,
            registry: None,
            env: RefCell::default(),
        }
    }

    /// Makes a sandbox whose store holds a small image under this name.
    pub fn with_image(name: &str) -> Sandbox {
        let t = Sandbox::new();
        t.store(image::busybox(), name);
        t
    }

    /// Hands everything to an ordinary user, who then runs the scripts.
    ///
    /// Somebody who is not root is an ordinary user already.
    pub fn as_user(self) -> Sandbox {
        match nix::unistd::geteuid().is_root() {
            true => self.given_to(User::of_tests()),
            false => self,
        }
    }

    /// Hands everything to somebody without subordinate ids. It takes root.
    pub fn as_stranger(self) -> Sandbox {
        self.given_to(User::stranger())
    }

    fn given_to(mut self, user: User) -> Sandbox {
        let open = |path: &Path| fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 1 == 1);
        let bin = self.path("bin");
        if programs().ancestors().all(open) {
            symlink(programs(), &bin).unwrap();
        } else {
            // The clone lies in a directory that only its owner can enter, /root say.
            fs::create_dir(&bin).unwrap();
            for program in program_names() {
                let copy = bin.join(&program);
                fs::copy(programs().join(&program), &copy).unwrap();
                fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
            }
        }
        for name in ["work", "tare", "run", "home", "xdg", "tmp"] {
            own(&self.path(name), &user);
        }
        self.user = Some(user);
        self
    }

    /// Starts a registry on loopback: `$REGISTRY` is its address.
    pub fn with_registry(mut self) -> Sandbox {
        self.registry = Some(Registry::start(&self.path("registry"), "", None));
        self
    }

    /// Starts a registry with more in its configuration than its store and its address.
    pub fn with_registry_of(mut self, config: &str) -> Sandbox {
        self.registry = Some(Registry::start(&self.path("registry"), config, None));
        self
    }

    /// Starts a registry that speaks TLS, with this certificate and key.
    pub fn with_registry_over_tls(mut self, config: &str, certificate: [&Path; 2]) -> Sandbox {
        self.registry = Some(Registry::start(&self.path("registry"), config, Some(certificate)));
        self
    }

    /// Lets a script take so long.
    pub fn with_limit(mut self, limit: Duration) -> Sandbox {
        self.limit = limit;
        self
    }

    /// Returns the path of something in the sandbox, or of the sandbox itself.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the registry that [`Sandbox::with_registry`] started.
    pub fn registry(&self) -> &Registry {
        self.registry.as_ref().expect("the test has not asked for a registry")
    }

    /// Puts an image into the store under this name.
    pub fn store(&self, image: &Image, name: &str) {
        let images = self.path("tare/images");
        image.copy_to(&images, &image::full_name(name));
        if let Some(user) = &self.user {
            own(&images, user);
        }
    }

    /// Sets a variable for the scripts that follow.
    pub fn set(&self, name: &str, value: impl AsRef<Path>) {
        let value = value.as_ref().to_str().unwrap().to_owned();
        self.env.borrow_mut().push((name.into(), value));
    }

    /// Writes a file into the directory where scripts start.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path("work").join(name);
        fs::write(&path, bytes).unwrap();
        if let Some(user) = &self.user {
            own(&path, user);
        }
        path
    }

    /// Runs a script with nothing on its standard input.
    #[must_use = "say what the script should have done: prints, fails, exits, outputs"]
    pub fn sh(&self, script: &str) -> Run {
        run::run(self.command(script), script, None, self.limit, &self.marker())
    }

    /// Runs a script with `input` coming through a pipe on its standard input.
    #[must_use = "say what the script should have done: prints, fails, exits, outputs"]
    pub fn feed(&self, input: impl AsRef<[u8]>, script: &str) -> Run {
        let input = input.as_ref().to_vec();
        run::run(self.command(script), script, Some(input), self.limit, &self.marker())
    }

    /// Returns the shell that would run `script`, for a test that has to hold on to it.
    pub fn command(&self, script: &str) -> Command {
        let programs = if self.user.is_some() { self.path("bin") } else { programs() };
        let path = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            programs.display()
        );
        // What is ignored stays ignored from here on, as it would be if nohup(1) had started the tests.
        let mut command = Command::new("/usr/bin/env");
        command.args(["--default-signal=HUP,INT,QUIT", "/bin/sh", "-c", script]);
        command.current_dir(self.path("work")).env_clear().process_group(0);
        command
            .env("PATH", path)
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_RUNTIME_DIR", self.path("xdg"))
            .env("TARE_ROOT", self.path("tare"))
            .env("TARE_RUN", self.path("run"))
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env(leftovers::MARKER, self.marker());
        if let Some(registry) = &self.registry {
            command.env("REGISTRY", registry.address());
        }
        for (name, value) in self.env.borrow().iter() {
            command.env(name, value);
        }
        match &self.user {
            Some(user) => {
                command.uid(user.uid).gid(user.gid).env("USER", user.name);
            }
            None => {
                command.env("USER", "root");
            }
        }
        command
    }

    fn marker(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.registry.take());
        let left = leftovers::find(self.dir.path(), &self.before);
        leftovers::remove(self.dir.path());
        if !left.is_empty() && !std::thread::panicking() {
            panic!("the test left behind:\n{}", left.join("\n"));
        }
    }
}

/// Says that this machine lacks one of `needed`, programs or `root`, and returns true: the test returns.
///
/// In CI a test that cannot run is a test that fails.
#[track_caller]
pub fn lacks(needed: &[&str]) -> bool {
    let there = |what: &str| match what {
        "root" => nix::unistd::geteuid().is_root(),
        program => {
            let dirs = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&dirs)
                .chain(["/usr/sbin".into(), "/sbin".into()])
                .any(|dir| dir.join(program).is_file())
        }
    };
    let Some(missing) = needed.iter().find(|what| !there(what)) else { return false };
    skip(&format!("needs {missing}"));
    true
}

/// Says why a test does not run here; in CI, fails.
#[track_caller]
pub fn skip(why: &str) {
    let required = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    assert!(!required("CI") && !required("TARE_TEST_REQUIRE"), "this test {why}");
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    // Around the capture of the test harness, which shows nothing of a test that passes.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
}

/// Returns the directory of the programs under test, once they are known to be there and current.
fn programs() -> PathBuf {
    static PROGRAMS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = PROGRAMS.get_or_init(|| {
        let dir = target_dir();
        let common = newest(&workspace().join("common/src"));
        for name in program_names() {
            let built = fs::metadata(dir.join(&name)).and_then(|meta| meta.modified());
            let built =
                built.map_err(|_| format!("{name} is not built: cargo build --workspace"))?;
            let source = newest(&workspace().join("tools").join(&name));
            if source.max(common) > Some(built) {
                return Err(format!("{name} is older than its source: cargo build --workspace"));
            }
        }
        Ok(dir)
    });
    found.clone().unwrap_or_else(|err| panic!("{err}"))
}

/// Returns the names of the programs: there is a directory for each.
pub fn program_names() -> Vec<String> {
    let tools = fs::read_dir(workspace().join("tools")).unwrap();
    let mut names: Vec<String> = tools
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Returns the root of the source tree.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns the directory that holds this build's programs: the tests run from `deps/` in it.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().and_then(Path::parent).unwrap().to_owned()
}

/// Returns when the newest file below `dir` was written.
fn newest(dir: &Path) -> Option<std::time::SystemTime> {
    let entries = fs::read_dir(dir).ok()?;
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            match entry.file_type().ok()?.is_dir() {
                true => newest(&entry.path()),
                false => entry.metadata().ok()?.modified().ok(),
            }
        })
        .max()
}

/// Gives `path` and what is below it to `user`.
fn own(path: &Path, user: &User) {
    lchown(path, Some(user.uid), Some(user.gid)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path(), user);
        }
    }
}
