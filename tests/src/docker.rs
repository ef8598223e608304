//! The engine as a test sees it, through its command line.

use anyhow::Result;
pub use coracle_test_hosts::docker::{docker, require_engine};

/// Ids of the running containers with these labels.
pub fn running(labels: &[(&str, &str)]) -> Result<Vec<String>> {
    list(&["ps", "-q", "--no-trunc"], labels)
}

/// Ids of all containers with these labels.
pub fn all(labels: &[(&str, &str)]) -> Result<Vec<String>> {
    list(&["ps", "-aq", "--no-trunc"], labels)
}

/// Which containers run with this label, by pod and name: `uid of the pod/container`, sorted.
pub fn running_by_pod(label: &str) -> Result<Vec<String>> {
    let filter = format!("label={label}");
    let format = r#"{{.Label "io.coracle.pod.uid"}}/{{.Label "io.coracle.container"}}"#;
    let listed = docker(&["ps", "--filter", &filter, "--format", format])?;
    let mut names: Vec<String> = listed.lines().map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

fn list(command: &[&str], labels: &[(&str, &str)]) -> Result<Vec<String>> {
    let filters: Vec<String> = labels.iter().map(|(k, v)| format!("label={k}={v}")).collect();
    let mut args = command.to_vec();
    for filter in &filters {
        args.extend(["--filter", filter]);
    }
    Ok(docker(&args)?.lines().map(str::to_owned).collect())
}
