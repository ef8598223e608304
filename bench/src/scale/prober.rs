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

use crate::api::{connection::Connection, histogram::Histogram, target::Target, wire};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(10);
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const NAME: &str = "probe";

/// A prober under way, on a thread of its own.
#[derive(Debug)]
pub(super) struct Prober {
    thread: JoinHandle<Result<[Histogram; 2]>>,
    stop: Arc<AtomicBool>,
}

impl Prober {
    /// Begins: reads the node and writes endpoints of no service by turns.
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
    let target = Target::plain(master);
    let mut connection = Connection::open(&target).await?;
    let mut times: [Histogram; 2] = Default::default();
    let mut read = Vec::new();
    wire::request(&mut read, "GET", &format!("/api/v1/nodes/{node}"), &target.headers);
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = connection.exchange(&read).await?;
        ensure!(answer.status == 200, "reading {node}: {}", answer.status);
        times[0].record(begun.elapsed());
        tokio::time::sleep(PAUSE).await;

        number += 1;
        let begun = Instant::now();
        let status = write(&mut connection, &target.headers, number).await?;
        ensure!(matches!(status, 200 | 201), "writing: {status}");
        times[1].record(begun.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Ok(times)
}

/// Writes an object of its own, which nobody else looks at: creates it the first time, then changes it.
async fn write(connection: &mut Connection, headers: &str, number: u64) -> Result<u16> {
    let body = format!(r#"{{"metadata":{{"name":"{NAME}","annotations":{{"number":"{number}"}}}},"subsets":[]}}"#);
    let (method, path) = match number {
        1 => ("POST", ENDPOINTS.to_owned()),
        _ => ("PUT", format!("{ENDPOINTS}/{NAME}")),
    };
    let mut request = Vec::new();
    wire::request_with(&mut request, method, &path, headers, "application/json", body.as_bytes());
    Ok(connection.exchange(&request).await?.status)
}
