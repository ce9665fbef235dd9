use proptest::prelude::*;

use super::*;
use crate::dockerfile::scope::Variables;

fn values() -> Variables {
    Variables::of([
        "a=A",
        "ab=AB",
        "e=",
        "s=x y",
        "p=/usr/local/bin/a.tar.gz",
        "n=one\ntwo",
        "q=a'b\"c",
        "t=aaa",
        "_1=under",
        "é=ü",
        "star=*",
    ])
}

fn text(word: &str) -> String {
    match Lexer::new('\\').expand(word, &values()) {
        Ok(expanded) => expanded.text,
        Err(err) => format!("! {}", err.message),
    }
}

#[test]
fn words_are_expanded() {
    let table = [
        ("", ""),
        ("abc", "abc"),
        ("a b", "a b"),
        // quotes
        ("'a b'", "a b"),
        ("\"a b\"", "a b"),
        ("a'b'\"c\"", "abc"),
        ("''", ""),
        ("'$a'", "$a"),
        ("\"$a\"", "A"),
        ("'a\"b'", "a\"b"),
        ("\"a'b\"", "a'b"),
        ("'a\\'", "a\\"),
        ("\"a\\\"b\"", "a\"b"),
        ("\"a\\$a\"", "a$a"),
        ("\"a\\nb\"", "a\\nb"),
        ("\"a\\\\b\"", "a\\b"),
        ("'a", "! a quote ' is not closed"),
        ("\"a", "! a quote \" is not closed"),
        ("\"a\\\"", "! a quote \" is not closed"),
        // escapes
        ("a\\ b", "a b"),
        ("\\$a", "$a"),
        ("\\\\", "\\"),
        ("a\\", "a"),
        ("\\n", "n"),
        ("\\'", "'"),
        // variables
        ("$a", "A"),
        ("${a}", "A"),
        ("$ab", "AB"),
        ("${a}b", "Ab"),
        ("$a-b", "A-b"),
        ("$a$ab", "AAB"),
        ("$no", ""),
        ("${no}", ""),
        ("x$no-y", "x-y"),
        ("$", "$"),
        ("a$", "a$"),
        ("$.", "$."),
        ("$ a", "$ a"),
        ("$_1", "under"),
        ("$é", "ü"),
        ("$1a", "a"),
        ("$12a", "a"),
        ("$@x", "x"),
        ("$$a", "a"),
        ("$?", ""),
        ("${a", "! ${ has no }"),
        ("${", "! ${ has no }"),
        ("${}", "! ${}: the name of a variable is missing"),
        ("${:-a}", "! ${:: the name of a variable is missing"),
        ("${{a}}", "! ${{: the name of a variable is missing"),
        ("${a b}", "! ${a : there is no such modifier"),
        ("${a!b}", "! ${a!: there is no such modifier"),
        ("${a:b}", "! ${a:b: there is no such modifier"),
        ("${a:}", "! ${...} has no }"),
        // modifiers
        ("${a:-x}", "A"),
        ("${no:-x}", "x"),
        ("${e:-x}", "x"),
        ("${a-x}", "A"),
        ("${no-x}", "x"),
        ("${e-x}", ""),
        ("${a:+x}", "x"),
        ("${no:+x}", ""),
        ("${e:+x}", ""),
        ("${a+x}", "x"),
        ("${no+x}", ""),
        ("${e+x}", "x"),
        ("${a:?x}", "A"),
        ("${no:?x}", "! no: x"),
        ("${e:?x}", "! e: x"),
        ("${a?x}", "A"),
        ("${no?x}", "! no: x"),
        ("${e?x}", ""),
        ("${no?}", "! no is not set"),
        ("${e:?}", "! e is empty"),
        ("${no:-}", ""),
        ("${no:-$a}", "A"),
        ("${no:-${e:-$ab}}", "AB"),
        ("${no:-'a b'}", "a b"),
        ("${no:-\"$a b\"}", "A b"),
        ("${no:-a\\}b}", "a}b"),
        ("${no:-a:-b}", "a:-b"),
        ("${no:-x", "! ${...} has no }"),
        ("${no:-'x}", "! a quote ' is not closed"),
        ("a${no:-b}c", "abc"),
        // patterns
        ("${p#/usr}", "/local/bin/a.tar.gz"),
        ("${p#/bin}", "/usr/local/bin/a.tar.gz"),
        ("${p#*/}", "usr/local/bin/a.tar.gz"),
        ("${p##*/}", "a.tar.gz"),
        ("${p%/*}", "/usr/local/bin"),
        ("${p%%/*}", ""),
        ("${p%.*}", "/usr/local/bin/a.tar"),
        ("${p%%.*}", "/usr/local/bin/a"),
        ("${p%.gz}", "/usr/local/bin/a.tar"),
        ("${p#?}", "usr/local/bin/a.tar.gz"),
        ("${p%?}", "/usr/local/bin/a.tar.g"),
        ("${p#}", "/usr/local/bin/a.tar.gz"),
        ("${p##*}", ""),
        ("${p#*}", "/usr/local/bin/a.tar.gz"),
        ("${no#x}", ""),
        ("${star#\\*}", ""),
        ("${a#\\*}", "A"),
        ("${a#$a}", ""),
        ("${s#'x '}", "y"),
        ("${n#*e}", "\ntwo"),
        ("${n##*}", "\ntwo"),
        ("${n#*t}", "one\ntwo"),
        ("${a:#x}", "! ${a:#: there is no such modifier"),
        ("${a#\\x}", "! \\x: \\x in a pattern is no escape"),
        // replacing
        ("${p/\\//_}", "_usr/local/bin/a.tar.gz"),
        ("${p//\\//_}", "_usr_local_bin_a.tar.gz"),
        ("${t/a/b}", "baa"),
        ("${t//a/b}", "bbb"),
        ("${t//aa/b}", "ba"),
        ("${t/x/b}", "aaa"),
        ("${t//a/}", ""),
        ("${t//?/xy}", "xyxyxy"),
        ("${t/*/x}", "x"),
        ("${t//*/x}", "x"),
        ("${t///x}", "xaxaxax"),
        ("${t//a/$a}", "AAA"),
        // Where BuildKit drops it.
        ("${t//a/\\$}", "\\$\\$\\$"),
        ("${no/a/b}", ""),
        ("${t/a}", "! ${...} has no /"),
        ("${t/a/b", "! ${...} has no }"),
        ("${a:/x/y}", "! ${a:/: there is no such modifier"),
        // a here-document's mark is text
        ("<<EOF", "<<EOF"),
        ("a <b", "a <b"),
    ];
    for (word, expected) in table {
        assert_eq!(text(word), expected, "{word:?}");
    }
}

#[test]
fn the_escape_can_be_another() {
    let expand = |word: &str| Lexer::new('`').expand(word, &values()).unwrap().text;
    assert_eq!(expand("c:\\a\\$a"), "c:\\a\\A");
    assert_eq!(expand("`$a`` `\""), "$a` \"");
    assert_eq!(expand("\"`\"\\\""), "\"\\");
}

#[test]
fn words_are_split_at_blanks_that_are_not_quoted() {
    let table: &[(&str, &[&str])] = &[
        ("", &[]),
        ("a b", &["a", "b"]),
        ("  a\tb  ", &["a", "b"]),
        ("'a b' c", &["a b", "c"]),
        ("a'b c'd", &["ab cd"]),
        ("a\\ b c", &["a b", "c"]),
        // What a variable holds is split, unless it is quoted.
        ("$s", &["x", "y"]),
        ("1$s", &["1x", "y"]),
        ("\"$s\"", &["x y"]),
        ("$e", &[]),
        ("\"\" a", &["a"]),
        // Where BuildKit loses the 1.
        ("1${no:-2 3}4", &["12", "34"]),
        ("a << b", &["a", "<< b"]),
    ];
    for (word, expected) in table {
        let words = Lexer::new('\\').expand(word, &values()).unwrap().words;
        assert_eq!(words, *expected, "{word:?}");
    }
}

#[test]
fn what_is_kept_can_be_chosen() {
    let lexer = Lexer::new('\\');
    let expand = |lexer: Lexer, word: &str| lexer.expand(word, &values()).unwrap().text;
    assert_eq!(expand(lexer.keep_quotes(), "'a' \"$a\" b\\ c"), "'a' \"A\" b c");
    assert_eq!(expand(lexer.keep_escapes(), "'a' b\\ c \"\\\"\""), "a b\\ c \\\"");
    assert_eq!(
        expand(lexer.keep_unset(), "$no ${no} ${no:-x} ${no#x} ${no/x/y} $a"),
        "$no ${no} ${no:-x} ${no#x} ${no/x/y} A"
    );
    assert_eq!(expand(lexer.plain_quotes(), "it's \"$a\" \\$a '"), "it's \"A\" $a '");
}

#[test]
fn variables_that_were_asked_for_are_named() {
    let expanded = Lexer::new('\\').expand("$a ${no:-$x} ${e:+$y} '$z' \\$w", &values()).unwrap();
    assert_eq!(expanded.found.into_iter().collect::<Vec<_>>(), ["a", "e"]);
    assert_eq!(expanded.missing.into_iter().collect::<Vec<_>>(), ["no", "x", "y"]);
}

#[test]
fn nothing_grows_or_nests_without_end() {
    let long = "x".repeat(LONGEST);
    let variables = Variables::of([format!("l={long}").as_str()]);
    let lexer = Lexer::new('\\');
    assert_eq!(lexer.expand("$l", &variables).unwrap().text.len(), LONGEST);
    for word in ["$l$l", "${l}x", "\"$l$l\"", "${l//x/yy}", "${no:-$l$l}"] {
        let err = lexer.expand(word, &variables).unwrap_err();
        assert_eq!(err.message, "variables make it longer than 4 MiB", "{word}");
    }
    let nested = |depth: usize| format!("{}x{}", "${no:-".repeat(depth), "}".repeat(depth));
    assert_eq!(text(&nested(DEEPEST)), "x");
    assert_eq!(text(&nested(DEEPEST + 1)), "! ${...} in each other, more than 64 deep");
    assert_eq!(text(&nested(100_000)), "! ${...} in each other, more than 64 deep");
}

/// What POSIX's shell makes of it, for patterns without sets.
fn shell(script: &str) -> String {
    let out = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn a_shell_says_the_same() {
    // Words that mean the same to both: the shell knows none of the replacing ones.
    let words = [
        "$a",
        "${a}b",
        "${no:-x}",
        "${e:-x}",
        "${e-x}",
        "${a:+x}",
        "${e+x}",
        "${p#*/}",
        "${p##*/}",
        "${p%/*}",
        "${p%%/*}",
        "${p%.*}",
        "${p%%.*}",
        "${p#?}",
        "${t%a}",
        "${t#aa}",
        "\"$s\"",
        "'$a'",
        "${no:-${e:-$ab}}",
        "a\\ b",
        "\"a\\\"b\"",
        "${star#\\*}",
        "${p#/usr}",
    ];
    let set = "a=A ab=AB e= s='x y' p=/usr/local/bin/a.tar.gz t=aaa star='*'; ";
    let script: String = words.iter().map(|word| format!("printf '%s\\n' {word};")).collect();
    let ours: String = words.iter().map(|word| text(word) + "\n").collect();
    assert_eq!(ours, shell(&format!("set -f; {set} {script}")));
}

proptest! {
    #[test]
    fn a_text_without_anything_special_is_itself(word in "[^$'\"\\\\<]{0,40}") {
        let expanded = Lexer::new('\\').expand(&word, &values()).unwrap();
        prop_assert_eq!(&expanded.text, &word);
        prop_assert_eq!(expanded.words, word.split_whitespace().collect::<Vec<_>>());
        prop_assert!(expanded.found.is_empty() && expanded.missing.is_empty());
    }

    #[test]
    fn what_is_quoted_is_itself(word in "\\PC{0,40}") {
        let single = format!("'{}'", word.replace('\'', "'\\''"));
        prop_assert_eq!(text(&single), word.clone());
        let double = word.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
        prop_assert_eq!(text(&format!("\"{double}\"")), word.clone());
        let escaped: String = word.chars().map(|c| format!("\\{c}")).collect();
        prop_assert_eq!(text(&escaped), word);
    }

    #[test]
    fn no_text_breaks_the_lexer(
        word in prop::collection::vec(prop::sample::select(vec![
            "$", "{", "}", "a", "no", "e", "p", ":", "-", "+", "?", "#", "%", "/", "*", "'", "\"",
            "\\", "<", " ", "é", "${p%", "${p//", "${no:-",
        ]), 0..16),
        keep in any::<[bool; 4]>(),
    ) {
        let word = word.concat();
        let mut lexer = Lexer::new('\\');
        if keep[0] { lexer = lexer.keep_quotes() }
        if keep[1] { lexer = lexer.keep_escapes() }
        if keep[2] { lexer = lexer.keep_unset() }
        if keep[3] { lexer = lexer.plain_quotes() }
        let Ok(expanded) = lexer.expand(&word, &values()) else { return Ok(()) };
        prop_assert!(expanded.words.iter().all(|word| !word.is_empty()));
        prop_assert!(expanded.found.is_disjoint(&expanded.missing));
    }

    #[test]
    fn what_is_trimmed_is_a_part(value in "[ab/.]{0,12}", pattern in "[ab/.*?]{0,5}") {
        let variables = Variables::of([format!("v={value}").as_str()]);
        let expand = |word: String| Lexer::new('\\').expand(&word, &variables).unwrap().text;
        let [short, long] = ["#", "##"].map(|op| expand(format!("${{v{op}{pattern}}}")));
        prop_assert!(value.ends_with(&short) && short.ends_with(&long));
        let [short, long] = ["%", "%%"].map(|op| expand(format!("${{v{op}{pattern}}}")));
        prop_assert!(value.starts_with(&short) && short.starts_with(&long));
    }
}
