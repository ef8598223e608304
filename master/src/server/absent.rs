//! What is not served: says so by name, and what there is instead.

use coracle_api::{ApiError, Kind, error::Reason, kinds::KINDS};

use super::slices;

/// The sentence that clients know; ours goes on.
const UNKNOWN: &str = "the server could not find the requested resource";

/// Subresources of Kubernetes that users miss first, and what does the same here.
const INSTEAD: [(&str, &str); 4] = [
    ("portforward", "use the pod's own address, or a service with a node port"),
    ("attach", "use logs -f to read what the container writes, or exec for a shell in it"),
    ("ephemeralcontainers", "use exec for a shell in a container of the pod"),
    ("proxy", "use the pod's own address, or its service's"),
];

/// Subresources that a namespace has in Kubernetes.
const PARTS: [&str; 2] = ["finalize", "status"];

/// 404 for a path of `v1`, or of a group, that leads nowhere.
pub(crate) fn refusal(path: &str) -> ApiError {
    let words: Vec<&str> = path.split('/').filter(|word| !word.is_empty()).collect();
    let why = match words.as_slice() {
        ["apis", slices::GROUP, ..] => format!("the group has {} of v1 only", slices::PLURAL),
        ["apis", group, ..] => format!("the group {group} is not served; {}", served()),
        ["api", "v1", "watch", rest @ ..] | ["api", "v1", rest @ ..] => match rest {
            // A part of a namespace, or what is in it.
            ["namespaces", _, sub] if PARTS.contains(sub) => of_kind(rest),
            ["namespaces", _, inside @ ..] if !inside.is_empty() => of_kind(inside),
            _ => of_kind(rest),
        },
        _ => String::new(),
    };
    let message = if why.is_empty() { UNKNOWN.to_owned() } else { format!("{UNKNOWN}: {why}") };
    ApiError::new(Reason::NotFound, message)
}

/// `KIND[/NAME[/SUB]]`
fn of_kind(words: &[&str]) -> String {
    let Some(plural) = words.first() else { return String::new() };
    let Some(kind) = Kind::by_plural(plural) else { return format!("{plural} are not served; {}", served()) };
    let Some(sub) = words.get(2) else { return String::new() };
    match INSTEAD.iter().find(|(name, _)| name == sub) {
        Some((_, instead)) => format!("{} have no {sub} here: {instead}", kind.plural),
        None => format!("{} have no {sub} here", kind.plural),
    }
}

fn served() -> String {
    let plurals: Vec<_> = KINDS.iter().filter(|kind| kind.stored).map(|kind| kind.plural).collect();
    format!("there are {}", plurals.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_there_is() {
        let check = |path: &str, part: &str| {
            let message = refusal(path).message;
            assert!(message.starts_with(UNKNOWN) && message.contains(part), "{path}: {message}");
        };
        check("/api/v1/namespaces/default/configmaps", "configmaps are not served; there are pods");
        check("/api/v1/secrets", "secrets are not served");
        check("/apis/apps/v1/namespaces/default/deployments", "the group apps is not served; there are pods");
        check("/api/v1/namespaces/default/pods/web/portforward", "pods have no portforward here: use the pod's own");
        check("/api/v1/namespaces/default/services/web/bogus", "services have no bogus here");
        check("/api/v1/nodes/n1/proxy", "nodes have no proxy here");
        check("/api/v1/namespaces/x/finalize", "namespaces have no finalize here");
        check("/api/v1/watch/namespaces/x/configmaps", "configmaps are not served");
        assert_eq!(refusal("/api/v1/pods/web").message, UNKNOWN, "a pod is in a namespace");
        assert_eq!(refusal("/api/v1").message, UNKNOWN);
    }
}
