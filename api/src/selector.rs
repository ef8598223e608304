//! Label and field selectors: the query languages of list and watch.
//!
//! Grammar of the label form (the one of current Kubernetes): comma-separated requirements, all
//! of which must hold: `k=v`, `k==v`, `k!=v`, `k in (a,b)`, `k notin (a,b)`, `k`, `!k`. The 2014
//! form (spec §1.7) has the first three only, and a missing key reads as "".

use crate::{StringMap, error::ApiError};

/// One requirement on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    op: Op,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    /// The value is one of these.
    In(Vec<String>),
    /// The value is none of these, or the key is missing.
    NotIn(Vec<String>),
    Exists,
    Missing,
    /// The value is "" or the key is missing: `k=` of 2014.
    Empty,
    /// The value is anything else: `k!=` of 2014.
    NotEmpty,
}

/// A parsed label selector. The empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Parses the current grammar. `Err` is a 400 that quotes the faulty requirement.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let requirements = split_outside_parens(text)
            .into_iter()
            .filter(|term| !term.trim().is_empty())
            .map(|term| parse_requirement(term.trim()))
            .collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }

    /// Parses the 2014 grammar, where `k=` also matches objects without `k`.
    pub fn parse_v1beta1(text: &str) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        for term in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let (key, equal, value) =
                split_equality(term).ok_or_else(|| bad(term, "expected key=value or key!=value"))?;
            let op = match (equal, value) {
                (true, "") => Op::Empty,
                (false, "") => Op::NotEmpty,
                (true, v) => Op::In(vec![v.to_owned()]),
                (false, v) => Op::NotIn(vec![v.to_owned()]),
            };
            requirements.push(Requirement { key: key.to_owned(), op });
        }
        Ok(Self { requirements })
    }

    /// The selector that wants exactly these pairs, as in a service or replication controller.
    pub fn of_map(map: &StringMap) -> Self {
        let requirements =
            map.iter().map(|(k, v)| Requirement { key: k.clone(), op: Op::In(vec![v.clone()]) }).collect();
        Self { requirements }
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether labels, given by a look-up, satisfy all requirements.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| {
            let value = label(&r.key);
            match &r.op {
                Op::In(wanted) => value.is_some_and(|v| wanted.iter().any(|w| w == v)),
                Op::NotIn(unwanted) => value.is_none_or(|v| !unwanted.iter().any(|w| w == v)),
                Op::Exists => value.is_some(),
                Op::Missing => value.is_none(),
                Op::Empty => value.is_none_or(str::is_empty),
                Op::NotEmpty => value.is_some_and(|v| !v.is_empty()),
            }
        })
    }

    /// Whether a label map satisfies all requirements.
    pub fn matches(&self, labels: Option<&StringMap>) -> bool {
        self.matches_with(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
    }
}

/// Whether the equality selector of a service or replication controller picks these labels. An
/// empty selector picks nothing.
pub fn selects(selector: Option<&StringMap>, labels: Option<&StringMap>) -> bool {
    match selector {
        Some(s) if !s.is_empty() => s.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)),
        _ => false,
    }
}

/// A parsed field selector: `field=value` and `field!=value`, comma-separated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses the text. Whether the fields exist is the row's matter: see [`FieldSelector::fields`].
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for term in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let (field, equal, value) =
                split_equality(term).ok_or_else(|| bad(term, "expected field=value or field!=value"))?;
            terms.push((field.to_owned(), equal, value.to_owned()));
        }
        Ok(Self { terms })
    }

    /// The fields it names.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|(field, _, _)| field.as_str())
    }

    /// Renames fields, for the 2014 names.
    pub fn rename(&mut self, rename: impl Fn(&str) -> Option<&'static str>) {
        for (field, _, _) in &mut self.terms {
            if let Some(new) = rename(field) {
                *field = new.to_owned();
            }
        }
    }

    /// The value that `field` must have, if there is one: lets an index answer the query.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|(f, equal, _)| *equal && f == field).map(|(_, _, v)| v.as_str())
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether fields, given by a look-up, satisfy all terms. A missing field reads as "".
    pub fn matches_with<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|(f, equal, wanted)| (value(f).unwrap_or_default() == wanted) == *equal)
    }
}

fn bad(term: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse selector requirement '{term}': {why}"))
}

/// (key, whether equal, value)
fn split_equality(term: &str) -> Option<(&str, bool, &str)> {
    let (key, equal, value) = if let Some((k, v)) = term.split_once("!=") {
        (k, false, v)
    } else if let Some((k, v)) = term.split_once("==") {
        (k, true, v)
    } else {
        let (k, v) = term.split_once('=')?;
        (k, true, v)
    };
    let (key, value) = (key.trim(), value.trim());
    (!key.is_empty() && !key.contains(char::is_whitespace) && !value.contains(['=', '!']))
        .then_some((key, equal, value))
}

fn split_outside_parens(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0u32, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(term: &str) -> Result<Requirement, ApiError> {
    if let Some((key, equal, value)) = split_equality(term) {
        let values = vec![value.to_owned()];
        let op = if equal { Op::In(values) } else { Op::NotIn(values) };
        return Ok(Requirement { key: key.to_owned(), op });
    }
    if term.contains('=') {
        return Err(bad(term, "expected key=value"));
    }
    if let Some(key) = term.strip_prefix('!') {
        return plain_key(key.trim(), term).map(|key| Requirement { key, op: Op::Missing });
    }
    let Some((key, rest)) = term.split_once(char::is_whitespace) else {
        return plain_key(term, term).map(|key| Requirement { key, op: Op::Exists });
    };
    let rest = rest.trim();
    let (op, list): (fn(Vec<String>) -> Op, _) = if let Some(list) = rest.strip_prefix("notin") {
        (Op::NotIn, list)
    } else if let Some(list) = rest.strip_prefix("in") {
        (Op::In, list)
    } else {
        return Err(bad(term, "expected 'in' or 'notin'"));
    };
    let values = list
        .trim()
        .strip_prefix('(')
        .and_then(|l| l.strip_suffix(')'))
        .ok_or_else(|| bad(term, "expected a list in parentheses"))?;
    Ok(Requirement { key: plain_key(key, term)?, op: op(values.split(',').map(|v| v.trim().to_owned()).collect()) })
}

fn plain_key(key: &str, term: &str) -> Result<String, ApiError> {
    let ok = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    ok.then(|| key.to_owned()).ok_or_else(|| bad(term, "not a label key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> StringMap {
        text.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    fn check(selector: &str, object: &str, expected: bool) {
        let parsed = LabelSelector::parse(selector).unwrap();
        assert_eq!(parsed.matches(Some(&labels(object))), expected, "{selector} on {object}");
    }

    #[test]
    fn label_selectors_follow_the_current_grammar() {
        check("", "a=1", true);
        check("a=1", "a=1,b=2", true);
        check("a==1,b!=2", "a=1,b=3", true);
        check("a!=1", "b=1", true);
        check("a=", "b=1", false);
        check("a in (1, 2)", "a=2", true);
        check("a in (1,2),b", "a=2", false);
        check("a notin (1,2)", "a=3", true);
        check("a notin (1,2)", "", true);
        check("!a", "a=1", false);
        check("a", "a=", true);
    }

    #[test]
    fn a_missing_key_reads_as_empty_in_v1beta1() {
        let s = LabelSelector::parse_v1beta1("a=,b!=2").unwrap();
        assert!(s.matches(Some(&labels("c=1"))));
        assert!(!s.matches(Some(&labels("a=1"))));
        assert!(s.matches(Some(&labels("a="))));
        let s = LabelSelector::parse_v1beta1("a!=").unwrap();
        assert!(s.matches(Some(&labels("a=1"))));
        assert!(!s.matches(Some(&labels("a="))));
        assert!(LabelSelector::parse_v1beta1("a in (b)").is_err());
    }

    #[test]
    fn broken_selectors_are_refused_with_the_term() {
        for text in ["=v", "a in 1", "a b c", "a=b=c", "a!", "in (x)=y"] {
            let error = LabelSelector::parse(text).unwrap_err();
            assert_eq!(error.code(), 400, "{text}");
            assert!(error.message.contains('\''), "{}", error.message);
        }
    }

    #[test]
    fn field_selectors_compare_missing_as_empty() {
        let s = FieldSelector::parse("spec.nodeName=,status.phase!=Failed").unwrap();
        assert!(s.matches_with(|f| (f == "status.phase").then_some("Running")));
        assert!(!s.matches_with(|_| Some("Failed")));
        assert_eq!(s.exact("spec.nodeName"), Some(""));
    }
}
