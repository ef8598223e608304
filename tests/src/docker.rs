//! The engine as a test sees it, through its command line.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Fails with the remedy when there is no engine.
pub fn require_engine() -> Result<()> {
    let engine = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
    let running = engine.is_ok_and(|out| out.status.success());
    ensure!(running, "these tests need a Docker engine: run scripts/require.sh docker");
    Ok(())
}

/// Runs `docker` and returns its output.
pub fn docker(args: &[&str]) -> Result<String> {
    let out = Command::new("docker").args(args).output().context("running docker")?;
    ensure!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

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
