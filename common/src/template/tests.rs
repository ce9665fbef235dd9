use proptest::prelude::*;
use serde_json::json;

use super::*;

fn render(text: &str) -> Result<String> {
    let row = json!({
        "ID": "0123456789ab", "Name": "web", "N": 3, "Zero": 0, "Yes": true, "None": null, "Empty": [],
        "Ports": ["80/tcp", "443/tcp"], "Labels": {"a": "1", "b": "2"}, "Config": {"Env": ["PATH=/bin"], "User": ""},
        "Html": "<a&b>",
    });
    Template::parse(text)?.render(&row)
}

#[test]
fn templates_give_what_go_gives() {
    let table = [
        ("plain", "plain"),
        ("{{.ID}}: {{.Name}}", "0123456789ab: web"),
        ("{{ .Name | upper }}", "WEB"),
        ("{{upper .Name | printf \"%-5s|\"}}", "WEB  |"),
        ("{{json .Ports}}", r#"["80/tcp","443/tcp"]"#),
        ("{{json .Html}}", r#""<a&b>""#),
        ("{{join .Ports \", \"}}", "80/tcp, 443/tcp"),
        ("{{index .Ports 1}}", "443/tcp"),
        ("{{index .Labels \"b\"}}", "2"),
        ("{{.Labels.a}}", "1"),
        ("{{.Labels.zzz}}", "<no value>"),
        ("{{.Labels}}", "map[a:1 b:2]"),
        ("{{.Ports}}", "[80/tcp 443/tcp]"),
        ("{{range .Ports}}<{{.}}>{{end}}", "<80/tcp><443/tcp>"),
        ("{{range $i, $p := .Ports}}{{$i}}={{$p}} {{end}}", "0=80/tcp 1=443/tcp "),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "a=1;b=2;"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .Ports}}{{if eq . \"443/tcp\"}}{{break}}{{end}}{{.}}{{end}}", "80/tcp"),
        ("{{range .Ports}}{{if eq . \"80/tcp\"}}{{continue}}{{end}}{{.}}{{end}}", "443/tcp"),
        ("{{if .Yes}}y{{else}}n{{end}}", "y"),
        ("{{if .Zero}}y{{else if .N}}n{{else}}z{{end}}", "n"),
        ("{{with .Config}}{{index .Env 0}}{{$.Name}}{{end}}", "PATH=/binweb"),
        ("{{with .Config.User}}{{.}}{{else}}root{{end}}", "root"),
        ("{{if and .Yes (gt .N 2)}}big{{end}}", "big"),
        ("{{if or .Zero .N}}x{{end}}{{not .Yes}}", "xfalse"),
        (
            "{{eq .Name \"db\" \"web\"}}{{ne .N 3}}{{lt .N 4}}{{le .N 3}}{{ge .N 4}}",
            "truefalsetruetruefalse",
        ),
        ("{{len .Ports}}{{len .Name}}", "23"),
        ("{{truncate .ID 4}}{{truncate .Name 9}}", "0123web"),
        ("{{pad .Name 1 2}}|", " web  |"),
        ("{{title \"hello big world\"}}", "Hello Big World"),
        ("{{split \"a,b\" \",\" | len}}", "2"),
        ("{{lower \"ABC\"}}", "abc"),
        ("{{slice .ID 2 5}}", "234"),
        ("{{println .Name 1}}", "web 1\n"),
        ("{{print 1 2 \"a\" 3}}", "1 2a3"),
        (
            "{{printf \"%d %05d %x %q %v %t %.2f%%\" 7 42 255 \"q\" .Ports true 1.5}}",
            "7 00042 ff \"q\" [80/tcp 443/tcp] true 1.50%",
        ),
        ("{{$x := .Name}}{{$x}}{{$x = \"db\"}}{{$x}}", "webdb"),
        ("a {{- .Name -}} b", "awebb"),
        ("a {{/* nothing */}} b", "a  b"),
        ("a {{- /* nothing */ -}} b", "ab"),
        ("{{`raw \\n`}}{{\"\\t\\u0041\"}}", "raw \\n\tA"),
        ("{{(index .Ports 0)}}", "80/tcp"),
        ("{{(.Config).User}}|{{.Labels \"a\"}}", "|1"),
        ("{{.None}}", "<no value>"),
        ("{{3.5}} {{-4}} {{'a'}}", "3.5 -4 97"),
    ];
    for (text, wanted) in table {
        assert_eq!(render(text).unwrap_or_else(|err| format!("error: {err:#}")), wanted, "{text}");
    }
}

#[test]
fn what_go_refuses_is_refused() {
    let bads = [
        "{{",
        "{{.Name",
        "{{end}}",
        "{{if .Yes}}",
        "{{if .Yes}}{{else}}{{else}}{{end}}",
        "{{nope}}",
        "{{.Nope}}",
        "{{index .Ports 9}}",
        "{{.Name.First}}",
        "{{$x}}",
        "{{\"}}",
        "{{.Name 1}}",
        "{{break}}",
        "{{}}",
        "{{|}}",
        "{{(.Name}}",
        "{{.Name)}}",
        "{{template \"x\"}}",
        "{{printf}}",
        "{{lt .Name 1}}",
        "{{pad .Name 99999999999 1}}",
        "{{printf \"%999999d\" 1}}",
        "{{range .Name}}{{end}}",
        "{{.N | .Name}}",
        "{{/* x",
    ];
    for bad in bads {
        assert!(render(bad).is_err(), "{bad}");
    }
    let doubled = format!("{{{{$x := .Name}}}}{}", "{{$x = print $x $x}}".repeat(40));
    assert!(render(&doubled).unwrap_err().to_string().contains("more than"));
    let deep = format!("{}{}", "{{if 1}}".repeat(100), "{{end}}".repeat(100));
    assert!(render(&deep).is_err());
    assert!(render(&format!("{{{{{}1{}}}}}", "(".repeat(100), ")".repeat(100))).is_err());
}

#[test]
fn a_heading_keeps_the_names_that_a_function_would_change() {
    let names = BTreeMap::from([("Image", "IMAGE"), ("Names", "NAMES")]);
    let template = Template::parse("{{.Names}}\t{{truncate .Image 3}}\t{{upper .Names}}").unwrap();
    assert_eq!(template.heading(&names).unwrap(), "NAMES\tIMAGE\tNAMES");
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = render(&text);
    }

    #[test]
    fn no_action_panics(text in "(\\{\\{-? ?(if|range|with|else|end|\\.[A-Z][a-z]*|\\$x|:=|printf \"%[0-9]*[a-z]\"|[0-9]+|\\||\\(|\\)|index|slice|,| )* ?-?\\}\\}|[a-z ]){0,12}") {
        let _ = render(&text);
    }
}
