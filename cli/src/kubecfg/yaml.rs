//! YAML with the fields in a given order, in the style of 0.5.4: two spaces, dashes not indented.
//!
//! Invariant: what is a string in the model reads back as a string.

use serde_json::Value;

/// A document whose maps keep their order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Map(Vec<(String, Node)>),
    List(Vec<Node>),
    Text(String),
    /// Numbers, booleans, null: printed as they are.
    Plain(String),
}

impl Node {
    /// JSON as it is, maps in the order of their keys.
    pub(crate) fn of(value: &Value) -> Self {
        match value {
            Value::Object(map) => Node::Map(map.iter().map(|(k, v)| (k.clone(), Node::of(v))).collect()),
            Value::Array(items) => Node::List(items.iter().map(Node::of).collect()),
            Value::String(text) => Node::Text(text.clone()),
            other => Node::Plain(other.to_string()),
        }
    }

    /// The document, ending in a line break.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        match self {
            Node::Map(map) if !map.is_empty() => write_map(&mut out, map, 0, false),
            Node::List(items) if !items.is_empty() => write_list(&mut out, items, 0),
            scalar => {
                out.push_str(&inline(scalar));
                out.push('\n');
            }
        }
        out
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Writes the entries; the first follows a dash when `after_dash`.
fn write_map(out: &mut String, map: &[(String, Node)], depth: usize, after_dash: bool) {
    for (i, (key, value)) in map.iter().enumerate() {
        if i > 0 || !after_dash {
            indent(out, depth);
        }
        out.push_str(&scalar(key));
        out.push(':');
        match value {
            Node::Map(map) if !map.is_empty() => {
                out.push('\n');
                write_map(out, map, depth + 1, false);
            }
            Node::List(items) if !items.is_empty() => {
                out.push('\n');
                write_list(out, items, depth);
            }
            other => {
                out.push(' ');
                out.push_str(&inline(other));
                out.push('\n');
            }
        }
    }
}

fn write_list(out: &mut String, items: &[Node], depth: usize) {
    for item in items {
        indent(out, depth);
        out.push('-');
        match item {
            Node::Map(map) if !map.is_empty() => {
                out.push(' ');
                write_map(out, map, depth + 1, true);
            }
            Node::List(items) if !items.is_empty() => {
                out.push('\n');
                write_list(out, items, depth + 1);
            }
            other => {
                out.push(' ');
                out.push_str(&inline(other));
                out.push('\n');
            }
        }
    }
}

fn inline(node: &Node) -> String {
    match node {
        Node::Map(_) => "{}".to_owned(),
        Node::List(_) => "[]".to_owned(),
        Node::Text(text) => scalar(text),
        Node::Plain(text) => text.clone(),
    }
}

/// A string, quoted where a YAML 1.1 reader would take it for something else.
fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let indicator = "-?:,[]{}#&*!|>'\"%@`~=<".contains(first);
    let dash_word = matches!(first, '-' | '?' | ':') && text.chars().nth(1).is_some_and(|c| !c.is_whitespace());
    (!indicator || (dash_word && !text.starts_with("---")))
        && !text.chars().any(must_escape)
        && !text.starts_with(' ')
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !reads_as_other(text)
}

/// Whether YAML 1.1 takes the word for a boolean, null or number.
fn reads_as_other(text: &str) -> bool {
    const WORDS: [&str; 11] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "<<"];
    let lower = text.to_ascii_lowercase();
    if WORDS.contains(&lower.as_str()) || [".inf", "-.inf", "+.inf", ".nan"].contains(&lower.as_str()) {
        return true;
    }
    let number = lower.strip_prefix(['-', '+']).unwrap_or(&lower).replace('_', "");
    let radix = |p: &str, r| number.strip_prefix(p).is_some_and(|d| u128::from_str_radix(d, r).is_ok());
    let float = number.starts_with(|c: char| c.is_ascii_digit() || c == '.') && number.parse::<f64>().is_ok();
    let sexagesimal = number.contains(':') && number.chars().all(|c| c.is_ascii_digit() || c == ':' || c == '.');
    float || radix("0x", 16) || radix("0b", 2) || radix("0o", 8) || sexagesimal
}

/// Control characters, and what YAML takes for line breaks or a byte order mark.
fn must_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn quoted(text: &str) -> String {
    // JSON's escapes are a subset of YAML's.
    let json = Value::from(text).to_string();
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if must_escape(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_lists_and_maps_are_laid_out_without_indented_dashes() {
        let node = Node::of(&json!({"a": {"b": [{"c": 1, "d": ["x", "z"]}, {}], "e": []}, "f": "21", "g": null}));
        assert_eq!(
            node.render(),
            "a:\n  b:\n  - c: 1\n    d:\n    - x\n    - z\n  - {}\n  e: []\nf: \"21\"\ng: null\n"
        );
    }

    #[test]
    fn strings_are_quoted_only_where_they_would_change() {
        for plain in ["jenkins", "a/b:1.2", "2026-11-23T05:38:03Z", "-c", "http://$X:$Y -m", "0d0e-84", "10.0.0.1"] {
            assert_eq!(scalar(plain), plain);
        }
        for text in ["", "21", "null", "yes", "1.5", "0x1f", "12:30", "a: b", "a #b", "- a", "x:", "*a", "é\n", " a"] {
            assert!(scalar(text).starts_with('"'), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_string_reads_back_as_itself(text in "\\PC{0,20}|[ -~\\n\\t]{0,20}", key in "[ -~]{1,8}") {
            let node = Node::Map(vec![(key.clone(), Node::List(vec![Node::Text(text.clone())]))]);
            let back: Value = serde_yaml::from_str(&node.render()).unwrap();
            prop_assert_eq!(back, json!({ key: [text] }));
        }
    }
}
