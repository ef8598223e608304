//! JSON values to text, in the style of `kubectl -o yaml`.
//!
//! A string is plain only if every YAML reader, of version 1.1 too, reads it back as that string.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Words that YAML 1.1 or 1.2 reads as something else, in any case.
const WORDS: [&str; 13] = ["~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "=", "<<", "nan"];

/// Writes a value as YAML: block style, two spaces, the dashes of a list in line with its key,
/// texts of several lines as blocks. Ends with a line break.
///
/// ```
/// let value = serde_json::json!({"command": ["sh", "-c", "yes"], "env": {"A": "1"}});
/// let yaml = coracle_api::yaml::to_yaml(&value);
/// assert_eq!(yaml, "command:\n- sh\n- -c\n- \"yes\"\nenv:\n  A: \"1\"\n");
/// ```
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(&mut out, map, 0),
        Value::Array(list) if !list.is_empty() => write_list(&mut out, list, 0),
        scalar => {
            write_scalar(&mut out, scalar, 2);
            out.push('\n');
        }
    }
    out
}

/// The entries of a map; the cursor stands where the first key goes.
fn write_map(out: &mut String, map: &Map<String, Value>, indent: usize) {
    for (i, (key, value)) in map.iter().enumerate() {
        if i > 0 {
            pad(out, indent);
        }
        write_text(out, key);
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                pad(out, indent + 2);
                write_map(out, inner, indent + 2);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                pad(out, indent);
                write_list(out, list, indent);
            }
            scalar => {
                out.push(' ');
                write_scalar(out, scalar, indent + 2);
                out.push('\n');
            }
        }
    }
}

/// The items of a list; the cursor stands where the first dash goes.
fn write_list(out: &mut String, list: &[Value], indent: usize) {
    for (i, value) in list.iter().enumerate() {
        if i > 0 {
            pad(out, indent);
        }
        out.push_str("- ");
        match value {
            Value::Object(inner) if !inner.is_empty() => write_map(out, inner, indent + 2),
            Value::Array(inner) if !inner.is_empty() => write_list(out, inner, indent + 2),
            scalar => {
                write_scalar(out, scalar, indent + 2);
                out.push('\n');
            }
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// Everything but a map or list with entries. `indent` is that of a block's lines.
fn write_scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::String(text) if is_block(text) => write_block(out, text, indent),
        Value::String(text) => write_text(out, text),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// Whether a text of several lines reads back exactly from a block.
fn is_block(text: &str) -> bool {
    let exact = |line: &str| !line.starts_with('\t') && (line.is_empty() || !line.trim_matches([' ', '\t']).is_empty());
    text.contains('\n')
        && !text.starts_with([' ', '\n'])
        && text.split('\n').all(exact)
        && text.chars().all(|c| c == '\n' || c == '\t' || is_printable(c))
}

fn write_block(out: &mut String, text: &str, indent: usize) {
    let body = text.strip_suffix('\n');
    out.push_str(match body {
        None => "|-",
        Some(body) if body.ends_with('\n') => "|+",
        Some(_) => "|",
    });
    for line in body.unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
    }
}

/// A string on one line: plain, in single quotes, or in double quotes.
fn write_text(out: &mut String, text: &str) {
    if text.is_empty() || is_other_type(text) || !text.chars().all(is_printable) {
        write_escaped(out, text);
    } else if is_plain(text) {
        out.push_str(text);
    } else {
        out.push('\'');
        out.push_str(&text.replace('\'', "''"));
        out.push('\'');
    }
}

fn write_escaped(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            c if is_printable(c) => out.write_char(c),
            c if u32::from(c) <= 0xffff => write!(out, "\\u{:04X}", u32::from(c)),
            c => write!(out, "\\U{:08X}", u32::from(c)),
        };
    }
    out.push('"');
}

/// Characters that stand for themselves in every style: printable by the rules of YAML 1.1, and
/// no line break of any version.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}'
        | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

/// Whether the text can stand without quotes, as far as its characters go.
fn is_plain(text: &str) -> bool {
    let dash = text.starts_with('-')
        && !text.starts_with("---")
        && text[1..].starts_with(|c: char| c.is_alphanumeric() || c == '-');
    (dash || !text.starts_with(|c: char| " -?:,[]{}#&*!|>'\"%@`".contains(c)))
        && !text.starts_with("...")
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
}

/// Whether some YAML reads the plain text as a number, date, boolean or null.
fn is_other_type(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    WORDS.contains(&lower.as_str()) || lower.parse::<f64>().is_ok() || is_number(&lower) || is_date(&lower)
}

/// Numbers of YAML 1.1: `0x1f`, `0o7`, `0b1`, `1_000`, `1,000`, `12:30:45`, `.inf`, `.5e3`.
fn is_number(lower: &str) -> bool {
    let digits = lower.strip_prefix(['+', '-']).unwrap_or(lower);
    if matches!(digits, ".inf" | ".nan") {
        return true;
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = digits.strip_prefix(prefix) {
            return rest.chars().all(|c| c == '_' || c.is_digit(radix));
        }
    }
    let plain = digits.replace(['_', ','], "");
    let whole = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let base60 =
        || plain.contains(':') && plain.split(':').all(|part| part.len() <= 12 && whole(&part.replace('.', "")));
    whole(&plain) || plain.parse::<f64>().is_ok() || base60()
}

/// `2014-11-25`, alone or with a time behind it.
fn is_date(lower: &str) -> bool {
    let mut parts = lower.splitn(3, '-');
    let mut number = |lengths: std::ops::RangeInclusive<usize>| {
        parts.next().is_some_and(|p| lengths.contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
    };
    number(4..=4) && number(1..=2) && parts.next().is_some_and(|p| p.starts_with(|c: char| c.is_ascii_digit()))
}
