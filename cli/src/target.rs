//! Naming objects on the command line: `pods`, `pod a b`, `pod/a rc/b`, `pods,services`, `all`.

use coracle_api::{Kind, client::object_path, kinds::KINDS};

use crate::failure::{Failure, Outcome};

/// Kinds that `all` stands for.
const ALL: [&str; 3] = ["pods", "replicationcontrollers", "services"];

/// One kind, and the names wanted of it; none means every object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    pub(crate) names: Vec<String>,
}

/// Reads the words after a verb.
pub(crate) fn parse(words: &[String]) -> Outcome<Vec<Target>> {
    if words.iter().any(|w| w.contains('/')) {
        return words.iter().map(|word| parse_pair(word)).collect();
    }
    let Some((first, names)) = words.split_first() else {
        return Err(Failure::Usage("name a kind, such as pods".to_owned()));
    };
    let kinds: Vec<&str> = if first == "all" { ALL.to_vec() } else { first.split(',').collect() };
    if kinds.len() > 1 && !names.is_empty() {
        return Err(Failure::Usage("names need one kind; or write KIND/NAME for each".to_owned()));
    }
    kinds.into_iter().map(|k| Ok(Target { kind: kind_named(k)?, names: names.to_vec() })).collect()
}

/// Reads words that must name objects, one by one.
pub(crate) fn parse_objects(words: &[String]) -> Outcome<Vec<(&'static Kind, String)>> {
    let targets = parse(words)?;
    if let Some(target) = targets.iter().find(|t| t.names.is_empty()) {
        return Err(Failure::Usage(format!("which {}? write {} NAME", target.kind.singular, target.kind.singular)));
    }
    Ok(targets.into_iter().flat_map(|t| t.names.into_iter().map(move |n| (t.kind, n))).collect())
}

/// Reads `KIND/NAME`.
fn parse_pair(word: &str) -> Outcome<Target> {
    match word.split_once('/') {
        Some((kind, name)) if !name.is_empty() && !name.contains('/') => {
            Ok(Target { kind: kind_named(kind)?, names: vec![name.to_owned()] })
        }
        _ => Err(Failure::Usage(format!("'{word}' is not KIND/NAME; with one word in this form all must be"))),
    }
}

/// The kind a user means, of those that are stored.
pub(crate) fn kind_named(name: &str) -> Outcome<&'static Kind> {
    Kind::by_any_name(name).filter(|k| k.stored).ok_or_else(|| {
        let known: Vec<_> = KINDS.iter().filter(|k| k.stored).map(|k| k.plural).collect();
        Failure::Usage(format!("there is no kind '{name}'; there are {}", known.join(", ")))
    })
}

/// A pod given as `NAME`, `pod/NAME` or `pods/NAME`.
pub(crate) fn pod_name(word: &str) -> Outcome<&str> {
    match word.split_once('/') {
        None => Ok(word),
        Some((kind, name)) if kind_named(kind)?.kind == "Pod" && !name.is_empty() => Ok(name),
        Some(_) => Err(Failure::Usage(format!("'{word}' is not a pod; write pod/NAME"))),
    }
}

/// A node given as `NAME`, `node/NAME` or `minion/NAME`.
pub(crate) fn node_name(word: &str) -> Outcome<&str> {
    match word.split_once('/') {
        None => Ok(word),
        Some((kind, name)) if kind_named(kind)?.kind == "Node" && !name.is_empty() => Ok(name),
        Some(_) => Err(Failure::Usage(format!("'{word}' is not a node; write node/NAME"))),
    }
}

/// `pod/jenkins`
pub(crate) fn display(kind: &Kind, name: &str) -> String {
    format!("{}/{name}", kind.singular)
}

/// The `v1` path of an object.
pub(crate) fn path(kind: &Kind, namespace: &str, name: &str) -> String {
    object_path(kind, Some(namespace), Some(name), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &[(&str, &[&str])]) {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let got = parse(&words).unwrap();
        let got: Vec<_> =
            got.iter().map(|t| (t.kind.kind, t.names.iter().map(String::as_str).collect::<Vec<_>>())).collect();
        let expected: Vec<_> = expected.iter().map(|(k, n)| (*k, n.to_vec())).collect();
        assert_eq!(got, expected, "{line}");
    }

    #[test]
    fn objects_are_named_in_all_forms() {
        check("pods", &[("Pod", &[])]);
        check("po a b", &[("Pod", &["a", "b"])]);
        check("pod/a rc/b", &[("Pod", &["a"]), ("ReplicationController", &["b"])]);
        check("pods,svc", &[("Pod", &[]), ("Service", &[])]);
        check("minions", &[("Node", &[])]);
        check("all", &[("Pod", &[]), ("ReplicationController", &[]), ("Service", &[])]);
    }

    #[test]
    fn wrong_names_are_told_with_the_right_ones() {
        for line in ["bogus", "pod/a b", "pod/", "pods,svc x", "bindings"] {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            assert!(matches!(parse(&words), Err(Failure::Usage(_))), "{line}");
        }
        assert!(parse(&["bogus".into()]).unwrap_err().to_string().contains("pods, replicationcontrollers"));
        assert!(parse_objects(&["pods".into()]).is_err());
        assert_eq!(pod_name("pods/a").unwrap(), "a");
        assert!(pod_name("rc/a").is_err());
        assert_eq!((node_name("h1").unwrap(), node_name("minions/h1").unwrap()), ("h1", "h1"));
        assert!(node_name("pod/a").is_err());
    }
}
