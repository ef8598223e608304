//! A client that reads and writes now and then while others load the master, and notes how long it takes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};

use crate::api::{connection::Connection, histogram::Histogram, wire};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(10);
const EVENTS: &str = "/api/v1/namespaces/default/events";

/// A prober under way, on a thread of its own.
#[derive(Debug)]
pub(super) struct Prober {
    thread: JoinHandle<Result<[Histogram; 2]>>,
    stop: Arc<AtomicBool>,
}

impl Prober {
    /// Begins: reads the node and writes an event by turns.
    pub(super) fn start(master: SocketAddr, node: String) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || runtime.block_on(probe(master, &node, &stopped)));
        Ok(Self { thread, stop })
    }

    /// Ends it: 50 and 99 of a hundred of the reads, then of the writes.
    pub(super) fn stop(self) -> Result<[Duration; 4]> {
        self.stop.store(true, Ordering::Relaxed);
        let [reads, writes] = self.thread.join().map_err(|_| anyhow!("the prober panicked"))??;
        Ok([reads.quantile(0.5), reads.quantile(0.99), writes.quantile(0.5), writes.quantile(0.99)])
    }
}

async fn probe(master: SocketAddr, node: &str, stop: &AtomicBool) -> Result<[Histogram; 2]> {
    let (host, mut connection) = (master.to_string(), Connection::open(master).await?);
    let mut times: [Histogram; 2] = Default::default();
    let mut read = Vec::new();
    wire::request(&mut read, "GET", &format!("/api/v1/nodes/{node}"), &host);
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = connection.exchange(&read).await?;
        ensure!(answer.status == 200, "reading {node}: {}", answer.status);
        times[0].record(begun.elapsed());
        tokio::time::sleep(PAUSE).await;

        number += 1;
        let mut write = Vec::new();
        let body = format!(
            r#"{{"metadata":{{"name":"probe-{number}","namespace":"default"}},"involvedObject":{{"kind":"Node","name":"{node}"}},
            "reason":"Probe","message":"a write","type":"Normal"}}"#
        );
        wire::request_with(&mut write, "POST", EVENTS, &host, "application/json", body.as_bytes());
        let begun = Instant::now();
        let answer = connection.exchange(&write).await?;
        let text = String::from_utf8_lossy(connection.start_of_body()).into_owned();
        ensure!(answer.status == 201, "writing: {} {text}", answer.status);
        times[1].record(begun.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Ok(times)
}
