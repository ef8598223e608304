//! What is read, what is refused and with which words, and that all that is written reads back.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(text: &str, expected: Value) {
    assert_eq!(
        parse_documents(text.as_bytes()).map_err(|e| e.message),
        Ok(expected.as_array().unwrap().clone()),
        "{text}"
    );
}

fn refuse(text: impl AsRef<[u8]>, parts: &[&str]) {
    let text = text.as_ref();
    let start = Instant::now();
    let error = parse_documents(text).expect_err(&String::from_utf8_lossy(&text[..text.len().min(200)]));
    assert!(matches!(error.code(), 400 | 413), "{}", error.message);
    assert!(error.message.len() < 1000, "{}", error.message);
    for part in parts {
        assert!(error.message.contains(part), "expected {part:?} in {:?}", error.message);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
}

#[test]
fn json_and_yaml_are_read() {
    read(r#"{"a": [1, -2, 1.5, true, null, "x"]}"#, json!([{"a": [1, -2, 1.5, true, null, "x"]}]));
    read("a:\n- 1\n- b: c\n", json!([{"a": [1, {"b": "c"}]}]));
    read("\u{feff}a: 1", json!([{"a": 1}]));
    read("", json!([]));
    read("# nothing\n", json!([]));
    read("a: |\n  x\n  y\nb: 'é'", json!([{"a": "x\ny\n", "b": "é"}]));
}

#[test]
fn trailing_commas_are_accepted_as_in_2014() {
    read("{\"a\": [1, 2,],\n\t\"b\": {\"c\": \"d\",},\n}", json!([{"a": [1, 2], "b": {"c": "d"}}]));
}

#[test]
fn several_documents_are_read_and_empty_ones_skipped() {
    read("---\na: 1\n---\n---\n# none\n---\nb: 2\n...\n", json!([{"a": 1}, {"b": 2}]));
    read("{\"a\": 1}\n{\"b\": 2} ", json!([{"a": 1}, {"b": 2}]));
    read("{\"a\": 1}\n---\n{\"b\": 2}", json!([{"a": 1}, {"b": 2}]));
}

#[test]
fn words_and_numbers_are_read_by_yaml_1_2() {
    read(
        "a: yes\nb: off\nc: 1e3\nd: 0644\ne: 0x10\nf: ~",
        json!([{"a": "yes", "b": "off", "c": 1000.0, "d": "0644", "e": 16, "f": null}]),
    );
    read("1: a\ntrue: b\n1.5: c", json!([{"1": "a", "true": "b", "1.5": "c"}]));
    read("a: !!str 1", json!([{"a": "1"}]));
}

#[test]
fn merge_keys_are_applied_and_own_entries_win() {
    read("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3", json!([{"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}]));
    read("- &p {a: 1}\n- &q {a: 2, b: 2}\n- <<: [*p, *q]", json!([[{"a": 1}, {"a": 2, "b": 2}, {"a": 1, "b": 2}]]));
    read(r#"{"<<": 1}"#, json!([{"<<": 1}]));
    refuse("a:\n  <<: 1", &["the value of '<<' must be a map"]);
    refuse("x: &x {a: 1}\ny: {<<: *x, <<: *x}", &["duplicate key \"<<\""]);
}

#[test]
fn faults_are_refused_with_place_and_words() {
    refuse("a: 1\nb:\n  c: 1\n  c: 2\n", &["duplicate key \"c\": remove one of the two", "line 4 column 3"]);
    refuse("{\"a\": 1,\n \"a\": 2}", &["the JSON is not valid: duplicate key \"a\"", "line 2"]);
    refuse("a: b: c", &["the YAML is not valid:", "line 1 column"]);
    refuse("a: [1, 2", &["the YAML is not valid:", "line 1"]);
    refuse("{\"a\": 1 \"b\": 2}", &["the YAML is not valid:", "line 1"]);
    refuse("\ta: 1", &["line 1 column 1"]);
    refuse("a: !secret x", &["the tag !secret is not supported: remove it"]);
    refuse("a: .inf", &["infinity and NaN"]);
    refuse("a: *b", &["unknown anchor", "line 1"]);
    refuse("? [a]\n: b", &["a text as key"]);
    refuse("a: 1\n--- b: [\n", &["line"]);
    refuse([b'a', b':', b' ', 0xff], &["not UTF-8 (byte 3)"]);
}

#[test]
fn hostile_texts_are_refused_fast() {
    refuse("[".repeat(1 << 20), &["nested more than 100 deep"]);
    refuse("{\"a\":".repeat(1 << 20), &["nested more than 100 deep"]);
    refuse(format!("- {}", "[".repeat(100_000)), &["nested more than 100 deep"]);
    refuse("- ".repeat(900_000), &["nested more than 100 deep"]);
    refuse("? ".repeat(900_000), &["a text as key"]);
    refuse(format!("a: {}1{}", "[".repeat(101), "]".repeat(101)), &["nested more than 100 deep"]);
    read(&format!("{}1{}", "[".repeat(100), "]".repeat(100)), {
        let nested = (0..100).fold(json!(1), |inner, _| json!([inner]));
        json!([nested])
    });
    let line = format!(" {}\n", "[".repeat(1000));
    refuse(format!("-\n{}", line.repeat(100)), &["nested more than 100 deep"]);
    refuse(format!("- {}", "[".repeat(100_001)), &["too large to be read as YAML"]);
    refuse("a,".repeat(4 << 20), &["too large to be read as YAML"]);
    refuse(format!("[{}]", "{\"\":0},".repeat(1 << 20)), &["more values than a manifest has"]);
    refuse(vec![b' '; MAX_BYTES + 1], &["at most 16777216"]);
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 10].join(",");
        bomb += &format!("a{i}: &a{i} [{refs}]\n");
    }
    refuse(bomb, &["aliases"]);
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), "*a,".repeat(100_000));
    refuse(long, &["aliases"]);
    refuse("a: &a [*a]", &["nested more than 100 deep"]);
}

#[test]
fn yaml_is_written_in_the_style_of_kubectl() {
    let value = json!({
        "apiVersion": "v1",
        "items": [{"a": 1, "b": ["x", ["y", "z"], [], {}]}, "plain text", []],
        "empty": {"map": {}, "list": [], "text": "", "null": null},
        "script": "#!/bin/sh\nset -e\n\n  indented\n",
        "noeol": "a\nb",
        "more": "a\n\n",
        "quoted": ["yes", "No", "on", "~", "1", "1e3", "0x1F", "1_000", "12:30", "2014-11-25", "2014-11-25T00:00:00Z",
            ".inf", "=", "<<", "true", "null", "-1.5", "0o7", "010"],
        "single": ["a: b", "#x", "a #b", "*x", "- x", "[a]", "it: 's", "x:", "@a", "%a", " a", "-", "---"],
        "plain": ["10.244.0.5", "a:b", "nginx:1.29", "-c", "--port=80", "a#b", "it's", "v1.2.3", "http://x/y?z=1&w"],
        "escaped": ["\u{7}", "\u{85}", "\t", "\n", " a\nb", "\u{feff}", "\r\n"],
    });
    let expected = "\
apiVersion: v1
empty:
  list: []
  map: {}
  'null': null
  text: \"\"
escaped:
- \"\\u0007\"
- \"\\u0085\"
- \"\\t\"
- \"\\n\"
- \" a\\nb\"
- \"\\uFEFF\"
- \"\\r\\n\"
items:
- a: 1
  b:
  - x
  - - \"y\"
    - z
  - []
  - {}
- plain text
- []
more: |+
  a

noeol: |-
  a
  b
plain:
- 10.244.0.5
- a:b
- nginx:1.29
- -c
- --port=80
- a#b
- it's
- v1.2.3
- http://x/y?z=1&w
quoted:
";
    let yaml = to_yaml(&value);
    let expected = expected.replace("'null'", "\"null\"");
    assert!(yaml.starts_with(&expected), "{yaml}");
    let quoted: Vec<_> = value["quoted"].as_array().unwrap().iter().map(|v| format!("- {v}\n")).collect();
    assert!(yaml.contains(&quoted.concat()), "{yaml}");
    assert!(yaml.contains("script: |\n  #!/bin/sh\n  set -e\n\n    indented\nsingle:\n- 'a: b'\n- '#x'\n"), "{yaml}");
    assert!(yaml.contains("- 'it: ''s'\n"), "{yaml}");
    assert_eq!(parse_documents(yaml.as_bytes()).unwrap(), [value]);
}

#[test]
fn scalars_alone_are_documents_too() {
    for value in [json!("a\nb\n"), json!(1), json!([]), json!({}), json!("x"), json!("---")] {
        assert_eq!(parse_documents(to_yaml(&value).as_bytes()).unwrap(), [value]);
    }
    assert_eq!(to_yaml(&Value::Null), "null\n");
}

/// Strings that are dangerous in YAML, besides arbitrary ones.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,12}",
        "[-+.0-9eExX_:,a-fT ]{0,12}",
        "[ \t\n#:a|>'\"\\\\-]{0,12}",
        proptest::collection::vec(any::<char>(), 0..8).prop_map(String::from_iter),
        proptest::sample::select(vec![
            "yes", "NO", "Null", "~", "...", "---", "--- a", "<<", "=", "0b1", "1:2", "inf", "+.5"
        ])
        .prop_map(str::to_owned),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // The JSON decoder is exact to the last digit only for short fractions.
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 1000.0)),
        any_text().prop_map(Value::from),
    ];
    let key = any_text().prop_filter("read as a merge", |k| k != "<<").boxed();
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_written_reads_back(value in any_value().prop_filter("skipped as empty", |v| !v.is_null())) {
        let yaml = to_yaml(&value);
        prop_assert_eq!(parse_documents(yaml.as_bytes()).map_err(|e| e.message), Ok(vec![value]), "{}", yaml);
    }

    #[test]
    fn json_reads_back_too(value in any_value().prop_filter("no document", |v| v.is_object() || v.is_array())) {
        prop_assert_eq!(parse_documents(value.to_string().as_bytes()).unwrap(), vec![value]);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_documents(&bytes);
    }

    #[test]
    fn any_text_like_yaml_is_read_or_refused(text in "([-?:,\\[\\]{}#&*!|>'\"%@` \ta1é\n]|<<|: |- |---|&a|\\*a|!!){0,60}") {
        if let Err(error) = parse_documents(text.as_bytes()) {
            prop_assert_eq!(error.code(), 400);
        }
    }
}
