//! Dockerfiles and ignore files: read, told back, taken apart as a build would.

use std::collections::BTreeSet;

use img_build::check::{self, Image, Known};
use img_build::dockerfile::expand::expand;
use img_build::dockerfile::instruction::{Instruction, Operation};
use img_build::dockerfile::scope::{Globals, Scope, Told, Variables};
use img_build::dockerfile::stages::{Base, Graph};
use img_build::dockerfile::words::{LONGEST, Lexer};
use img_build::dockerfile::{Dockerfile, instructions, lines};
use img_build::glob::Glob;
use img_build::ignore::{Ignore, Walk};
use img_build::json;

use crate::input::Input;

/// The first byte says what the rest is to be.
pub fn dockerfile(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 8 {
        0..5 => file(bytes),
        5 => words(bytes),
        6 => ignored(bytes),
        _ => globbed(bytes),
    }
}

fn file(bytes: &[u8]) {
    let Ok(file) = Dockerfile::parse(bytes) else {
        // What ONBUILD kept may be instructions though it is no file.
        let _ = instructions(bytes);
        return;
    };
    assert_eq!(Dockerfile::parse(bytes).as_ref(), Ok(&file));
    let lines = bytes.split(|c| *c == b'\n').count();
    let mut before = 0;
    for one in file.instructions() {
        assert!(before < one.first && one.first <= one.last && one.last <= lines);
        before = one.last;
        reads_back(one, file.escape);
    }
    let document = json::document(&file).to_string();
    assert!(!document.contains('\n'));
    build(&file);
    unwise(&file, lines);
}

/// An instruction's text, with its here-documents, is the instruction.
fn reads_back(one: &Instruction, escape: char) {
    let mut text = format!("# escape={escape}\n{}\n", one.source);
    for heredoc in &one.heredocs {
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
        text.push('\n');
    }
    // Blanks that are no blanks to a continuation were behind it.
    if one.source.ends_with(escape) && !one.source.ends_with(&format!("{escape}{escape}")) {
        return;
    }
    if one.source.len() > lines::LONGEST_LINE {
        return;
    }
    let (read, ..) = instructions(text.as_bytes()).unwrap();
    let [again] = &read[..] else { panic!("{text:?}: {read:?}") };
    match (&again.operation, &one.operation) {
        // It keeps the blanks at the end of its line too, which are not in the source.
        (Operation::Onbuild(again), Operation::Onbuild(one)) => {
            let lines = |text: &str| -> Vec<String> {
                text.split('\n').map(|line| line.trim_end().to_owned()).collect()
            };
            assert_eq!(lines(again), lines(one), "{text:?}");
        }
        (again, one) => assert_eq!(again, one, "{text:?}"),
    }
    assert_eq!((&again.flags, &again.keyword), (&one.flags, &one.keyword), "{text:?}");
}

/// What a build does before it does anything.
fn build(file: &Dockerfile) {
    let told = Told::nothing();
    let Ok(globals) = Globals::of(file, &told) else { return };
    let Ok(graph) = Graph::of(file, &globals, &Default::default()) else { return };
    let Ok(order) = graph.order(graph.stages.len() - 1) else { return };
    for (place, stage) in order.iter().enumerate() {
        let needed = graph.needs(*stage).filter_map(Base::stage);
        let done: BTreeSet<usize> = order[..place].iter().copied().collect();
        assert!(needed.into_iter().all(|stage| done.contains(&stage)));
        let mut scope = Scope::on(Variables::of(["a=1", "s=x y", "e="]));
        let own = &file.stages[*stage].instructions;
        for one in graph.stages[*stage].triggers.iter().chain(own) {
            let Ok(expanded) = expand(one, &scope.variables, file.escape) else { return };
            let done = Instruction { operation: expanded.operation, ..one.clone() };
            if scope.take(&done, &globals, &told, Lexer::new(file.escape)).is_err() {
                return;
            }
        }
    }
}

fn unwise(file: &Dockerfile, lines: usize) {
    let told = Told::nothing();
    let image = |_: &str| Some(Image { env: vec!["a=1".into()], has_shell: false });
    let known = Known { told: &told, ignore: None, image: &image };
    let Ok(found) = check::check(file, &known) else { return };
    for warning in &found.warnings {
        assert!((1..=lines).contains(&warning.line), "{warning}");
    }
    // Of images that nobody knows less is known.
    let known = Known { told: &told, ignore: None, image: &|_| None };
    let less = check::check(file, &known).unwrap();
    // The first of several relative paths is another one where a variable is not known.
    let but = ["JSONArgsRecommended", "UndefinedVar", "WorkdirRelativePath"];
    assert!(
        less.warnings
            .iter()
            .all(|warning| { but.contains(&warning.rule) || found.warnings.contains(warning) })
    );
}

fn words(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let values = Variables::of(["a=1", "s=x y", "e=", "p=/a/b.c.d", "n=1\n2", "w=*"]);
    for escape in ['\\', '`'] {
        let lexer = Lexer::new(escape);
        let Ok(expanded) = lexer.expand(&text, &values) else { continue };
        assert!(expanded.text.len() <= LONGEST + text.len());
        assert!(expanded.words.iter().all(|word| !word.is_empty()));
        assert!(expanded.found.is_disjoint(&expanded.missing));
        if !text.contains(['$', '\'', '"', '<', escape]) {
            assert_eq!(expanded.text, text);
            assert_eq!(expanded.words, text.split_whitespace().collect::<Vec<_>>());
        }
        // What is left as it is reads as it did.
        if let Ok(kept) = lexer.keep_quotes().keep_escapes().keep_unset().expand(&text, &()) {
            assert!(kept.found.is_empty());
        }
    }
}

fn ignored(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let text = input.bytes();
    let path = String::from_utf8_lossy(input.rest()).replace("//", "/");
    let path = path.trim_matches('/');
    let Ok(ignore) = Ignore::parse(text) else { return };
    let (whole, _) = (ignore.matches(path), ());
    let exceptions = ignore.patterns().iter().any(|pattern| pattern.includes);
    let mut above = Walk::default();
    let mut excluded = false;
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for end in ends.filter(|end| *end > 0) {
        let (out, here) = ignore.excludes(&path[..end], &above);
        // Without exceptions nothing comes back.
        assert!(out || !excluded || exceptions, "{text:?} {path:?}");
        (excluded, above) = (out, here);
    }
    assert!(exceptions || path.is_empty() || whole == excluded, "{text:?} {path:?}");
}

fn globbed(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let pattern = input.text();
    let name = input.rest();
    let Ok(glob) = Glob::parse(&pattern) else { return };
    let matches = glob.matches(name);
    if !pattern.contains(['*', '?', '[', '\\']) {
        assert_eq!(matches, pattern.as_bytes() == name, "{pattern:?} {name:?}");
    }
    // A star in front takes nothing as well.
    if let (true, Ok(more)) = (matches, Glob::parse(&format!("*{pattern}"))) {
        assert!(more.matches(name) || pattern.starts_with('*'), "{pattern:?} {name:?}");
    }
}
