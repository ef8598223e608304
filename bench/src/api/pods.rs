//! The pods that the load consists of: JSON of 1 KB, bound to a minion, so that no control loop has
//! anything to do with them.

use std::{io::Write as _, ops::Range};

/// The minion that all pods are bound to. It is kept alive while the load runs.
pub(super) const NODE: &str = "bench-node";
/// Pods of a namespace; what a list of one shows.
pub(super) const NAMESPACE_PODS: u64 = 10_000;
/// Values of the label `shard`: a selector of one picks 1 % of the pods.
pub(super) const SHARDS: u64 = 100;
/// Bytes of a pod as it is sent.
const BYTES: usize = 1024;
const START: &str = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":""#;
const END: &str = concat!(
    r#""spec":{"nodeName":"bench-node","containers":[{"name":"main","image":"registry.example.com/team/service:1.24.3","#,
    r#""command":["/usr/bin/service","--listen=0.0.0.0:8080"],"env":[{"name":"LOG_LEVEL","value":"info"},"#,
    r#"{"name":"DATABASE_URL","value":"postgres://db.default:5432/service"},{"name":"REGION","value":"eu-central"}],"#,
    r#""ports":[{"name":"http","containerPort":8080}],"resources":{"requests":{"cpu":"100m","memory":"64Mi"},"#,
    r#""limits":{"memory":"128Mi"}},"readinessProbe":{"httpGet":{"path":"/healthz","port":8080},"periodSeconds":10}}],"#,
    r#""terminationGracePeriodSeconds":5}}"#
);

/// The first number of the pods that are made to be removed again. They have a namespace of their
/// own.
pub(super) const SPARE: u64 = 1 << 32;
const SPARE_NAMESPACE: u64 = SPARE / NAMESPACE_PODS;

/// The pod with a number: its namespace and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pod(pub(super) u64);

impl Pod {
    /// The first is `default`.
    pub(super) fn namespace(self) -> String {
        namespace((self.0 / NAMESPACE_PODS).min(SPARE_NAMESPACE))
    }

    /// Its name.
    pub(super) fn name(self) -> String {
        format!("pod-{:07}", self.0)
    }
}

/// The name of a namespace of the load.
pub(super) fn namespace(number: u64) -> String {
    if number == 0 { "default".into() } else { format!("bench-{number}") }
}

/// The namespaces that so many pods need.
pub(super) fn namespaces(pods: u64) -> Range<u64> {
    0..pods.div_ceil(NAMESPACE_PODS).max(1)
}

/// The namespace of those that are made to be removed again.
pub(super) fn spare_namespaces() -> Range<u64> {
    SPARE_NAMESPACE..SPARE_NAMESPACE + 1
}

/// Appends a pod's JSON, [`BYTES`] long.
pub(super) fn write_json(out: &mut Vec<u8>, namespace: &str, name: &str, shard: u64, seq: &str) {
    const FILLER: &[u8] = &[b'x'; BYTES];
    const FILLER_END: &str = "\"}},";
    let begin = out.len();
    let shard = shard % SHARDS;
    // Writing to a vector can't fail.
    let _ = write!(
        out,
        r#"{START}{name}","namespace":"{namespace}","labels":{{"app":"bench","shard":"s{shard}","seq":"{seq}"}},"annotations":{{"example.com/note":""#
    );
    let filler = BYTES.saturating_sub(out.len() - begin + FILLER_END.len() + END.len());
    out.extend_from_slice(&FILLER[..filler]);
    out.extend_from_slice(FILLER_END.as_bytes());
    out.extend_from_slice(END.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_a_kilobyte_of_json_bound_to_the_minion() {
        for (name, shard) in [("p", 3), ("a-much-longer-name-than-that", 103)] {
            let mut json = Vec::new();
            write_json(&mut json, "default", name, shard, "0-17");
            assert_eq!(json.len(), BYTES, "{name}");
            let pod: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(pod["metadata"]["name"], name);
            assert_eq!(pod["metadata"]["labels"]["shard"], "s3");
            assert_eq!(pod["spec"]["nodeName"], NODE);
        }
    }

    #[test]
    fn namespaces_hold_ten_thousand_pods_each() {
        assert_eq!((Pod(9_999).namespace(), Pod(10_000).namespace()), ("default".into(), "bench-1".into()));
        assert_eq!((namespaces(1), namespaces(10_000), namespaces(10_001)), (0..1, 0..1, 0..2));
    }
}
