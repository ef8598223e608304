//! Clients of a service: they ask at a pace, on a new connection each time, and count what fails.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use coracle_test_hosts::engine::Site;

use crate::http;

/// Clients side by side. Each waits for its answer before it asks again.
const CLIENTS: u32 = 8;

/// What a client that was held up makes up for.
const CATCH_UP: Duration = Duration::from_millis(500);

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<Report>>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests.
    pub asked: usize,
    /// What went wrong with those that failed.
    pub failed: Vec<String>,
    /// The different answers.
    pub answers: BTreeSet<String>,
    /// The longest that an answer took.
    pub slowest: Duration,
}

impl Load {
    /// Begins to ask `to` so many times a second, on this machine or on a host.
    pub fn start(to: SocketAddr, per_second: u32, on: Option<&Site>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let pace = Duration::from_secs(1) * CLIENTS / per_second;
        let client = |_| {
            let (stop, on) = (stop.clone(), on.cloned());
            std::thread::spawn(move || {
                on.map_or(Ok(()), |site| site.enter())?;
                Ok(ask(to, pace, &stop))
            })
        };
        Self { clients: (0..CLIENTS).map(client).collect(), stop }
    }

    /// Ends it. Fails if any request failed, or if too few were made to tell anything.
    pub fn finish(mut self) -> Result<Report> {
        let report = self.end()?;
        ensure!(
            report.failed.is_empty(),
            "{} of {} requests failed: {:?}",
            report.failed.len(),
            report.asked,
            report.failed
        );
        ensure!(report.asked > 100, "{report:?} says nothing");
        Ok(report)
    }

    fn end(&mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Report::default();
        // Each is waited for, whichever fails.
        let ended: Vec<_> = self.clients.drain(..).map(JoinHandle::join).collect();
        for client in ended {
            let report = client.map_err(|_| anyhow!("a client panicked"))??;
            all.asked += report.asked;
            all.failed.extend(report.failed);
            all.answers.extend(report.answers);
            all.slowest = all.slowest.max(report.slowest);
        }
        Ok(all)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.end());
    }
}

fn ask(to: SocketAddr, pace: Duration, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = http::exchange(to, "GET", "/", "").context("no answer");
        report.asked += 1;
        report.slowest = report.slowest.max(begun.elapsed());
        match answer {
            Ok((200, body)) => drop(report.answers.insert(body)),
            Ok((code, body)) => report.failed.push(format!("{code} {body}")),
            Err(error) => report.failed.push(format!("{error:#} after {:?}", begun.elapsed())),
        }
        // One that was held up asks more often then, but not for ever.
        due = (due + pace).max(begun.checked_sub(CATCH_UP).unwrap_or(begun));
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
    }
    report
}
