//! The figures: a row for each measurement as soon as it is taken, single facts, and all of it as
//! JSON.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{histogram::Histogram, usage::Cost};

/// One measurement.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    /// What was asked for.
    pub(super) measure: String,
    /// Pods that there were.
    pub(super) objects: u64,
    /// Connections, or watchers.
    pub(super) connections: usize,
    /// Requests answered, or changes delivered.
    pub(super) count: u64,
    /// How long it took.
    pub(super) seconds: f64,
    /// `count` in a second.
    pub(super) per_second: f64,
    /// Half of them took no longer.
    pub(super) p50_ms: f64,
    /// All but one in a hundred took no longer.
    pub(super) p99_ms: f64,
    /// The longest.
    pub(super) max_ms: f64,
    /// Processor time of the load client.
    pub(super) client_cpu_seconds: f64,
    /// Processor time of the server's processes.
    pub(super) server_cpu_seconds: f64,
    /// That of each.
    pub(super) server_cpu: Vec<(String, f64)>,
    /// Of all of them, for one of `count`.
    pub(super) server_cpu_micros_each: f64,
    /// Bytes there and back.
    pub(super) bytes: u64,
    /// Resident memory of the server's processes at the end.
    pub(super) resident_bytes: u64,
}

impl Row {
    /// A row of the figures; its name and the number of pods are filled in later.
    pub(super) fn of(connections: usize, elapsed: Duration, times: &Histogram, bytes: u64, cost: Cost) -> Self {
        let (count, seconds) = (times.count(), elapsed.as_secs_f64());
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let server = cost.server().as_secs_f64();
        Self {
            measure: String::new(),
            objects: 0,
            connections,
            count,
            seconds,
            per_second: count as f64 / seconds.max(1e-9),
            p50_ms: ms(times.quantile(0.5)),
            p99_ms: ms(times.quantile(0.99)),
            max_ms: ms(times.max()),
            client_cpu_seconds: cost.client.as_secs_f64(),
            server_cpu_seconds: server,
            server_cpu: cost.servers.iter().map(|(name, time)| (name.clone(), time.as_secs_f64())).collect(),
            server_cpu_micros_each: server * 1e6 / (count.max(1) as f64),
            bytes,
            resident_bytes: cost.resident,
        }
    }

    /// Bytes in a second.
    pub(super) fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds.max(1e-9)
    }
}

/// A figure that is no row.
#[derive(Debug, Clone, Serialize)]
struct Fact {
    what: String,
    value: f64,
    unit: &'static str,
}

/// Everything of one run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    machine: String,
    date: String,
    command: String,
    server: String,
    rows: Vec<Row>,
    facts: Vec<Fact>,
    /// What was asked for and can't be had, and why.
    missing: Vec<String>,
    #[serde(skip)]
    titled: bool,
}

impl Report {
    /// An empty report, its head printed.
    pub(super) fn begin(machine: String, load: &str, server: String) -> Self {
        let command = std::env::args().collect::<Vec<_>>().join(" ");
        let date = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string();
        println!("machine: {machine}; load before: {load}");
        println!("date:    {date}\nserver:  {server}\ncommand: {command}");
        println!("client, server: processor seconds; µs each: the server's for one; MB/s: bodies there and back");
        let (rows, facts, missing) = Default::default();
        Self { machine, date, command, server, rows, facts, missing, titled: false }
    }

    /// Takes a row and prints it.
    pub(super) fn row(&mut self, measure: impl Into<String>, objects: u64, row: Row) {
        let row = Row { measure: measure.into(), objects, ..row };
        if !std::mem::replace(&mut self.titled, true) {
            println!(
                "\n{:<36} {:>8} {:>5} {:>10} {:>9} {:>9} {:>7} {:>7} {:>9} {:>9} {:>8}",
                "measure",
                "pods",
                "conns",
                "per s",
                "p50 ms",
                "p99 ms",
                "client",
                "server",
                "µs each",
                "MB/s",
                "RSS MB"
            );
        }
        println!(
            "{:<36} {:>8} {:>5} {:>10.0} {:>9.3} {:>9.3} {:>7.2} {:>7.2} {:>9.1} {:>9.1} {:>8.1}",
            row.measure,
            row.objects,
            row.connections,
            row.per_second,
            row.p50_ms,
            row.p99_ms,
            row.client_cpu_seconds,
            row.server_cpu_seconds,
            row.server_cpu_micros_each,
            row.bytes_per_second() / 1e6,
            row.resident_bytes as f64 / 1e6,
        );
        self.rows.push(row);
    }

    /// Takes a single figure, to be printed after the table.
    pub(super) fn fact(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.facts.push(Fact { what: what.into(), value, unit });
    }

    /// Takes a share of a bound.
    pub(super) fn ratio(&mut self, what: impl Into<String>, value: f64) {
        self.fact(what, value, "x");
    }

    /// Says what could not be measured.
    pub(super) fn missing(&mut self, what: impl Into<String>) {
        self.missing.push(what.into());
    }

    /// A row taken before.
    pub(super) fn find(&self, measure: &str, objects: u64, connections: usize) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|r| r.measure == measure && r.objects == objects && r.connections == connections)
    }

    /// Prints what is no row.
    pub(super) fn end(&self) {
        println!();
        for Fact { what, value, unit } in &self.facts {
            println!("{what:<98} {value:>10.3} {unit}");
        }
        for what in &self.missing {
            println!("NOT MEASURED: {what}");
        }
    }

    /// Writes everything to a file.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}
