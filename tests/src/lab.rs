//! What tests of several hosts share.

use anyhow::{Context, Result, ensure};
use coracle_test_hosts::Lab;
use serde_json::{Value, json};

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// The number of its host.
    pub host: usize,
    /// Id of its first container.
    pub container: String,
    /// Its uid.
    pub uid: String,
}

/// Creates or changes objects.
pub fn apply(lab: &Lab, objects: &[Value]) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    serde_json::to_writer(&file, &json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
    lab.coracle(&["apply", "-f", &file.path().display().to_string()])?;
    Ok(())
}

/// All pods, if every one is ready.
pub fn pods(lab: &Lab) -> Result<Vec<Pod>> {
    let list: Value = serde_json::from_str(&lab.coracle(&["get", "pods", "-o", "json"])?)?;
    let items = list["items"].as_array().context("no list")?;
    items
        .iter()
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().context("no name")?.to_owned();
            let text =
                |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("{name} is not placed"));
            let ready = pod["status"]["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
            ensure!(ready, "{name} is not ready");
            let id = text(&pod["status"]["containerStatuses"][0]["containerID"])?;
            let host = text(&pod["spec"]["nodeName"])?;
            Ok(Pod {
                ip: text(&pod["status"]["podIP"])?,
                host: host.trim_start_matches('h').parse()?,
                container: id.trim_start_matches("docker://").to_owned(),
                uid: text(&pod["metadata"]["uid"])?,
                name,
            })
        })
        .collect()
}

/// What a failure needs to be understood.
pub fn describe(lab: &Lab) -> String {
    let tables = ["nodes", "pods", "services", "endpoints", "events"]
        .map(|kind| lab.coracle(&["get", kind, "-o", "wide"]).unwrap_or_else(|e| format!("{e:#}")));
    let logs = lab.hosts().iter().map(|host| format!("{}:\n{}", host.name(), host.log()));
    format!("{}\n{}", tables.join("\n"), logs.collect::<Vec<_>>().join("\n"))
}
