//! kubecfg's tables, byte for byte as 0.5.4 printed them (spec §4.3).
//!
//! Invariant: a column is as wide as its longest cell plus 3, at least 20; the last is not padded.

use serde_json::Value;

use super::resource::{list, text};

const COLUMN_WIDTH_MIN: usize = 20;
const COLUMN_GAP: usize = 3;
const RULE: &str = "----------";

/// Renders an object, a list or a Status of the `v1beta1` wire.
pub(crate) fn render(object: &Value) -> Result<String, String> {
    let kind = text(object, "/kind");
    let (columns, row) = layout(kind.strip_suffix("List").unwrap_or(kind))
        .ok_or_else(|| format!("unknown type '{kind}': this client has no table for it; try -json"))?;
    let rows =
        if kind.ends_with("List") { list(object, "/items").iter().map(row).collect() } else { vec![row(object)] };
    Ok(align(columns, &rows))
}

type Row = fn(&Value) -> Vec<String>;

fn layout(kind: &str) -> Option<(&'static [&'static str], Row)> {
    Some(match kind {
        "Pod" => (&["Name", "Image(s)", "Host", "Labels", "Status"], pod),
        "ReplicationController" => (&["Name", "Image(s)", "Selector", "Replicas"], replication_controller),
        "Service" => (&["Name", "Labels", "Selector", "IP", "Port"], service),
        "Minion" => (&["Minion identifier"], |m| vec![text(m, "/id").to_owned()]),
        "Status" => (&["Status"], |s| vec![text(s, "/status").to_owned()]),
        "Event" => (&["Name", "Kind", "Status", "Reason", "Message"], event),
        _ => return None,
    })
}

fn pod(pod: &Value) -> Vec<String> {
    vec![
        text(pod, "/id").to_owned(),
        images(list(pod, "/desiredState/manifest/containers")),
        host(text(pod, "/currentState/host"), text(pod, "/currentState/hostIP")),
        pairs(&pod["labels"]),
        pod_phase(pod).to_owned(),
    ]
}

fn replication_controller(rc: &Value) -> Vec<String> {
    vec![
        text(rc, "/id").to_owned(),
        images(list(rc, "/desiredState/podTemplate/desiredState/manifest/containers")),
        pairs(&rc["desiredState"]["replicaSelector"]),
        number(&rc["desiredState"]["replicas"]),
    ]
}

fn service(service: &Value) -> Vec<String> {
    vec![
        text(service, "/id").to_owned(),
        pairs(&service["labels"]),
        pairs(&service["selector"]),
        text(service, "/portalIP").to_owned(),
        number(&service["port"]),
    ]
}

fn event(event: &Value) -> Vec<String> {
    ["/involvedObject/name", "/involvedObject/kind", "/status", "/reason", "/message"]
        .iter()
        .map(|p| text(event, p).to_owned())
        .collect()
}

fn images(containers: &[Value]) -> String {
    containers.iter().map(|c| text(c, "/image")).collect::<Vec<_>>().join(",")
}

fn host(host: &str, ip: &str) -> String {
    if host.is_empty() && ip.is_empty() { "<unassigned>".to_owned() } else { format!("{host}/{ip}") }
}

/// `k=v,k=v`, sorted by key.
fn pairs(map: &Value) -> String {
    let Some(map) = map.as_object() else { return String::new() };
    let mut pairs: Vec<_> = map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    pairs.sort();
    pairs.join(",")
}

fn number(value: &Value) -> String {
    value.as_i64().unwrap_or_default().to_string()
}

/// The word of the table for a pod: spec §3, and `Succeeded` for a pod that ran to a good end.
pub(crate) fn pod_phase(pod: &Value) -> &'static str {
    match text(pod, "/currentState/status") {
        "Running" => "Running",
        "Terminated" if ended_well(pod) => "Succeeded",
        "Terminated" => "Failed",
        _ => "Pending",
    }
}

fn ended_well(pod: &Value) -> bool {
    let manifest = &pod["desiredState"]["manifest"];
    let policy = &manifest["restartPolicy"];
    let restarts = policy.get("onFailure").is_none() && policy.get("never").is_none();
    let containers = list(manifest, "/containers");
    let info = &pod["currentState"]["info"];
    !restarts
        && !containers.is_empty()
        && containers
            .iter()
            .all(|c| info[text(c, "/name")].pointer("/state/termination/exitCode").and_then(Value::as_i64) == Some(0))
}

fn align(columns: &[&str], rows: &[Vec<String>]) -> String {
    let header = columns.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
    let rule = columns.iter().map(|_| RULE.to_owned()).collect::<Vec<_>>();
    let lines: Vec<&Vec<String>> = [&header, &rule].into_iter().chain(rows).collect();
    let width = |column: usize| {
        let longest = lines.iter().map(|l| l[column].chars().count()).max().unwrap_or_default();
        (longest + COLUMN_GAP).max(COLUMN_WIDTH_MIN)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for line in lines {
        for (cell, width) in line.iter().zip(&widths).take(columns.len() - 1) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
        out.push_str(&line[columns.len() - 1]);
        out.push('\n');
    }
    out.push('\n');
    out
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
