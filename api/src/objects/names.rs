//! The syntax of names: one predicate and one sentence per rule of current Kubernetes.
//!
//! Owns no policy: which field follows which rule is said where the field is validated.

use crate::{FieldErrors, StringMap};

/// A rule on a text, and the sentence that states it.
#[derive(Debug, Clone, Copy)]
pub struct Syntax {
    holds: fn(&str) -> bool,
    /// What a text must be, for error messages: "must be …".
    pub rule: &'static str,
}

impl Syntax {
    /// Whether the text follows the rule.
    pub fn matches(&self, text: &str) -> bool {
        (self.holds)(text)
    }

    /// Records a fault at `path` unless the text follows the rule; an empty text is a missing one.
    pub fn check(&self, path: impl Into<String>, text: &str, errors: &mut FieldErrors) {
        if text.is_empty() {
            errors.required(path, self.rule);
        } else if !self.matches(text) {
            errors.invalid(path, Shown(text), self.rule);
        }
    }
}

/// A user's text in an error: long ones are cut, so that the answer stays readable and bounded.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.char_indices().nth(100) {
            Some((end, _)) => write!(f, "{}…", &self.0[..end]),
            None => f.write_str(self.0),
        }
    }
}

/// RFC 1123 label: names of containers, volumes, ports and namespaces.
pub const DNS_LABEL: Syntax = Syntax {
    holds: is_dns_label,
    rule: "must be at most 63 lower-case letters, digits or '-', starting and ending with a letter or digit",
};

/// RFC 1123 subdomain: names of most kinds.
pub const DNS_SUBDOMAIN: Syntax = Syntax {
    holds: is_dns_subdomain,
    rule: "must be at most 253 lower-case letters, digits, '-' or '.', each part between dots starting and ending \
           with a letter or digit",
};

/// RFC 1035 label: names of services, which become names of variables.
pub const DNS_1035_LABEL: Syntax = Syntax {
    holds: |t| is_dns_label(t) && t.starts_with(|c: char| c.is_ascii_lowercase()),
    rule: "must be at most 63 lower-case letters, digits or '-', starting with a letter and ending with a letter or digit",
};

/// A name for a port, which a target port can refer to. Longer than the 15 characters of IANA
/// names, because 2014 manifests have longer ones.
pub const PORT_NAME: Syntax = Syntax {
    holds: |t| is_dns_label(t) && t.contains(|c: char| c.is_ascii_lowercase()),
    rule: "must be at most 63 lower-case letters, digits or '-', with at least one letter",
};

/// A key of a label or annotation: `[prefix/]name`.
pub const QUALIFIED_NAME: Syntax = Syntax {
    holds: |t| match t.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_plain_name(name),
        None => is_plain_name(t),
    },
    rule: "must be a name of at most 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit, \
           with an optional DNS prefix and '/' before it, such as example.com/app",
};

/// The value of a label; may be empty.
pub const LABEL_VALUE: Syntax = Syntax {
    holds: |t| t.is_empty() || is_plain_name(t),
    rule: "must be at most 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit",
};

/// The name of an environment variable.
pub const ENV_NAME: Syntax = Syntax {
    holds: |t| !t.is_empty() && t.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'='),
    rule: "must be printable ASCII characters other than '='",
};

/// The name of an HTTP header.
pub const HEADER_NAME: Syntax = Syntax {
    holds: |t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
    rule: "must be letters, digits or '-'",
};

/// Labels and everything that selects by labels.
pub fn check_labels(path: &str, labels: Option<&StringMap>, errors: &mut FieldErrors) {
    for (key, value) in labels.into_iter().flatten() {
        QUALIFIED_NAME.check(path, key, errors);
        if !LABEL_VALUE.matches(value) {
            errors.invalid(path, format_args!("{}={}", Shown(key), Shown(value)), LABEL_VALUE.rule);
        }
    }
}

fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    matches_edges(text, 63, inner, |b| inner(b) || b == b'-')
}

fn is_dns_subdomain(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 253 && text.split('.').all(|part| matches_edges(part, 253, inner, |b| inner(b) || b == b'-'))
}

fn is_plain_name(text: &str) -> bool {
    matches_edges(text, 63, |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Not empty, at most `max` bytes, `edge` at both ends and `inner` throughout.
fn matches_edges(text: &str, max: usize, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    bytes.len() <= max && edge(*first) && edge(*last) && bytes.iter().all(|b| inner(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(syntax: Syntax, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(syntax.matches(text), "{text:?} {}", syntax.rule);
        }
        for text in bad {
            assert!(!syntax.matches(text), "{text:?} {}", syntax.rule);
        }
    }

    #[test]
    fn names_follow_the_current_rules() {
        let (l63, l64) = ("a".repeat(63), "a".repeat(64));
        check(DNS_LABEL, &["a", "0", "a-b", &l63], &["", "A", "a.b", "-a", "a-", "a_b", "é", &l64]);
        check(DNS_1035_LABEL, &["a", "a1", &l63], &["1a", "", "a.b", &l64]);
        check(DNS_SUBDOMAIN, &["a.b-c", &l64, "10.0.0.1"], &["a..b", ".a", "a.", "a.-b", &"a".repeat(254)]);
        check(PORT_NAME, &["http", "a1", "1a"], &["80", "-", "HTTP", ""]);
        check(
            QUALIFIED_NAME,
            &["app", "App.x_y", "example.com/App", &l63],
            &["", "/a", "a/", "a/b/c", "E.com/a", "-a", &l64],
        );
        check(LABEL_VALUE, &["", "V1.0_x", &l63], &["-", "a b", &l64]);
        check(ENV_NAME, &["A", "a.b", "1", "a b"], &["", "A=B", "é", "a\n"]);
    }

    #[test]
    fn long_texts_are_cut_in_errors() {
        let mut errors = FieldErrors::default();
        DNS_LABEL.check("p", &"é".repeat(5000), &mut errors);
        assert!(errors.into_vec()[0].detail.len() < 400);
    }
}
