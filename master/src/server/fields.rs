//! Whether every field of one JSON text is in another: the quick answer to "does the typed object
//! know all that came in", which is nearly always yes.
//!
//! Each field is a hash of its path, so nothing but numbers is kept of either text. Two paths with
//! one hash (one pair in 2^64) would hide an unknown field from its warning, and do no other harm.

use std::{fmt, hash::BuildHasher};

use foldhash::fast::FixedState;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Whether `input` names no field twice, and none but those with the value null that `typed` does
/// not name. `None` when one of them is not JSON.
pub(crate) fn are_known(input: &[u8], typed: &[u8]) -> Option<bool> {
    let (mut input, mut typed) = (paths(input)?, paths(typed)?);
    input.sort_unstable();
    typed.sort_unstable();
    let twice = input.windows(2).any(|pair| pair[0] == pair[1]);
    let mut known = typed.iter();
    Some(!twice && input.iter().all(|path| known.by_ref().any(|k| k == path)))
}

fn paths(json: &[u8]) -> Option<Vec<u64>> {
    let mut paths = Vec::with_capacity(128);
    let mut de = serde_json::Deserializer::from_slice(json);
    Walk { path: 0, paths: &mut paths }.deserialize(&mut de).ok()?;
    Some(paths)
}

/// Goes through a value; tells whether it is null.
struct Walk<'a> {
    path: u64,
    paths: &'a mut Vec<u64>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<bool, D::Error> {
        de.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(true)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        for index in 0_u64.. {
            let path = FixedState::with_seed(self.path).hash_one(index);
            if seq.next_element_seed(Walk { path, paths: &mut *self.paths })?.is_none() {
                break;
            }
        }
        Ok(false)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        while let Some(path) = map.next_key_seed(Key { parent: self.path })? {
            let at = self.paths.len();
            self.paths.push(path);
            if map.next_value_seed(Walk { path, paths: &mut *self.paths })? {
                self.paths.truncate(at);
            }
        }
        Ok(false)
    }
}

/// Hashes a key without keeping it.
struct Key {
    parent: u64,
}

impl<'de> DeserializeSeed<'de> for Key {
    type Value = u64;
    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<u64, D::Error> {
        de.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = u64;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }
    fn visit_str<E>(self, key: &str) -> Result<u64, E> {
        Ok(FixedState::with_seed(self.parent).hash_one(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, typed: &str, expected: Option<bool>) {
        assert_eq!(are_known(input.as_bytes(), typed.as_bytes()), expected, "{input} in {typed}");
    }

    #[test]
    fn fields_are_known_by_their_whole_path() {
        check(
            r#"{"a":1,"b":{"c":[{"d":2},{"e":3}]}}"#,
            r#"{"b":{"c":[{"d":0},{"e":0}],"x":1},"a":0,"y":0}"#,
            Some(true),
        );
        check(r#"{"a":{"c":1}}"#, r#"{"b":{"c":1},"a":{}}"#, Some(false));
        check(r#"{"a":[{"d":1},{"d":1}]}"#, r#"{"a":[{"d":1},{"e":1}]}"#, Some(false));
        check(r#"{"a\u0062":1}"#, r#"{"ab":1}"#, Some(true));
        check("{}", "{}", Some(true));
    }

    #[test]
    fn what_is_null_need_not_be_known_and_what_comes_twice_is_not() {
        check(r#"{"a":null,"b":{"c":null}}"#, r#"{"b":{}}"#, Some(true));
        check(r#"{"a":1,"a":1}"#, r#"{"a":1}"#, Some(false));
        check(r#"{"a":{"b":1},"a":{"c":1}}"#, r#"{"a":{"b":1,"c":1}}"#, Some(false));
    }

    #[test]
    fn nonsense_is_not_judged() {
        check("{", "{}", None);
        check("{}", "[", None);
    }
}
