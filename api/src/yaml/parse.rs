//! Text to JSON values.
//!
//! Both syntaxes go through one visitor, which refuses what neither decoder refuses by itself:
//! duplicate keys, deep nesting, and more nodes than a manifest has (which also stops alias bombs).

use std::cell::Cell;

use serde::{
    Deserialize,
    de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::error::{ApiError, Reason};

/// Largest text read.
pub const MAX_BYTES: usize = 16 << 20;
/// Deepest nesting of lists and maps; the decoders themselves stop at 128.
pub const MAX_DEPTH: u32 = 100;

/// What all documents of a text together may cost in memory: one per node, four per map, and one
/// per 32 bytes of text. A 16 MiB list of ordinary pods costs about 1.4 million.
const MAX_COST: u64 = 2_000_000;
/// Most bytes that can begin a YAML token, of which the YAML scanner keeps a record each.
const MAX_YAML_TOKENS: usize = 1_000_000;
/// Most brackets in YAML: the scanner's time per token grows with the brackets open in the line,
/// up to a thousand. Worst case about 0.3 s.
const MAX_YAML_BRACKETS: usize = 100_000;
/// Key of a map whose value is merged into the map, by the YAML 1.1 convention.
const MERGE_KEY: &str = "<<";

/// Reads all documents of a JSON or YAML text; empty ones are skipped. JSON with trailing commas,
/// which 2014 accepted, is read as YAML. The error is a 400 that says where and why.
pub fn parse_documents(text: &[u8]) -> Result<Vec<Value>, ApiError> {
    if text.len() > MAX_BYTES {
        let message = format!("the text has {} bytes: at most {MAX_BYTES} are read at once; split it", text.len());
        return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
    }
    let text = std::str::from_utf8(text).map_err(|e| {
        ApiError::bad_request(format!("the text is not UTF-8 (byte {}): save it in that encoding", e.valid_up_to()))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let budget = Cell::new(MAX_COST);
    if text.trim_start().starts_with(['{', '[']) {
        match parse_json(text, &budget) {
            Ok(documents) => return Ok(documents),
            // Well-formed so far, but against a rule: YAML would only say the same less well.
            Err(e) if e.is_data() => return Err(ApiError::bad_request(format!("the JSON is not valid: {e}"))),
            Err(_) => budget.set(MAX_COST),
        }
    }
    parse_yaml(text, &budget)
}

fn parse_json(text: &str, budget: &Cell<u64>) -> Result<Vec<Value>, serde_json::Error> {
    let mut decoder = serde_json::Deserializer::from_str(text);
    let mut documents = Vec::new();
    while decoder.end().is_err() {
        documents.push(Node { budget, depth: 0, yaml: false }.deserialize(&mut decoder)?);
    }
    Ok(documents)
}

fn parse_yaml(text: &str, budget: &Cell<u64>) -> Result<Vec<Value>, ApiError> {
    let count = |bytes: &[u8]| text.bytes().filter(|b| bytes.contains(b)).count();
    if count(b"[{,:?-\n") > MAX_YAML_TOKENS || count(b"[{") > MAX_YAML_BRACKETS {
        return Err(ApiError::bad_request("the text is too large to be read as YAML: split it, or send JSON"));
    }
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Node { budget, depth: 0, yaml: true }.deserialize(document).map_err(yaml_error)?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

fn yaml_error(e: serde_yaml::Error) -> ApiError {
    let text = match e.to_string() {
        text if text.starts_with("repetition limit") => "aliases repeat too much: write the values out".to_owned(),
        text => text,
    };
    // The decoder's own text leaves out the very first place.
    let place = match e.location() {
        Some(at) if !text.contains(" at line ") => format!(" at line {} column {}", at.line(), at.column()),
        _ => String::new(),
    };
    ApiError::bad_request(format!("the YAML is not valid: {text}{place}"))
}

/// Reads one node and what is below it.
#[derive(Clone, Copy)]
struct Node<'b> {
    budget: &'b Cell<u64>,
    depth: u32,
    yaml: bool,
}

impl Node<'_> {
    fn below<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("lists and maps are nested more than {MAX_DEPTH} deep")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn pay<E: de::Error>(self, cost: usize) -> Result<(), E> {
        match self.budget.get().checked_sub(cost as u64) {
            Some(rest) => {
                self.budget.set(rest);
                Ok(())
            }
            None => {
                Err(E::custom("the text stands for more values than a manifest has: split it, or use fewer aliases"))
            }
        }
    }

    fn text<E: de::Error>(self, text: &str) -> Result<String, E> {
        self.pay(1 + text.len() / 32)?;
        Ok(text.to_owned())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.pay(1)?;
        Ok(Value::Null)
    }

    /// An empty document.
    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.pay(1)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.pay(1)?;
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.pay(1)?;
        Ok(value.into())
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.pay(1)?;
        let number = Number::from_f64(value).ok_or_else(|| E::custom("infinity and NaN are no numbers in JSON"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.text(text).map(Value::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.pay(1)?;
        let below = self.below()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(below)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.pay(4)?;
        let below = self.below()?;
        let (mut map, mut merged) = (Map::new(), None);
        while let Some(key) = entries.next_key_seed(Key { node: self, seen: &map, merged: merged.is_some() })? {
            let value = entries.next_value_seed(below)?;
            if self.yaml && key == MERGE_KEY {
                merged = Some(value);
            } else {
                map.insert(key, value);
            }
        }
        match merged {
            None => {}
            Some(Value::Array(sources)) => {
                for source in sources {
                    self.merge(&mut map, source)?;
                }
            }
            Some(source) => self.merge(&mut map, source)?,
        }
        Ok(Value::Object(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (tag, _) = tagged.variant::<Tag>()?;
        Err(de::Error::custom(format_args!("the tag !{} is not supported: remove it", tag.0)))
    }
}

impl Node<'_> {
    /// Adds the entries that the map does not have itself.
    fn merge<E: de::Error>(self, map: &mut Map<String, Value>, source: Value) -> Result<(), E> {
        let Value::Object(source) = source else {
            return Err(E::custom(
                "the value of '<<' must be a map or a list of maps, as a rule an alias such as *base",
            ));
        };
        for (key, value) in source {
            map.entry(key).or_insert(value);
        }
        Ok(())
    }
}

/// Reads a key; numbers and booleans stand for their text, as in `kubectl`.
struct Key<'b, 'm> {
    node: Node<'b>,
    seen: &'m Map<String, Value>,
    merged: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = String;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_, '_> {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a text as key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<String, E> {
        if self.seen.contains_key(key) || self.merged && key == MERGE_KEY {
            let shown: String = key.chars().take(100).collect();
            return Err(E::custom(format_args!("duplicate key {shown:?}: remove one of the two")));
        }
        self.node.text(key)
    }

    fn visit_bool<E: de::Error>(self, key: bool) -> Result<String, E> {
        self.visit_str(if key { "true" } else { "false" })
    }

    fn visit_i64<E: de::Error>(self, key: i64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_u64<E: de::Error>(self, key: u64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_f64<E: de::Error>(self, key: f64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }
}

/// The name of a tag.
struct Tag(String);

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Tag;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a tag")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Tag, E> {
                Ok(Tag(name.chars().take(100).collect()))
            }
        }
        deserializer.deserialize_identifier(Name)
    }
}
