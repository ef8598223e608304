//! Whether what a store holds makes sense: each value on its own, and all of them together.
//!
//! Takes records one by one, in any order, and keeps names only. A store that passes is one that a
//! registry serves as it is.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use coracle_api::{Kind, Object};

use crate::{
    backup::UNFINISHED,
    cluster::{self, ClusterFacts},
    registry::{CLAIMS, Key},
};

/// Problems that are told; of more only the number.
const PROBLEMS_MAX: usize = 100;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The key concerned.
    pub key: String,
    /// A sentence.
    pub cause: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects that make sense.
    pub objects: u64,
    /// Claims that make sense.
    pub claims: u64,
    /// Records that are neither, and not known here.
    pub others: u64,
    /// The cluster's facts, if there are any.
    pub cluster: Option<ClusterFacts>,
    /// What is wrong, by key; the first [`PROBLEMS_MAX`] only.
    pub problems: Vec<Problem>,
    /// How many are wrong.
    pub problems_found: u64,
}

/// Verifies all records of a store: key, version and value each.
pub fn verify(records: impl IntoIterator<Item = (String, u64, Bytes)>) -> Report {
    let mut verifier = Verifier::default();
    for (key, version, value) in records {
        verifier.take(&key, version, &value);
    }
    verifier.finish()
}

/// Verifies records as they come.
#[derive(Debug, Default)]
pub struct Verifier {
    report: Report,
    /// By claim, the key of the object that has it.
    wanted: HashMap<String, String>,
    /// By claim, the key of the object that the store says has it.
    held: HashMap<String, String>,
    versions: HashSet<u64>,
}

impl Verifier {
    /// Takes one record.
    pub fn take(&mut self, key: &str, version: u64, value: &[u8]) {
        if version == 0 || !self.versions.insert(version) {
            self.problem(key, format!("version {version} is not its own"));
        }
        if let Some(claim) = key.strip_prefix(CLAIMS) {
            match std::str::from_utf8(value) {
                Ok(holder) => drop(self.held.insert(claim.to_owned(), holder.to_owned())),
                Err(_) => self.problem(key, "it does not name its holder"),
            }
        } else if key == cluster::KEY {
            match serde_json::from_slice(value) {
                Ok(facts) => self.report.cluster = Some(facts),
                Err(e) => self.problem(key, format!("the cluster's facts are damaged: {e}")),
            }
        } else if key == UNFINISHED {
            self.problem(key, "a restore was not finished: repeat it with --replace");
        } else if Key::of_stored(key).is_some() {
            match object(key, value) {
                Ok(object) => self.take_object(key, &*object),
                Err(cause) => self.problem(key, cause),
            }
        } else {
            self.report.others += 1;
        }
    }

    fn take_object(&mut self, key: &str, object: &dyn Object) {
        self.report.objects += 1;
        for claim in object.claims() {
            if let Some(other) = self.wanted.insert(claim.clone(), key.to_owned()) {
                self.problem(key, format!("it has {claim}, and so has {other}"));
            }
        }
    }

    /// Says that there are no more.
    pub fn finish(mut self) -> Report {
        for (claim, holder) in std::mem::take(&mut self.held) {
            let key = format!("{CLAIMS}{claim}");
            match self.wanted.remove(&claim) {
                Some(object) if object == holder => self.report.claims += 1,
                Some(object) => self.problem(&key, format!("it is held by {object}, not by {holder}")),
                None => self.problem(&key, format!("{holder} does not have it")),
            }
        }
        for (claim, object) in std::mem::take(&mut self.wanted) {
            self.problem(&object, format!("it has {claim}, and no record claims that for it"));
        }
        self.report.problems.sort();
        self.report
    }

    fn problem(&mut self, key: &str, cause: impl Into<String>) {
        self.report.problems_found += 1;
        if self.report.problems.len() < PROBLEMS_MAX {
            self.report.problems.push(Problem { key: key.to_owned(), cause: cause.into() });
        }
    }
}

/// Reads the object stored at a key, and checks that it belongs there. `Err` is a sentence.
pub fn object(key: &str, value: &[u8]) -> Result<Box<dyn Object>, String> {
    let (plural, named) = Key::of_stored(key).ok_or("it is no object's key, which is KIND/NAMESPACE/NAME")?;
    let kind = Kind::by_plural(plural)
        .filter(|kind| kind.stored)
        .ok_or_else(|| format!("this Coracle stores no kind '{plural}'"))?;
    let object = (kind.decode)(value).map_err(|e| format!("it is no {}: {}", kind.kind, e.message))?;
    let own = Key::of(&*object);
    if own != named || own.name.is_empty() || own.namespace.is_empty() == kind.namespaced {
        return Err(format!("the object in it is {}", own.stored(kind)));
    }
    if object.meta().resource_version.is_some() {
        return Err("the object in it has a resourceVersion, which the store numbers".into());
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> (String, String) {
        let object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}});
        (format!("pods/default/{name}"), object.to_string())
    }

    fn service(name: &str, address: &str) -> (String, String) {
        let object = json!({"kind": "Service", "apiVersion": "v1",
            "metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": address}});
        (format!("services/default/{name}"), object.to_string())
    }

    fn claim(address: &str, service: &str) -> (String, String) {
        (format!("claims/portals/{address}"), format!("services/default/{service}"))
    }

    fn report(records: &[(String, String)]) -> Report {
        let records = records.iter().zip(1..);
        verify(records.map(|((key, value), version)| (key.clone(), version, Bytes::from(value.clone()))))
    }

    /// Exactly these are wrong: a key and a part of the sentence each.
    fn check(records: &[(String, String)], expected: &[(&str, &str)]) {
        let report = report(records);
        let found: Vec<_> = report.problems.iter().map(|p| (p.key.as_str(), p.cause.as_str())).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (key, part) in expected {
            assert!(found.iter().any(|(k, cause)| k == key && cause.contains(part)), "{key}: {part} not in {found:?}");
        }
    }

    #[test]
    fn a_store_in_order_has_no_problems() {
        let facts = json!({"clusterID": "0000cafe", "serviceCIDR": "10.0.0.0/24", "podCIDR": "10.244.0.0/16"});
        let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "m1"}});
        let records = [
            pod("a"),
            service("s", "10.0.0.9"),
            service("headless", "None"),
            claim("10.0.0.9", "s"),
            ("coracle/cluster".into(), facts.to_string()),
            ("nodes//m1".into(), node.to_string()),
            ("coracle/later".into(), "x".into()),
        ];
        let report = report(&records);
        assert_eq!(report.problems, []);
        assert_eq!((report.objects, report.claims, report.others), (4, 1, 1));
        assert_eq!(report.cluster.unwrap().cluster_id, "0000cafe");
    }

    #[test]
    fn an_object_must_decode_and_be_where_it_belongs() {
        let (key, text) = pod("a");
        check(&[(key.clone(), text[..20].to_owned())], &[(&key, "no Pod")]);
        check(&[("pods/default/b".into(), text.clone())], &[("pods/default/b", "is pods/default/a")]);
        check(&[("services/default/a".into(), text.clone())], &[("services/default/a", "no Service")]);
        check(&[("ponds/default/a".into(), text.clone())], &[("ponds/default/a", "no kind 'ponds'")]);
        check(&[("pods//a".into(), text.clone())], &[("pods//a", "is pods/default/a")]);
        let versioned = text.replacen("{\"name\"", "{\"resourceVersion\":\"7\",\"name\"", 1);
        check(&[(key.clone(), versioned)], &[(&key, "resourceVersion")]);
    }

    #[test]
    fn claims_and_objects_must_agree() {
        let all = [service("s", "10.0.0.9"), claim("10.0.0.9", "s")];
        check(&all, &[]);
        check(&all[..1], &[("services/default/s", "no record claims")]);
        check(&all[1..], &[("claims/portals/10.0.0.9", "services/default/s does not have it")]);
        check(&[service("s", "10.0.0.9"), claim("10.0.0.9", "t")], &[("claims/portals/10.0.0.9", "held by")]);
        let twice = [service("s", "10.0.0.9"), service("t", "10.0.0.9"), claim("10.0.0.9", "t")];
        check(&twice, &[("services/default/t", "and so has services/default/s")]);
    }

    #[test]
    fn versions_are_each_records_own() {
        let (key, text) = pod("a");
        let (other, text2) = pod("b");
        let records = [(key, 3, Bytes::from(text)), (other.clone(), 3, Bytes::from(text2))];
        let report = verify(records);
        assert_eq!(report.problems, [Problem { key: other, cause: "version 3 is not its own".into() }]);
    }

    #[test]
    fn a_restore_that_was_not_finished_is_a_problem() {
        check(&[(UNFINISHED.into(), "{}".into())], &[(UNFINISHED, "repeat it")]);
    }

    #[test]
    fn problems_are_counted_but_not_kept_without_end() {
        let many: Vec<_> = (0..150).map(|n| (format!("ponds/default/{n}"), String::new())).collect();
        let report = report(&many);
        assert_eq!((report.problems.len(), report.problems_found), (PROBLEMS_MAX, 150));
    }
}
