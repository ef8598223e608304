//! Reading manifests: JSON or YAML, one or several documents, from a file, a directory or stdin.
//!
//! Invariant: duplicate keys are errors, empty documents are skipped, at most 16 MiB are read.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::failure::{Failure, Outcome};

const INPUT_BYTES_MAX: u64 = 16 << 20;
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// One document and where it stands, for messages.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) origin: String,
    pub(crate) value: Value,
}

/// The documents of a text, in order. `Err` says where the text is wrong.
pub(crate) fn parse(text: &str) -> Result<Vec<Value>, String> {
    coracle_api::yaml::parse_documents(text.as_bytes()).map_err(|e| e.message)
}

/// Reads all documents of a file, of the files in a directory (sorted, not deeper), or of stdin
/// for `-`. `List` kinds are taken apart. Finding nothing is an error.
pub(crate) fn read_all(sources: &[String]) -> Outcome<Vec<Document>> {
    let mut documents = Vec::new();
    for source in sources {
        for (origin, text) in read_texts(source)? {
            let values = parse(&text).map_err(|e| Failure::Usage(format!("{origin}: {e}")))?;
            documents
                .extend(values.into_iter().flat_map(unpack).map(|value| Document { origin: origin.clone(), value }));
        }
    }
    if documents.is_empty() {
        return Err(Failure::Usage(format!("no objects in {}", sources.join(", "))));
    }
    Ok(documents)
}

/// The text of one file, or of stdin for `-`.
pub(crate) fn read_text(source: &str) -> std::io::Result<String> {
    let mut text = String::new();
    let read = match source {
        "-" => std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_string(&mut text)?,
        path => std::fs::File::open(path)?.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text)?,
    };
    if read as u64 > INPUT_BYTES_MAX {
        return Err(std::io::Error::other("larger than 16 MiB"));
    }
    Ok(text)
}

fn read_texts(source: &str) -> Outcome<Vec<(String, String)>> {
    let path = Path::new(source);
    let files = if source != "-" && path.is_dir() { manifests_in(path)? } else { vec![path.to_owned()] };
    files
        .into_iter()
        .map(|file| {
            let name = file.display().to_string();
            let text = read_text(&name).map_err(|e| Failure::Usage(format!("cannot read {name}: {e}")))?;
            Ok((if name == "-" { "standard input".to_owned() } else { name }, text))
        })
        .collect()
}

fn manifests_in(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let unreadable = |e| Failure::Usage(format!("cannot read {}: {e}", dir.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let wanted = path.extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e));
        if wanted && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The items of a `List`, or the object itself.
fn unpack(mut value: Value) -> Vec<Value> {
    let kind = value["kind"].as_str().unwrap_or_default();
    let Some(item_kind) = kind.strip_suffix("List").map(str::to_owned) else { return vec![value] };
    let version = value["apiVersion"].clone();
    let Some(Value::Array(mut items)) = value.get_mut("items").map(Value::take) else { return vec![value] };
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        if !item_kind.is_empty() {
            item.entry("kind").or_insert_with(|| item_kind.clone().into());
        }
        item.entry("apiVersion").or_insert_with(|| version.clone());
    }
    items.into_iter().flat_map(unpack).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn several_documents_are_read_and_empty_ones_skipped() {
        assert_eq!(parse("a: 1\n---\n---\n# nothing\n---\nb: 2\n").unwrap(), [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(parse("").unwrap(), Vec::<Value>::new());
    }

    #[test]
    fn json_may_have_trailing_commas() {
        assert_eq!(parse("{\"a\": [1, 2,], \"b\": {},}").unwrap(), [json!({"a": [1, 2], "b": {}})]);
    }

    #[test]
    fn anchors_merge_and_doubled_keys_are_refused() {
        assert_eq!(parse("x: &x {a: 1}\ny: {<<: *x, b: 2}").unwrap()[0]["y"], json!({"a": 1, "b": 2}));
        assert!(parse("a: 1\na: 2\n").unwrap_err().contains("duplicate"));
        assert!(parse("{\"a\": 1, \"a\": 2}").unwrap_err().contains("duplicate"));
    }

    #[test]
    fn lists_are_taken_apart_and_their_items_get_a_kind() {
        let list = json!({"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "a"}}]});
        assert_eq!(unpack(list), [json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}})]);
        let list = json!({"kind": "List", "apiVersion": "v1", "items": [{"kind": "Pod", "apiVersion": "v1"}]});
        assert_eq!(unpack(list), [json!({"kind": "Pod", "apiVersion": "v1"})]);
    }

    #[test]
    fn a_directory_is_read_in_order_and_other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.yaml"), "kind: B").unwrap();
        std::fs::write(dir.path().join("a.json"), "{\"kind\":\"A\"}").unwrap();
        std::fs::write(dir.path().join("notes.txt"), "x").unwrap();
        let read = read_all(&[dir.path().display().to_string()]).unwrap();
        assert_eq!(read.iter().map(|d| d.value["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["A", "B"]);
    }
}
