//! Network namespaces of a test's process, as hosts and pods; shared by the tests that need them.

use std::{
    os::fd::AsFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The longest that a test's body may take.
const BODY_LIMIT: Duration = Duration::from_secs(1_100);
/// The longest that anything is waited for, on a busy machine.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// Runs a command line, without a shell; panics with its words if it fails.
pub(crate) fn sh(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Takes a namespace away; gone already is fine.
pub(crate) fn remove(name: &str) {
    drop(Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status());
}

/// Namespaces named `PREFIX-PID-PART`; removed when dropped.
pub(crate) struct Namespaces {
    name: String,
    parts: &'static [&'static str],
}

impl Namespaces {
    /// Makes them, with loopback up, and removes those of test processes that were killed;
    /// `leftover` is told of each of these processes.
    pub(crate) fn new(prefix: &str, parts: &'static [&'static str], leftover: fn(u32)) -> Self {
        for line in sh("ip netns list").lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            let mut words = name.split('-');
            if words.next() == Some(prefix)
                && let Some(pid) = words.next()
                && !std::path::Path::new("/proc").join(pid).exists()
            {
                remove(name);
                pid.parse().into_iter().for_each(leftover);
            }
        }
        let all = Self { name: format!("{prefix}-{}", std::process::id()), parts };
        for part in parts {
            let ns = all.ns(part);
            sh(&format!("ip netns add {ns}"));
            sh(&format!("ip -n {ns} link set lo up"));
        }
        all
    }

    /// The full name of a part.
    pub(crate) fn ns(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// Runs `f` on a thread of its own in a part's namespace.
    pub(crate) fn within<T: Send + 'static>(&self, part: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
        let ns = std::fs::File::open(format!("/run/netns/{}", self.ns(part))).unwrap();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            f()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs an async test body in a part's namespace, with its processes.
    pub(crate) fn run_within<F: Future<Output = ()>>(&self, part: &str, body: impl FnOnce() -> F + Send + 'static) {
        self.within(part, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { tokio::time::timeout(BODY_LIMIT, body()).await.expect("too slow") });
        });
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.parts.iter().for_each(|part| remove(&self.ns(part)));
    }
}

/// Runs blocking code away from the runtime, in the same namespace.
pub(crate) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(f).await.unwrap()
}

/// Waits until `f` is true; how long that took.
pub(crate) async fn eventually(what: &str, mut f: impl AsyncFnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !f().await {
        assert!(started.elapsed() < WAIT_LIMIT, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    started.elapsed()
}
