//! The machine's own engine, through its command line: where hosts get their images from.

use std::{fs::File, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::output;

/// What the examples need.
pub const IMAGES: [&str; 4] = [
    "csanchez/jenkins-swarm:1.565.3.3",
    "csanchez/jenkins-swarm-slave:1.21",
    "coracle/busybox:1",
    "coracle/guestbook:1",
];

/// Fails with the remedy when there is no engine.
pub fn require_engine() -> Result<()> {
    let engine = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
    let running = engine.is_ok_and(|out| out.status.success());
    ensure!(running, "this needs a Docker engine: run scripts/require.sh docker");
    Ok(())
}

/// Runs `docker` and returns its output.
pub fn docker(args: &[&str]) -> Result<String> {
    output(Command::new("docker").args(args))
}

/// Writes images into a file for `docker load`. Where its caller is killed it may go on for a while,
/// but makes no other file: what is being removed stays empty.
pub(crate) fn save(images: &[&str], file: &Path) -> Result<()> {
    let file = File::create(file).with_context(|| file.display().to_string())?;
    output(Command::new("docker").arg("save").args(images).stdout(file))
        .map(drop)
        .context("the example images are needed: run examples/build-images.sh")
}
