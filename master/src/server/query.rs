//! The query string of a request, decoded once.

use coracle_api::ApiError;

/// Decoded pairs in the order they were sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Decodes `a=1&b=x%20y+z`. A pair without `=` has the value "".
    pub(crate) fn parse(raw: &str) -> Result<Self, ApiError> {
        let decoded = |text: &str| {
            decode(text, true).ok_or_else(|| ApiError::bad_request(format!("the query '{text}' is not valid UTF-8")))
        };
        let pairs = raw
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decoded(name)?, decoded(value)?))
            })
            .collect::<Result<_, ApiError>>()?;
        Ok(Self { pairs })
    }

    /// The first value of a parameter; `None` when absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next().filter(|v| !v.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A switch: `true` or `1`, anything else is off.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v == "1" || v.eq_ignore_ascii_case("true"))
    }

    /// A number of at least 0.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let parse = |v: &str| {
            v.parse().map_err(|_| ApiError::bad_request(format!("the parameter {name}='{v}' is not a whole number")))
        };
        self.get(name).map(parse).transpose()
    }
}

/// Percent-decodes a path segment or, with `plus`, a query part. `None` if the result is not UTF-8.
pub(crate) fn decode(text: &str, plus: bool) -> Option<String> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Some(text.to_owned());
    }
    let hex = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16));
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        match (bytes[i], hex(bytes.get(i + 1)), hex(bytes.get(i + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 2;
            }
            (b'+', ..) if plus => out.push(b' '),
            (other, ..) => out.push(other),
        }
        i += 1;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_and_kept_in_order() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&command=ls&command=-l+x&watch=1&empty&bad=%zz").unwrap();
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["ls", "-l x"]);
        assert!(query.flag("watch") && !query.flag("follow"));
        assert_eq!(query.get("empty"), None);
        assert_eq!(query.get("bad"), Some("%zz"));
    }

    #[test]
    fn what_is_not_text_or_not_a_number_is_refused() {
        assert_eq!(Query::parse("a=%ff").unwrap_err().code(), 400);
        let query = Query::parse("limit=-1&timeoutSeconds=x&ok=7").unwrap();
        assert_eq!(query.number("limit").unwrap_err().code(), 400);
        assert!(query.number("timeoutSeconds").unwrap_err().message.contains("timeoutSeconds='x'"));
        assert_eq!(query.number("ok").unwrap(), Some(7));
        assert_eq!(query.number("none").unwrap(), None);
    }
}
