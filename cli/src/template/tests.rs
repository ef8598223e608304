//! What templates print, and that no text breaks the evaluator.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Template;

fn data() -> Value {
    json!({
        "items": [
            {"id": "a", "currentState": {"status": "Running", "host": "h1"}, "port": 80},
            {"id": "b", "currentState": {"status": "Waiting"}, "port": 8080}
        ],
        "labels": {"x": "1", "name": "jenkins"},
        "empty": [], "zero": 0, "half": 0.5, "memory": 3221225472_u64, "flag": true, "nothing": null
    })
}

fn run(template: &str) -> Result<String, String> {
    Template::parse(template).map_err(|e| e.to_string())?.render(&data()).map_err(|e| e.to_string())
}

#[test]
fn templates_print_what_go_prints() {
    for (template, expected) in [
        ("plain", "plain"),
        ("{{range .items}}{{.id}} {{.currentState.status}}{{end}}", "a Runningb Waiting"),
        ("{{range $i, $x := .items}}{{$i}}={{$x.id}};{{end}}", "0=a;1=b;"),
        ("{{range $k, $v := .labels}}{{$k}}={{$v}},{{end}}", "name=jenkins,x=1,"),
        ("{{range .empty}}x{{else}}none{{end}}", "none"),
        ("{{range .missing}}x{{else}}none{{end}}", "none"),
        ("{{range .items}}{{$.labels.name}}{{end}}", "jenkinsjenkins"),
        ("{{if .flag}}yes{{else}}no{{end}}", "yes"),
        ("{{if .zero}}a{{else if .empty}}b{{else if .flag}}c{{else}}d{{end}}", "c"),
        ("{{with .labels}}{{.name}}{{end}}{{with .empty}}x{{else}}{{.zero}}{{end}}", "jenkins0"),
        ("{{$x := 1}}{{if .flag}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("{{$x := 1}}{{if .flag}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ("{{len .items}} {{len .labels.name}} {{.items | len}}", "2 7 2"),
        ("{{index .items 1 \"id\"}} {{(index .items 0).id}} {{index .labels \"x\"}}", "b a 1"),
        (
            "{{printf \"%s-%d|%5d|%-4s|%04d|%.2f|%q|%v%%\" .labels.name 7 42 \"ab\" 7 .half \"x\" .flag}}",
            "jenkins-7|   42|ab  |0007|0.50|\"x\"|true%",
        ),
        ("{{printf \"%d\" \"x\"}} {{printf \"%d\"}} {{printf \"\" 1}}", "%!d(string=x) %!d(MISSING) %!(EXTRA int=1)"),
        ("{{\"a\" | printf \"%s%s\" \"b\"}}", "ba"),
        (
            "{{if eq .labels.name \"jenkins\"}}1{{end}}{{if ne 1 2}}2{{end}}{{if lt 1 2}}3{{end}}{{if gt 2.5 2}}4{{end}}",
            "1234",
        ),
        ("{{if eq 3 1 2 3}}any{{end}} {{ge 2 2}} {{le \"b\" \"a\"}}", "any true false"),
        ("{{if and .flag (not .zero)}}ok{{end}} {{or .zero \"else\"}} {{and .flag 5}}", "ok else 5"),
        ("{{or .flag .nothing.x}}", "true"),
        ("a {{- /* comment */ -}} b{{/* x */}}c", "abc"),
        ("a  {{- 1 -}}  b {{-2}}", "a1b -2"),
        ("{{.missing}} {{.nothing}} {{.memory}} {{.half}} {{.flag}}", "<no value> <no value> 3221225472 0.5 true"),
        (
            "{{.labels}} {{index .items 0}}",
            "map[name:jenkins x:1] map[currentState:map[host:h1 status:Running] id:a port:80]",
        ),
        ("{{print 1 2 \"x\" 3}} {{println \"a\" 1}}", "1 2x3 a 1\n"),
        ("{{`raw \"x\"`}} {{\"\\t\\u00e9\\x41\"}}", "raw \"x\" \téA"),
        ("{{html \"<a>\"}} {{urlquery \"a b\"}}", "&lt;a&gt; a%20b"),
        ("{{true}} {{0x1f}} {{-3}} {{1e3}}", "true 31 -3 1000"),
    ] {
        assert_eq!(run(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn faults_name_the_line_and_the_cause() {
    for (template, cause) in [
        ("\n{{.a", "line 2: unclosed action"),
        ("{{if .x}}", "an {{end}} is missing"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{if .x}}{{else}}{{else}}{{end}}", "second else"),
        ("{{bogus .x}}", "function \"bogus\" not defined"),
        ("{{$x}}", "undefined variable \"$x\""),
        ("{{range .items}}{{$y := 1}}{{end}}{{$y}}", "undefined variable \"$y\""),
        ("{{(len .items}}", "unclosed left parenthesis"),
        ("{{len .items)}}", "unexpected right parenthesis"),
        ("{{\"abc}}", "unterminated quoted string"),
        ("{{}}", "missing value for command"),
        ("{{.a .b}}", "not a function"),
        ("{{template \"x\"}}", "not supported"),
        ("{{len .zero}}", "len of type int"),
        ("{{index .items 9}}", "index out of range: 9"),
        ("{{.labels.name.x}}", "can't evaluate field x in type string"),
        ("{{.missing.x}}", "nil pointer evaluating interface {}.x"),
        ("{{range .flag}}{{end}}", "range can't iterate over true"),
        ("{{lt 1 \"a\"}}", "incompatible types for comparison: int and string"),
        ("{{/* never closed", "unclosed comment"),
    ] {
        let error = run(template).unwrap_err();
        assert!(error.contains(cause), "{template}: {error}");
    }
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(500), ")".repeat(500));
    assert!(run(&deep).unwrap_err().contains("nested more than"));
}

proptest! {
    #[test]
    fn no_template_panics(text in "(\\{\\{|\\}\\}|[-. a-z$|():=,\"`0-9\\\\]|range|if|end|else|index|printf|items|é|\\n){0,30}") {
        let _ = run(&text);
    }

    #[test]
    fn no_format_panics(format in "[%0-9.a-z*+é -]{0,20}") {
        let template = format!("{{{{printf `{format}` 1 \"x\" .half .items}}}}");
        let _ = run(&template);
    }
}
