//! The manual: each page against its program's --help, and its examples.

use std::collections::BTreeSet;
use std::fs;

use sandbox::image::{PACK, busybox, busybox_layer};
use sandbox::{Sandbox, lacks, program_names, workspace};

/// Returns a page's source.
fn page(name: &str) -> String {
    let path = workspace().join("man").join(name);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// Returns the options that a page lists: `.It Fl q , Fl -quiet`.
fn in_page(page: &str) -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with(".It Fl ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let flags = words.windows(2).filter(|pair| pair[0] == "Fl");
        options.extend(flags.map(|pair| format!("-{}", pair[1])));
    }
    options
}

/// Returns the options that `--help` lists, without itself and --version.
fn in_help(help: &str) -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    // "- auto: ..." is a value of an option.
    let option = |line: &&str| line.starts_with('-') && !line.starts_with("- ");
    for line in help.lines().map(str::trim_start).filter(option) {
        let names = line.split("  ").next().unwrap();
        let words = names.split([',', ' ', '=', '[', '<', '.']);
        let names: Vec<&str> = words.filter(|word| word.starts_with('-')).collect();
        if !names.iter().any(|name| matches!(*name, "--help" | "--version")) {
            options.extend(names.into_iter().map(str::to_owned));
        }
    }
    // Another name of an option: "[alias: --net]".
    let aliases = help.split("[alias: ").skip(1).filter_map(|rest| rest.split(']').next());
    options.extend(aliases.map(str::to_owned));
    options
}

#[test]
fn every_option_is_in_the_help_and_in_the_page() {
    let t = Sandbox::new();
    for tool in program_names() {
        let help = t.sh(&format!("{tool} --help")).text();
        assert_eq!(in_help(&help), in_page(&page(&format!("{tool}.1"))), "{tool}");
    }
}

#[test]
fn the_page_and_the_help_say_the_same_in_one_line() {
    let t = Sandbox::new();
    for tool in program_names() {
        let page = page(&format!("{tool}.1"));
        let description = page.lines().find_map(|line| line.strip_prefix(".Nd ")).unwrap();
        let help = t.sh(&format!("{tool} --help")).text();
        let first = help.lines().next().unwrap_or_default();
        assert_eq!(first.to_lowercase(), description.to_lowercase(), "{tool}");
    }
}

#[test]
fn every_page_names_its_exit_status_files_and_standards() {
    for tool in program_names() {
        let page = page(&format!("{tool}.1"));
        for section in ["ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES", "SEE ALSO", "STANDARDS"]
        {
            assert!(page.contains(&format!("\n.Sh {section}\n")), "{tool}: no {section}");
        }
        let tare = self::page("tare.7");
        assert!(tare.contains(&format!(".Xr {tool} 1")), "tare.7 does not lead to {tool}");
    }
}

#[test]
fn mandoc_has_nothing_to_complain_about() {
    if lacks(&["mandoc"]) {
        return;
    }
    let pages = workspace().join("man");
    Sandbox::new()
        .sh(&format!("mandoc -T lint -W warning {}/*.[0-9]", pages.display()))
        .is_silent();
}

/// Returns the scripts of a page's EXAMPLES, one for each display.
fn examples(page: &str) -> Vec<String> {
    let (_, section) = page.split_once("\n.Sh EXAMPLES\n").unwrap();
    let section = section.split("\n.Sh ").next().unwrap();
    let displays = section.split(".Bd -literal").skip(1);
    let script = |display: &str| {
        let lines = display.lines().filter_map(|line| line.strip_prefix("$ "));
        lines.map(|line| line.replace("\\e", "\\") + "\n").collect()
    };
    displays.map(script).collect()
}

#[test]
fn the_examples_work() {
    if lacks(&["docker-registry"]) {
        return;
    }
    for entry in fs::read_dir(workspace().join("man")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        for script in examples(&page(&name)) {
            // What an example takes for granted.
            let t = Sandbox::with_image("alpine").with_registry();
            t.store(busybox(), "app");
            t.registry().add(busybox(), "app", "1");
            t.sh(&format!("mkdir tree; cd tree; {}", busybox_layer().replace(PACK, ":")))
                .is_silent();
            t.sh("tar -C tree -cz . >rootfs.tar.gz").is_silent();
            let script = script.replace("registry.example.org", t.registry().address());
            let run = t.sh(&format!("set -e\n{script}"));
            let said = String::from_utf8_lossy(&run.stderr).into_owned();
            assert!(run.code == 0 && said.is_empty(), "{name}: {script}{said}");
        }
    }
}
