//! Names of slaves and hosts.

use std::fmt;

const LENGTH_MAX: usize = 253;

/// The name of a slave or a host: letters, digits, `.`, `_` and `-`, at most 253 of them. So it is one word in a line of a
/// protocol or a file, and safe wherever it is printed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name, if the text is one.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let valid = (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(allowed);
        valid.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_short_harmless_word() {
        for good in ["a", "jenkins-slave-x7.example", "A_1"] {
            assert_eq!(Name::parse(good).map(|name| name.to_string()), Some(good.to_owned()));
        }
        for bad in ["", "a b", "<b>", "é", "a\n", &"a".repeat(254)] {
            assert_eq!(Name::parse(bad), None, "{bad:?}");
        }
    }
}
