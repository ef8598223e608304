//! Objects as rows under columns: the form in which kubectl asks for what it prints.
//!
//! The columns are [`coracle_api::columns`], the same that our own client shows.

use std::sync::Arc;

use coracle_api::{Kind, columns};
use http::{HeaderMap, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::query::Query;
use crate::registry::Entry;

/// What each row carries of its object: the parameter `includeObject`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Include {
    Nothing,
    Metadata,
    Object,
}

/// A table that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    include: Include,
}

impl Table {
    /// Whether the caller takes a `meta.k8s.io/v1` Table first of all. Clients that don't know it
    /// don't ask.
    pub(crate) fn wanted(headers: &HeaderMap, query: &Query) -> Option<Self> {
        let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
        let first = accept.split(',').next()?;
        let has = |wanted: &str| first.split(';').any(|part| part.trim() == wanted);
        if !(has("application/json") && has("as=Table") && has("g=meta.k8s.io") && has("v=v1")) {
            return None;
        }
        let include = match query.get("includeObject") {
            Some("None") => Include::Nothing,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        };
        Some(Self { include })
    }

    /// The table of these objects, under the metadata of the list: JSON, as it goes on the wire.
    pub(crate) fn of(&self, kind: &Kind, entries: &[Arc<Entry>], list_meta: &str) -> Vec<u8> {
        let now = Timestamp::now();
        let short = columns::header(kind, false).len();
        let definitions: Vec<Value> = columns::header(kind, true)
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let format = if *name == "NAME" { "name" } else { "" };
                json!({"name": name, "type": "string", "format": format, "description": "",
                    "priority": i32::from(i >= short)})
            })
            .collect();
        let head = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{list_meta},\"columnDefinitions\":{},\"rows\":[",
            Value::Array(definitions)
        );
        let mut out = head.into_bytes();
        for (i, entry) in entries.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(self.row(kind, entry, now).to_string().as_bytes());
        }
        out.extend_from_slice(b"]}\n");
        out
    }

    fn row(&self, kind: &Kind, entry: &Entry, now: Timestamp) -> Value {
        let object: Value = serde_json::from_slice(&entry.json).unwrap_or_default();
        let mut row = json!({"cells": columns::row(kind, &object, true, now)});
        match self.include {
            Include::Nothing => {}
            Include::Metadata => {
                let (kind, version) = ("PartialObjectMetadata", "meta.k8s.io/v1");
                row["object"] = json!({"kind": kind, "apiVersion": version, "metadata": object["metadata"]});
            }
            Include::Object => row["object"] = object,
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_for_those_who_ask_for_it_first() {
        let wanted = |accept: &str, query: &str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            Table::wanted(&headers, &Query::parse(query).unwrap()).map(|table| table.include)
        };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                       application/json";
        assert_eq!(wanted(kubectl, ""), Some(Include::Metadata));
        assert_eq!(wanted(kubectl, "includeObject=Object"), Some(Include::Object));
        assert_eq!(
            wanted("application/json; as=Table; g=meta.k8s.io; v=v1", "includeObject=None"),
            Some(Include::Nothing)
        );
        for other in ["application/json", "*/*", "application/json;as=Table;v=v1beta1;g=meta.k8s.io", ""] {
            assert_eq!(wanted(other, ""), None, "{other}");
        }
    }
}
