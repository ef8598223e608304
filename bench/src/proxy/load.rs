//! The load: wrk for requests, iperf3 for bytes.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::range::Range;

/// Connections of the client.
const CONNECTIONS: &str = "32";
/// Jiffies in a second, in all that the kernel tells processes.
const HERTZ: f64 = 100.0;

/// Requests answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requests {
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// Bytes sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bulk {
    pub(super) gbit_per_second: f64,
    /// Of the whole machine: sender, path and receiver.
    pub(super) cpu_seconds_per_gb: f64,
}

/// A figure that can be taken twice.
pub(super) trait Mean {
    /// Of this one and another.
    fn mean(self, other: Self) -> Self;
}

impl Mean for Requests {
    fn mean(self, other: Self) -> Self {
        Self {
            per_second: f64::midpoint(self.per_second, other.per_second),
            p50_ms: f64::midpoint(self.p50_ms, other.p50_ms),
            p99_ms: f64::midpoint(self.p99_ms, other.p99_ms),
        }
    }
}

impl Mean for Bulk {
    fn mean(self, other: Self) -> Self {
        Self {
            gbit_per_second: f64::midpoint(self.gbit_per_second, other.gbit_per_second),
            cpu_seconds_per_gb: f64::midpoint(self.cpu_seconds_per_gb, other.cpu_seconds_per_gb),
        }
    }
}

/// Where the load comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// The node itself.
    Node,
    /// The second pod; the servers are in the first one.
    Pod,
}

impl Range {
    /// A program where the client is. No figure pays for the connections of the one before.
    fn client(&self, client: Client, program: &str) -> Result<Command> {
        self.forget_flows()?;
        Ok(match client {
            Client::Node => self.command(program),
            Client::Pod => self.command_in_pod(1, program),
        })
    }

    /// Requests on connections that are kept or on a new one each.
    pub(super) fn requests(&self, from: Client, address: &str, time: Duration, kept: bool) -> Result<Requests> {
        let mut command = self.client(from, "wrk")?;
        command.args(["-t", "1", "-c", CONNECTIONS, "-d", &format!("{}s", time.as_secs()), "--latency"]);
        if !kept {
            command.args(["-H", "Connection: close"]);
        }
        let out = command.arg(format!("http://{address}/")).output().context("wrk")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(out.status.success(), "wrk to {address}: {text}{}", String::from_utf8_lossy(&out.stderr));
        ensure!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "wrk to {address}: {text}");
        let figure = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
            line.with_context(|| format!("wrk said nothing of {name}: {text}")).map(|rest| rest.trim().to_owned())
        };
        Ok(Requests {
            per_second: figure("Requests/sec:")?.parse()?,
            p50_ms: milliseconds(&figure("50%")?)?,
            p99_ms: milliseconds(&figure("99%")?)?,
        })
    }

    /// One stream of bytes.
    pub(super) fn bulk(&self, from: Client, at: &str, time: Duration) -> Result<Bulk> {
        let seconds = time.as_secs().to_string();
        let (address, port) = at.split_once(':').context("no port")?;
        let mut command = self.client(from, "iperf3")?;
        let before = busy_seconds()?;
        let out = command.args(["-c", address, "-p", port, "-t", &seconds, "-J"]).output()?;
        let busy = busy_seconds()? - before;
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).context("iperf3")?;
        ensure!(out.status.success(), "iperf3 to {at}: {}", report["error"]);
        let received = &report["end"]["sum_received"];
        let figure = |name: &str| received[name].as_f64().with_context(|| format!("iperf3 said nothing of {name}"));
        Ok(Bulk {
            gbit_per_second: figure("bits_per_second")? / 1e9,
            cpu_seconds_per_gb: busy / (figure("bytes")? / 1e9),
        })
    }
}

/// `512.00us`, `1.03ms`, `1.20s`
fn milliseconds(text: &str) -> Result<f64> {
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let read = units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor));
    read.with_context(|| format!("wrk said a time of {text}"))
}

/// Seconds that all processors were not idle, since the start of the machine.
fn busy_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let values: Vec<f64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are in user time.
    let busy = values.iter().take(8).enumerate().filter(|(i, _)| ![3, 4, 7].contains(i)).map(|(_, v)| v);
    Ok(busy.sum::<f64>() / HERTZ)
}
