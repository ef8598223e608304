//! The built-in functions, and Go's way to print and to weigh values.

use std::{borrow::Cow, cmp::Ordering};

use serde_json::Value;

type Val<'a> = Cow<'a, Value>;

const FORMAT_WIDTH_MAX: usize = 1000;

/// A built-in function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Or,
    Not,
    Len,
    Index,
    Print,
    Println,
    Printf,
    Html,
    Urlquery,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

const NAMES: [(&str, Function); 16] = [
    ("and", Function::And),
    ("or", Function::Or),
    ("not", Function::Not),
    ("len", Function::Len),
    ("index", Function::Index),
    ("print", Function::Print),
    ("println", Function::Println),
    ("printf", Function::Printf),
    ("html", Function::Html),
    ("urlquery", Function::Urlquery),
    ("eq", Function::Eq),
    ("ne", Function::Ne),
    ("lt", Function::Lt),
    ("le", Function::Le),
    ("gt", Function::Gt),
    ("ge", Function::Ge),
];

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
    }

    pub(super) fn name(self) -> &'static str {
        NAMES.iter().find(|(_, f)| *f == self).map_or("", |(n, _)| n)
    }

    /// Whether this argument of `and` or `or` makes the rest irrelevant.
    pub(super) fn decides_on(self, value: &Value) -> bool {
        match self {
            Function::And => !truth(value),
            Function::Or => truth(value),
            _ => false,
        }
    }

    pub(super) fn call<'a>(self, arguments: &[Val<'a>]) -> Result<Val<'a>, String> {
        let owned = |value: Value| Ok(Cow::Owned(value));
        let text = |text: String| Ok(Cow::Owned(Value::from(text)));
        match (self, arguments) {
            (Function::And | Function::Or, [.., last]) => {
                Ok(arguments.iter().find(|a| self.decides_on(a)).unwrap_or(last).clone())
            }
            (Function::Not, [value]) => owned(Value::from(!truth(value))),
            (Function::Len, [value]) => owned(Value::from(length(value)?)),
            (Function::Index, [value, path @ ..]) => {
                path.iter().try_fold(value.clone(), |value, key| index(value, key))
            }
            (Function::Print, all) => text(print(all)),
            (Function::Println, all) => text(all.iter().map(|v| display(v)).collect::<Vec<_>>().join(" ") + "\n"),
            (Function::Printf, [format, rest @ ..]) => {
                text(printf(format.as_str().ok_or("the format must be a string")?, rest))
            }
            (Function::Html, all) => text(escape_html(&print(all))),
            (Function::Urlquery, all) => text(coracle_api::client::encode(&print(all))),
            (Function::Eq, [first, rest @ ..]) if !rest.is_empty() => {
                let mut equal = false;
                for other in rest {
                    equal |= equals(first, other)?;
                }
                owned(Value::from(equal))
            }
            (Function::Ne, [a, b]) => owned(Value::from(!equals(a, b)?)),
            (Function::Lt, [a, b]) => owned(Value::from(order(a, b)? == Ordering::Less)),
            (Function::Le, [a, b]) => owned(Value::from(order(a, b)? != Ordering::Greater)),
            (Function::Gt, [a, b]) => owned(Value::from(order(a, b)? == Ordering::Greater)),
            (Function::Ge, [a, b]) => owned(Value::from(order(a, b)? != Ordering::Less)),
            _ => Err(format!("wrong number of arguments: {}", arguments.len())),
        }
    }
}

/// Go's truth: not zero, not empty, not nil.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// Go's `%v`, at the top of an action.
pub(super) fn display(value: &Value) -> String {
    if value.is_null() { "<no value>".to_owned() } else { format_v(value) }
}

fn format_v(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(format_v).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<_> = map.iter().map(|(k, v)| format!("{k}:{}", format_v(v))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        Value::Number(n) => match n.as_f64() {
            Some(f) if n.is_f64() => format!("{f}"),
            _ => n.to_string(),
        },
        Value::Bool(b) => b.to_string(),
    }
}

/// Go's name for the type of a decoded JSON value.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Go's Sprint: a space between two operands when neither is a string.
fn print(values: &[Val<'_>]) -> String {
    let mut out = String::new();
    for (i, value) in values.iter().enumerate() {
        if i > 0 && !value.is_string() && !values[i - 1].is_string() {
            out.push(' ');
        }
        out.push_str(&format_v(value));
    }
    out
}

fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::String(s) => Ok(s.len()),
        Value::Array(a) => Ok(a.len()),
        Value::Object(o) => Ok(o.len()),
        other => Err(format!("len of type {}", type_name(other))),
    }
}

fn index<'a>(value: Val<'a>, key: &Value) -> Result<Val<'a>, String> {
    let position = |length: usize| match key.as_i64() {
        Some(i) if usize::try_from(i).is_ok_and(|i| i < length) => Ok(i as usize),
        Some(i) => Err(format!("index out of range: {i}")),
        None => Err(format!("cannot index slice/array with type {}", type_name(key))),
    };
    let name = || key.as_str().ok_or_else(|| format!("value has type {}; should be string", type_name(key)));
    match value {
        Cow::Borrowed(Value::Array(items)) => Ok(Cow::Borrowed(&items[position(items.len())?])),
        Cow::Owned(Value::Array(mut items)) => Ok(Cow::Owned(items.swap_remove(position(items.len())?))),
        Cow::Borrowed(Value::Object(map)) => Ok(map.get(name()?).map_or(Cow::Owned(Value::Null), Cow::Borrowed)),
        Cow::Owned(Value::Object(mut map)) => Ok(Cow::Owned(map.remove(name()?).unwrap_or(Value::Null))),
        other if other.is_null() => Err("index of untyped nil".to_owned()),
        other => Err(format!("can't index item of type {}", type_name(&other))),
    }
}

fn equals(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => Ok(order(a, b)? == Ordering::Equal),
        (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => {
            Err("non-comparable type: a list or a map".to_owned())
        }
        (Value::Null, _) | (_, Value::Null) => Ok(a == b),
        _ if std::mem::discriminant(a) == std::mem::discriminant(b) => Ok(a == b),
        _ => Err(incompatible(a, b)),
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering, String> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        (Value::Number(x), Value::Number(y)) => {
            if let (Some(x), Some(y)) = (x.as_i64(), y.as_i64()) {
                return Ok(x.cmp(&y));
            }
            let (x, y) = (x.as_f64().unwrap_or_default(), y.as_f64().unwrap_or_default());
            x.partial_cmp(&y).ok_or_else(|| incompatible(a, b))
        }
        _ => Err(incompatible(a, b)),
    }
}

fn incompatible(a: &Value, b: &Value) -> String {
    format!("incompatible types for comparison: {} and {}", type_name(a), type_name(b))
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// One `%` directive: flags, width, precision, verb.
#[derive(Default)]
struct Directive {
    left: bool,
    zero: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
    verb: char,
}

fn printf(format: &str, arguments: &[Val<'_>]) -> String {
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = read_directive(&mut chars);
        match directive.verb {
            '%' => out.push('%'),
            '\0' => out.push_str("%!(NOVERB)"),
            verb => {
                match arguments.get(next) {
                    Some(value) => out.push_str(&pad(&directive, apply(&directive, value))),
                    None => out.push_str(&format!("%!{verb}(MISSING)")),
                }
                next += 1;
            }
        }
    }
    if next < arguments.len() {
        let extra: Vec<_> = arguments[next..].iter().map(|v| format!("{}={}", type_name(v), format_v(v))).collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn read_directive(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Directive {
    let mut directive = Directive::default();
    while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
        match flag {
            '-' => directive.left = true,
            '0' => directive.zero = true,
            '+' => directive.plus = true,
            _ => {}
        }
    }
    let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
        let mut n = 0_usize;
        while let Some(digit) = chars.next_if(char::is_ascii_digit) {
            n = (n * 10 + digit as usize - '0' as usize).min(FORMAT_WIDTH_MAX);
        }
        n
    };
    directive.width = number(chars);
    if chars.next_if_eq(&'.').is_some() {
        directive.precision = Some(number(chars));
    }
    directive.verb = chars.next().unwrap_or('\0');
    directive
}

fn apply(directive: &Directive, value: &Value) -> String {
    let sign = |text: String| if directive.plus && !text.starts_with('-') { format!("+{text}") } else { text };
    let whole = value.as_i64().or_else(|| value.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as i64));
    match (directive.verb, value) {
        ('v', _) => format_v(value),
        ('s', Value::String(s)) => s.chars().take(directive.precision.unwrap_or(usize::MAX)).collect(),
        ('q', Value::String(s)) => format!("{s:?}"),
        ('t', Value::Bool(b)) => b.to_string(),
        ('d', Value::Number(_)) if whole.is_some() => sign(whole.unwrap_or_default().to_string()),
        ('x', Value::Number(_)) if whole.is_some() => format!("{:x}", whole.unwrap_or_default()),
        ('x', Value::String(s)) => s.bytes().map(|b| format!("{b:02x}")).collect(),
        ('f' | 'g' | 'e', Value::Number(n)) => {
            let float = n.as_f64().unwrap_or_default();
            sign(match directive.verb {
                'f' => format!("{float:.*}", directive.precision.unwrap_or(6)),
                'e' => format!("{float:.*e}", directive.precision.unwrap_or(6)),
                _ => format!("{float}"),
            })
        }
        (verb, _) => format!("%!{verb}({}={})", type_name(value), format_v(value)),
    }
}

fn pad(directive: &Directive, text: String) -> String {
    let missing = directive.width.saturating_sub(text.chars().count());
    if missing == 0 {
        return text;
    }
    if directive.left {
        return text + &" ".repeat(missing);
    }
    if directive.zero && matches!(directive.verb, 'd' | 'f' | 'x') {
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    " ".repeat(missing) + &text
}
