use proptest::prelude::*;
use serde_json::json;

use super::*;

fn render(text: &str) -> Result<String> {
    let row = json!({
        "ID": "0123456789ab", "Name": "web", "N": 3, "Zero": 0, "Yes": true, "None": null, "Empty": [],
        "Ports": ["80/tcp", "443/tcp"], "Labels": {"a": "1", "b": "2"}, "Config": {"Env": ["PATH=/bin"], "User": ""},
        "Html": "<a&b>\u{2028}", "S": "héllo", "F": 2.5, "Mix": [1, "x", null, {"k": "v"}],
    });
    Template::parse(text)?.render(&row)
}

/// Templates, and what Go makes of them: text/template of 1.27 with the functions of Docker 28.5.
fn hold(table: &[(&str, &str)]) {
    for (text, wanted) in table {
        let made = render(text).unwrap_or_else(|err| format!("error: {err:#}"));
        assert_eq!(made, *wanted, "{text}");
    }
}

#[test]
fn fields_are_found_and_printed() {
    hold(&[
        ("plain", "plain"),
        ("{{.ID}}: {{.Name}}", "0123456789ab: web"),
        ("{{.Labels.a}}", "1"),
        ("{{.Labels.zzz}}|{{.Labels.zzz.yyy}}", "<no value>|<no value>"),
        ("{{.Labels}}", "map[a:1 b:2]"),
        ("{{.Ports}}", "[80/tcp 443/tcp]"),
        ("{{.Mix}}", "[1 x <nil> map[k:v]]"),
        ("{{.Empty}}|{{.Yes}}|{{.F}}", "[]|true|2.5"),
        ("{{(.Config).User}}|{{.Labels \"a\"}}|{{.Labels \"zz\"}}", "|1|"),
        ("{{\"b\" | .Labels}}", "2"),
        ("{{.None}}", "<no value>"),
        ("{{(index .Mix 3).k}}", "v"),
        ("{{$.Name}}{{with .Config}}{{index .Env 0}}{{$.Name}}{{end}}", "webPATH=/binweb"),
    ]);
}

#[test]
fn blocks_and_variables_are_gos() {
    hold(&[
        ("{{range .Ports}}<{{.}}>{{end}}", "<80/tcp><443/tcp>"),
        ("{{range $i, $p := .Ports}}{{$i}}={{$p}} {{end}}", "0=80/tcp 1=443/tcp "),
        ("{{range $p := .Ports}}{{$p}} {{end}}", "80/tcp 443/tcp "),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "a=1;b=2;"),
        ("{{range .Labels}}{{.}}{{end}}", "12"),
        ("{{range 3}}{{.}}{{end}}{{range $i := 2}}{{$i}}{{end}}", "01201"),
        ("{{range .Empty}}x{{else}}none{{end}}{{range .None}}x{{else}}nil{{end}}", "nonenil"),
        ("{{range .Ports}}{{if eq . \"443/tcp\"}}{{break}}{{end}}{{.}}{{end}}", "80/tcp"),
        ("{{range .Ports}}{{if eq . \"80/tcp\"}}{{continue}}{{end}}{{.}}{{end}}", "443/tcp"),
        ("{{range $i, $e := .Ports}}{{if $i}},{{end}}{{$e}}{{end}}", "80/tcp,443/tcp"),
        ("{{if .Yes}}y{{else}}n{{end}}", "y"),
        ("{{if .Zero}}y{{else if .N}}n{{else}}z{{end}}", "n"),
        ("{{if .Empty}}y{{else if .Ports}}z{{else}}n{{end}}", "z"),
        ("{{if $x := 5}}{{$x}}{{end}}|{{with $x := 5}}{{$x}}{{.}}{{end}}", "5|55"),
        ("{{with .Config.User}}{{.}}{{else}}root{{end}}", "root"),
        ("{{with .Labels.zz}}y{{else with .S}}{{.}}{{else}}n{{end}}", "héllo"),
        ("{{with $x := .Labels}}{{$x.a}}{{end}}", "1"),
        ("{{$x := .Name}}{{$x}}{{$x = \"db\"}}{{$x}}", "webdb"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("{{$y := 1}}{{if true}}{{$y := 2}}{{end}}{{$y}}", "1"),
        ("{{$x := 1}}{{$x := 2}}{{$x}}{{$a:=3}}{{$a}}", "23"),
        ("a {{- .Name -}} b", "awebb"),
        ("a  {{- \" b \" -}}  c|{{- 3 }} d", "a b c|3 d"),
        ("{{-3}}|{{- 3}}|{{3 -}} x", "-3|3|3x"),
        ("{{- range .Ports -}} {{.}} {{- end -}}", "80/tcp443/tcp"),
        ("a {{/* nothing */}} b", "a  b"),
        ("a {{- /* nothing */ -}} b", "ab"),
    ]);
}

#[test]
fn literals_are_gos() {
    hold(&[
        ("{{`raw \\n`}}{{\"\\t\\u0041\"}}", "raw \\n\tA"),
        (r#"{{"a\x41\u0042\U00000043\101\"\\"}}"#, r#"aABCA"\"#),
        ("{{'a'}}|{{'\\n'}}|{{'é'}}|{{'\\''}}", "97|10|233|39"),
        ("{{0x10}}|{{0b11}}|{{0o17}}|{{017}}|{{1_000}}|{{-5}}|{{+5}}", "16|3|15|15|1000|-5|5"),
        ("{{1e6}}|{{1.0}}|{{1.5}}|{{1e3}}|{{.5}}|{{5.}}|{{3.5}}", "1e+06|1|1.5|1000|0.5|5|3.5"),
        ("{{9223372036854775807}}|{{true}}|{{false}}", "9223372036854775807|true|false"),
    ]);
}

#[test]
fn functions_give_what_gos_give() {
    hold(&[
        ("{{ .Name | upper }}", "WEB"),
        ("{{upper .Name | printf \"%-5s|\"}}", "WEB  |"),
        ("{{\"a\" | printf \"%s-%s\" \"b\"}}", "b-a"),
        ("{{index .Ports 1}}|{{index .Labels \"b\"}}|{{index .Mix 3 \"k\"}}", "443/tcp|2|v"),
        // Of a map of strings the absent one is empty; of others it is nothing.
        ("{{index .Labels \"zz\"}}|{{index .Config \"zz\"}}", "|<no value>"),
        (
            "{{index .S 1}}|{{index .Labels}}|{{index (split \"a:b\" \":\") 1}}",
            "195|map[a:1 b:2]|b",
        ),
        ("{{len .Ports}}{{len .Name}}{{len .S}}{{len .Labels}}{{len \"日本\"}}", "23626"),
        (
            "{{and 1 0 2}}|{{and 1 2}}|{{or 0 \"\" \"x\"}}|{{or 0 \"\"}}|{{not 0}}|{{not \"a\"}}",
            "0|2|x||true|false",
        ),
        ("{{and 0 (index .Ports 9)}}|{{or 1 .Name.X}}|{{1 | and 0}}|{{0 | or 3}}", "0|1|0|3"),
        ("{{if and .Yes (gt .N 2)}}big{{end}}{{and true (or false true)}}", "bigtrue"),
        (
            "{{eq .Name \"db\" \"web\"}}{{ne .N 3}}{{lt .N 4}}{{le .N 3}}{{ge .N 4}}{{gt .N 2}}",
            "truefalsetruetruefalsetrue",
        ),
        (
            "{{eq 1 1 2}}|{{eq 1 2 1}}|{{eq true true}}|{{eq .None nil}}|{{ne .Labels.zz nil}}",
            "true|true|true|true|false",
        ),
        ("{{lt \"a\" \"b\"}}|{{lt 1.5 2.5}}|{{ge 2 2}}", "true|true|true"),
        (
            "{{print 1 2 \"a\" \"b\" 3}}|{{print}}|{{print nil}}|{{print .Ports}}",
            "1 2ab3||<nil>|[80/tcp 443/tcp]",
        ),
        ("{{println .Name 1}}|{{println}}", "web 1\n|\n"),
        (
            "{{print 1.0 2.50}}|{{print 100000000 1e100}}|{{print 1 -1}}",
            "1 2.5|100000000 1e+100|1 -1",
        ),
        ("{{slice .ID 2 5}}|{{slice .ID 10}}|{{slice \"hello\"}}", "234|ab|hello"),
        ("{{slice .S 1 3}}|{{slice .Ports 1}}|{{slice .Ports 0 1 1}}", "é|[443/tcp]|[80/tcp]"),
        ("{{printf \"%s\" .Name | upper | lower | len}}", "3"),
    ]);
}

#[test]
fn dockers_functions_give_what_dockers_give() {
    hold(&[
        (
            "{{json .Ports}}|{{json .None}}|{{json .Labels}}",
            r#"["80/tcp","443/tcp"]|null|{"a":"1","b":"2"}"#,
        ),
        ("{{json .Html}}", r#""<a&b>\u2028""#),
        (
            "{{json 1.0}}|{{json 2.5}}|{{json 1e21}}|{{json 1e-7}}|{{json 0.0}}",
            "1|2.5|1e+21|1e-7|0",
        ),
        (
            "{{join .Ports \", \"}}|{{join .Empty \",\"}}|{{join (split \"a,b\" \",\") \"-\"}}",
            "80/tcp, 443/tcp||a-b",
        ),
        (
            "{{split \"a,b\" \",\"}}|{{split \"ab\" \"\"}}|{{split \"abc\" \"x\"}}|{{json (split \"\" \",\")}}",
            "[a b]|[a b]|[abc]|[\"\"]",
        ),
        ("{{split \"a,b\" \",\" | len}}", "2"),
        ("{{lower \"ABÉ\"}}|{{upper \"abéß\"}}", "abé|ABÉß"),
        ("{{title \"hello wORLD foo-bar a_b c'd 1st\"}}", "Hello WORLD Foo-Bar A_b C'D 1st"),
        ("{{pad .Name 1 2}}|{{pad \"\" 2 3}}|", " web  ||"),
        (
            "{{truncate .ID 4}}|{{truncate .Name 9}}|{{truncate .S 3}}|{{truncate .S 0}}",
            "0123|web|hé|",
        ),
        // Go prints half a character here.
        ("{{truncate .S 2}}", "h"),
    ]);
}

#[test]
fn printf_is_gos() {
    hold(&[
        (
            "{{printf \"%d %05d %x %q %v %t %.2f%%\" 7 42 255 \"q\" .Ports true 1.5}}",
            "7 00042 ff \"q\" [80/tcp 443/tcp] true 1.50%",
        ),
        (
            r#"{{printf "%s|%d|%q|%v|%x|%.2f|%-10s|%10s|" "a" 5 "q\t" 1.5 255 2.345 "ab" "cd"}}"#,
            r#"a|5|"q\t"|1.5|ff|2.35|ab        |        cd|"#,
        ),
        (
            "{{printf \"%5d|%-5d|%05d|%+d|% d|%x|%X|%#x|%o|%b|%c|%U\" 42 42 42 42 42 42 42 42 42 42 65 65}}",
            "   42|42   |00042|+42| 42|2a|2A|0x2a|52|101010|A|U+0041",
        ),
        ("{{printf \"%t|%v|%5t\" true false true}}", "true|false| true"),
        (
            "{{printf \"%e|%g|%f|%6.2f|%G\" 1234.5678 1234.5678 1234.5678 1234.5678 1e21}}",
            "1.234568e+03|1234.5678|1234.567800|1234.57|1E+21",
        ),
        ("{{printf \"%v|%v|%v\" 1e6 1e20 1e21}}", "1e+06|1e+20|1e+21"),
        ("{{printf \"%v|%v|%v\" 0.1 1e-5 123456789.0}}", "0.1|1e-05|1.23456789e+08"),
        ("{{printf \"%06.2f|%+.1f|%08.3f\" 3.14159 2.0 -3.14159}}", "003.14|+2.0|-003.142"),
        ("{{printf \"%x|%X|%q\" -255 -255 'x'}}", "-ff|-FF|'x'"),
        (
            "{{printf \"%x|%X|% x|%#x\" \"hé\" \"hé\" \"hé\" \"hé\"}}",
            "68c3a9|68C3A9|68 c3 a9|0x68c3a9",
        ),
        (r#"{{printf "%q|%q|%q" "a\"b\\c" "é\u0001" "\u2028"}}"#, r#""a\"b\\c"|"é\x01"|"\u2028""#),
        ("{{printf \"%.2s|%.0s|%5.1s|%-5.1s|\" .S \"abc\" \"abc\" \"abc\"}}", "hé||    a|a    |"),
        (
            "{{printf \"%6.3v|%6v|%-6v|%5s|\" \"abcdef\" \"ab\" \"ab\" \"日本\"}}",
            "   abc|    ab|ab    |   日本|",
        ),
        ("{{printf \"%*d|%-*d|%.*f\" 5 42 5 42 2 3.14159}}", "   42|42   |3.14"),
        ("{{printf \"%[2]d %[1]d\" 1 2}}", "2 1"),
        ("{{printf \"%05s|%-05d|\" \"a\" 5}}", "0000a|5    |"),
        (
            "{{printf \"%s|%v|%d|%q\" .Ports .Ports .Ports .Ports}}",
            "[80/tcp 443/tcp]|[80/tcp 443/tcp]|[%!d(string=80/tcp) %!d(string=443/tcp)]|[\"80/tcp\" \"443/tcp\"]",
        ),
        ("{{printf \"%v|%s\" .Labels .Labels}}", "map[a:1 b:2]|map[a:1 b:2]"),
        // What does not fit is said, and no error.
        ("{{printf \"%v|%s|%d\" .None .None .None}}", "<nil>|%!s(<nil>)|%!d(<nil>)"),
        (
            "{{printf \"%s\" 5}}|{{printf \"%d\" \"a\"}}|{{printf \"%d\"}}|{{printf \"x\" 1 \"y\"}}|{{printf \"%z\" 1}}",
            "%!s(int=5)|%!d(string=a)|%!d(MISSING)|x%!(EXTRA int=1, string=y)|%!z(int=1)",
        ),
        (
            "{{printf \"%8.3g|%.0o|%03.0f|%.3e\" true \"Ab c\" \"web\" \"1\"}}",
            "%!g(bool=    true)|%!o(string=)|%!f(string=000)|%!e(string=1)",
        ),
        (
            "{{printf \"%q|%v\" .Mix .Mix}}",
            "['\\x01' \"x\" <nil> map[\"k\":\"v\"]]|[1 x <nil> map[k:v]]",
        ),
        (
            "{{printf \"%t\" \"x\"}}|{{printf \"%s\" true}}|{{printf \"%d\" 1.5}}|{{printf \"%.1f\" .N}}",
            "%!t(string=x)|%!s(bool=true)|%!d(float64=1.5)|%!f(int=3)",
        ),
        (
            "{{printf \"%\"}}|{{printf \"100%\"}}|{{printf \"%%\"}}|{{printf \"%d%%\" 50}}",
            "%!(NOVERB)|100%!(NOVERB)|%|50%",
        ),
    ]);
}

#[test]
fn what_go_refuses_is_refused() {
    let bads = [
        "{{",
        "{{.Name",
        "{{end}}",
        "{{else}}",
        "{{if}}x{{end}}",
        "{{if .Yes}}",
        "{{if .Yes}}{{else}}{{else}}{{end}}",
        "{{if .Yes}}{{else with .Name}}{{end}}",
        "{{range .Ports}}{{else if .Yes}}x{{end}}",
        "{{nope}}",
        "{{.Nope}}",
        "{{index .Ports 9}}",
        "{{index .Ports -1}}",
        "{{index .Ports \"a\"}}",
        "{{index .Labels 1}}",
        "{{index .None 1}}",
        "{{len .N}}",
        "{{len .None}}",
        "{{eq}}",
        "{{eq 1}}",
        "{{eq 1 \"a\"}}",
        "{{eq .Ports .Ports}}",
        "{{lt 1 \"a\"}}",
        "{{lt true false}}",
        "{{lt 1 2 3}}",
        "{{not}}",
        "{{not 1 2}}",
        "{{and}}",
        "{{json}}",
        "{{json 1 2}}",
        "{{join .Ports}}",
        "{{join .Mix \",\"}}",
        "{{upper 5}}",
        "{{truncate 5 1}}",
        "{{truncate .Name -1}}",
        "{{pad .Name -1 2}}",
        "{{slice .Name 2 1}}",
        "{{slice .Name 1 9}}",
        "{{slice .Name 0 1 1}}",
        "{{slice .Labels 1}}",
        "{{.Name.First}}",
        "{{.Name.}}",
        "{{. Name}}",
        "{{$x}}",
        "{{$x = 1}}",
        "{{\"}}",
        "{{\"\\'\"}}",
        "{{'ab'}}",
        "{{''}}",
        "{{.Name 1}}",
        "{{.Name \"a\"}}",
        "{{$ \"a\"}}",
        "{{\"a\" \"b\"}}",
        "{{1 -1}}",
        "{{1-1}}",
        "{{1e400}}",
        "{{9223372036854775808}}",
        "{{0x-5}}",
        "{{08}}",
        "{{nil}}",
        "{{break}}",
        "{{}}",
        "{{|}}",
        "{{1 | 2}}",
        "{{(.Name}}",
        "{{.Name)}}",
        "{{template \"x\"}}",
        "{{printf}}",
        "{{lt .Name 1}}",
        "{{range .Name}}{{end}}",
        "{{range $i, $j := 3}}{{end}}",
        "{{.N | .Name}}",
        "{{/* x",
        "{{/* c */ }}x",
    ];
    for bad in bads {
        assert!(render(bad).is_err(), "{bad}: {:?}", render(bad));
    }
}

#[test]
fn what_docker_calls_in_other_cases_is_found_and_null_is_a_list() {
    let row =
        json!({"Id": "0", "Config": {"Cmd": null, "Labels": null, "digest": "d"}, "A": 1, "a": 2});
    let typed = |text: &str| Template::parse(text).unwrap().typed().render(&row);
    let table = [
        ("{{.ID}}{{.Id}}|{{.Config.Digest}}|{{.A}}{{.a}}", "00|d|12"),
        ("{{.Config.Cmd}}|{{json .Config.Cmd}}|{{len .Config.Cmd}}", "[]|null|0"),
        ("{{range .Config.Cmd}}x{{end}}{{if .Config.Cmd}}y{{end}}{{eq .Config.Cmd nil}}", "true"),
        (
            "{{.Config.Labels.x}}|{{index .Config.Labels \"x\"}}|{{join .Config.Cmd \",\"}}",
            "<no value>||",
        ),
        ("{{printf \"%v %s\" .Config.Cmd .Config.Cmd}}|{{slice .Config.Cmd 0}}", "[] []|[]"),
    ];
    for (text, wanted) in table {
        assert_eq!(typed(text).unwrap(), wanted, "{text}");
    }
    assert!(typed("{{.Nope}}").is_err());
    assert!(Template::parse("{{.ID}}").unwrap().render(&row).is_err());
}

/// map[string]struct{}, map[string]string and *HealthConfig of container.Config.
#[test]
fn what_docker_has_other_types_for_is_printed_as_they_are() {
    let row = json!({ "Config": {
        "ExposedPorts": {"80/tcp": {}}, "Volumes": null, "Labels": null, "Healthcheck": null, "Cmd": null,
    }});
    let typed = |text: &str| Template::parse(text).unwrap().typed().render(&row);
    let table = [
        (
            "{{.Config.ExposedPorts}}|{{json .Config.ExposedPorts}}",
            "map[80/tcp:{}]|{\"80/tcp\":{}}",
        ),
        ("{{range $k, $v := .Config.ExposedPorts}}{{$k}} {{$v}}{{end}}", "80/tcp {}"),
        ("{{.Config.Volumes}}{{.Config.Labels}}{{.Config.Cmd}}", "map[]map[][]"),
        (
            "{{json .Config.Volumes}}{{len .Config.Labels}}{{range .Config.Volumes}}x{{end}}",
            "null0",
        ),
        ("{{.Config.Healthcheck}}{{if .Config.Healthcheck}}x{{end}}", "<nil>"),
        ("{{printf \"%v %v\" .Config.ExposedPorts .Config.Labels}}", "map[80/tcp:{}] map[]"),
    ];
    for (text, wanted) in table {
        assert_eq!(typed(text).unwrap(), wanted, "{text}");
    }
}

#[test]
fn no_template_is_too_much() {
    let doubled = format!("{{{{$x := .Name}}}}{}", "{{$x = print $x $x}}".repeat(40));
    assert!(format!("{:#}", render(&doubled).unwrap_err()).contains("more than"));
    let deep = format!("{}{}", "{{if 1}}".repeat(100), "{{end}}".repeat(100));
    assert!(render(&deep).is_err());
    assert!(render(&format!("{{{{{}1{}}}}}", "(".repeat(100), ")".repeat(100))).is_err());
    // Each of these would go on for longer than anyone waits, or take more memory than there is.
    for much in [
        "{{range 9223372036854775807}}{{end}}",
        "{{range 999999}}{{range 999999}}{{end}}{{end}}",
        "{{range 999999999}}{{printf \"%65536d\" 1}}{{end}}",
        "{{range 99999}}{{$x := printf \"%65536d\" 1}}{{end}}",
        "{{join (split (printf \"%65536d\" 1) \"\") (printf \"%65536d\" 1)}}",
        "{{$x := printf \"%65536d\" 1}}{{range 9}}{{$x = print $x $x}}{{end}}{{split $x \"\" | len}}",
        "{{pad .Name 99999999999 1}}",
        "{{printf \"%999999d\" 1}}",
        "{{printf \"%.999999f\" 1.5}}",
        "{{printf \"%*d\" 999999999 1}}",
        "{{printf \"%.*f\" 999999999 1.5}}",
    ] {
        let said = format!("{:#}", render(much).unwrap_err());
        assert!(["more than", "too "].iter().any(|part| said.contains(part)), "{much}: {said}");
    }
}

#[test]
fn a_heading_keeps_the_names_that_a_function_would_change() {
    let names = BTreeMap::from([("Image", "IMAGE"), ("Names", "NAMES")]);
    let template = Template::parse("{{.Names}}\t{{truncate .Image 3}}\t{{upper .Names}}").unwrap();
    assert_eq!(template.heading(&names).unwrap(), "NAMES\tIMAGE\tNAMES");
}

/// Anything that could stand in an action.
const ACTIONS: &str = "(\\{\\{-? ?(if|range|with|else|else if|end|break|continue|\\.[A-Z][a-z]*|\\.Ports|\\.Labels|\\.Mix|\\.S\
    |\\$x|\\$|\\.|:=|=|,|printf \"%[-+# 0]?[0-9]{0,3}(\\.[0-9]{0,2})?[a-zA-Z]\"|[0-9]{1,3}|'.'|\"[a-z\\\\,]{0,3}\"|nil|true|\\||\\(|\\)\
    |index|slice|len|json|join|split|lower|upper|title|pad|truncate|print|println|eq|ne|lt|and|or|not| )* ?-?\\}\\}|[a-z ]){0,12}";

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = render(&text);
    }

    #[test]
    fn no_action_panics_and_what_it_makes_is_bounded(text in ACTIONS) {
        if let Ok(made) = render(&text) {
            prop_assert!(made.len() <= 2 * eval::LIMIT + text.len());
        }
    }

    #[test]
    fn no_call_panics(
        name in prop::sample::select(functions::FUNCTIONS),
        args in prop::collection::vec(prop::sample::select(ARGS), 0..4),
    ) {
        let _ = render(&format!("{{{{{name} {}}}}}", args.join(" ")));
    }

    #[test]
    fn numbers_print_as_they_read(number in prop::num::f64::NORMAL) {
        let text = format!("{{{{printf \"%v %g %e\" {number:?} {number:?} {number:?}}}}}");
        if let Ok(made) = render(&text) {
            let read: Vec<f64> = made.split(' ').map(|text| text.parse().unwrap()).collect();
            prop_assert_eq!(&read[..2], &[number, number][..]);
            prop_assert!((read[2] / number - 1.0).abs() < 1e-5);
        }
    }
}

/// What a function may be given.
const ARGS: &[&str] = &[
    ".S",
    ".Name",
    ".Ports",
    ".Labels",
    ".Mix",
    ".None",
    ".Empty",
    ".F",
    ".N",
    ".Labels.zz",
    "nil",
    "0",
    "1",
    "2",
    "7",
    "-1",
    "2.5",
    "\"\"",
    "\",\"",
    "\"%d\"",
    "\"%*v|%[2]q\"",
    "\"%5.1s\"",
    "\"日本\"",
    "true",
    "999999999999",
];
