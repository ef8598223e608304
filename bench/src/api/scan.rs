//! Reads the few values that the load depends on out of JSON text, without decoding it.

use std::sync::LazyLock;

use memchr::memmem::Finder;

static VERSION: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"resourceVersion\":\""));
static SEQUENCE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"seq\":\""));
static CONTINUE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"continue\":\""));

/// The first resourceVersion: that of the object or list itself.
pub(crate) fn version(json: &[u8]) -> Option<u64> {
    number(after(&VERSION, json)?)
}

/// The label `seq`, `WRITER-NUMBER`: who made the change, and which one of his it is.
pub(crate) fn sequence(json: &[u8]) -> Option<(usize, u64)> {
    let text = after(&SEQUENCE, json)?;
    let dash = memchr::memchr(b'-', text)?;
    Some((usize::try_from(number(&text[..dash])?).ok()?, number(&text[dash + 1..])?))
}

/// The token of the next page.
pub(crate) fn next_page(json: &[u8]) -> Option<&str> {
    let text = after(&CONTINUE, json)?;
    let token = std::str::from_utf8(&text[..memchr::memchr(b'"', text)?]).ok()?;
    (!token.is_empty()).then_some(token)
}

fn after<'a>(what: &Finder<'_>, json: &'a [u8]) -> Option<&'a [u8]> {
    json.get(what.find(json)? + what.needle().len()..)
}

/// The digits at the beginning.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_wherever_they_are() {
        let line =
            br#"{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"77","labels":{"seq":"12-345","x":"y"},
            "managedFields":[{"f:seq":{},"resourceVersion":"1"}]}}}"#;
        assert_eq!((version(line), sequence(line), next_page(line)), (Some(77), Some((12, 345)), None));
        let list = br#"{"metadata":{"continue":"a.b-C=","resourceVersion":"9"}}"#;
        assert_eq!((version(list), sequence(list), next_page(list)), (Some(9), None, Some("a.b-C=")));
        assert_eq!(next_page(br#"{"metadata":{"continue":""}}"#), None);
        for broken in [&br#""seq":"x-1""#[..], br#""seq":"1"#, br#""seq":"#, b""] {
            assert_eq!(sequence(broken), None);
        }
    }
}
