//! The command line of `coracle-bench api`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

/// What `coracle-bench api` takes.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ApiArgs {
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
    /// Numbers of pods at which everything is measured, rising.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    pub(crate) objects: Vec<u64>,
    /// Also at 200,000 and 1,000,000 pods.
    #[arg(long)]
    pub(crate) full: bool,
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64])]
    pub(crate) connections: Vec<usize>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Workload>,
    /// The store of the master that is started.
    #[arg(long, value_enum, default_value = "embedded", conflicts_with = "url")]
    pub(crate) store: StoreKind,
    /// Measure this Kubernetes API server instead of a master of our own.
    #[arg(long, value_name = "http[s]://HOST:PORT")]
    pub(crate) url: Option<String>,
    #[command(flatten)]
    pub(crate) access: Access,
    /// A process of the server at --url whose costs count; may be repeated.
    #[arg(long, value_name = "NAME=PID", requires = "url", value_parser = watched)]
    pub(crate) process: Vec<Watched>,
    /// Numbers of watchers that one update is sent to.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1_000])]
    pub(crate) watchers: Vec<usize>,
    /// Watchers of the sustained stream of updates.
    #[arg(long, default_value_t = 100)]
    pub(crate) stream_watchers: usize,
    /// Updates a second in it; 0: as many as there can be.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 0])]
    pub(crate) stream_rate: Vec<u64>,
    /// Seconds that it lasts.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub(crate) stream_seconds: f64,
    /// Pods whose memory, and time to load, is measured; 200,000 with --full.
    #[arg(long)]
    pub(crate) memory_objects: Option<u64>,
    /// Where the server's data go: a directory on a disk [default: the tree's target directory].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Whom to trust at --url, and who asks.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Access {
    /// The CAs that the server's certificate may be of, in PEM form; https:// needs it, or --insecure.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) ca: Option<PathBuf>,
    /// Accept any certificate of the server.
    #[arg(long, requires = "url", conflicts_with = "ca")]
    pub(crate) insecure: bool,
    /// A bearer token, which goes with every request.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) token_file: Option<PathBuf>,
    /// This client's certificate, with those between it and its CA, in PEM form.
    #[arg(long, value_name = "FILE", requires = "url", requires = "client_key")]
    pub(crate) client_cert: Option<PathBuf>,
    /// Its key, in PEM form.
    #[arg(long, value_name = "FILE", requires = "url", requires = "client_cert")]
    pub(crate) client_key: Option<PathBuf>,
}

/// Other things that this program does for the measurement.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Part {
    /// Serve static bytes with bare hyper, until standard input ends: the bound for any server.
    RawServer,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// The disk, memory, and bare hyper.
    Limits,
    /// New pods.
    Create,
    /// Changes of a label: merge patch without and with resourceVersion, and replacement.
    Update,
    /// One pod.
    Get,
    /// All pods of a namespace, in pages, and by label.
    List,
    /// Removal.
    Delete,
    /// Watches.
    Watch,
    /// Memory of a pod, and time to start again.
    Memory,
}

/// Where a master of our own stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreKind {
    /// The default.
    Embedded,
    /// An etcd of one member, started from PATH.
    Etcd,
}

/// A process of a server that runs already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    /// What the table calls it.
    pub(crate) name: String,
    /// Its id.
    pub(crate) pid: u32,
}

impl ApiArgs {
    /// Whether a workload is wanted.
    pub(crate) fn wants(&self, workload: Workload) -> bool {
        self.only.is_empty() || self.only.contains(&workload)
    }

    /// Numbers of pods, rising.
    pub(crate) fn levels(&self) -> Vec<u64> {
        let mut levels = self.objects.clone();
        if self.full {
            levels.extend([200_000, 1_000_000]);
        }
        levels.sort_unstable();
        levels.dedup();
        levels
    }

    /// Pods whose memory is measured.
    pub(crate) fn memory_level(&self) -> u64 {
        self.memory_objects.unwrap_or(if self.full { 200_000 } else { 100_000 })
    }

    /// Time of each measurement.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds from 0.01 to 3600".into()),
    }
}

fn watched(text: &str) -> Result<Watched, String> {
    let (name, pid) = text.split_once('=').ok_or("expected NAME=PID")?;
    Ok(Watched { name: name.into(), pid: pid.parse().map_err(|_| format!("{pid} is not a process id"))? })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        api: ApiArgs,
    }

    fn parse(line: &str) -> Result<ApiArgs, clap::Error> {
        Line::try_parse_from(std::iter::once("api").chain(line.split_whitespace())).map(|line| line.api)
    }

    #[test]
    fn defaults_measure_everything_at_three_sizes() {
        let args = parse("").unwrap();
        assert_eq!((args.levels(), args.memory_level()), (vec![1_000, 10_000, 100_000], 100_000));
        assert!(Workload::value_variants().iter().all(|w| args.wants(*w)));
        let full = parse("--full --objects 5,200000").unwrap();
        assert_eq!((full.levels(), full.memory_level()), (vec![5, 200_000, 1_000_000], 200_000));
    }

    #[test]
    fn lines_parse_or_are_refused() {
        let args =
            parse("--url http://127.0.0.1:8080 --process apiserver=12 --process etcd=13 --only list,get").unwrap();
        assert_eq!(args.process[1], Watched { name: "etcd".into(), pid: 13 });
        assert!(args.wants(Workload::Get) && !args.wants(Workload::Watch));
        assert!(matches!(parse("raw-server").unwrap().part, Some(Part::RawServer)));
        let access = parse("--url https://h:1 --ca a --token-file t --client-cert c --client-key k").unwrap().access;
        let files = [access.ca, access.token_file, access.client_cert, access.client_key];
        assert_eq!(files, ["a", "t", "c", "k"].map(|file| Some(PathBuf::from(file))));
        assert!(!access.insecure && parse("--url https://h:1 --insecure").unwrap().access.insecure);
        for bad in [
            "--store etcd --url http://127.0.0.1:1",
            "--process a=1",
            "--url http://h --process a",
            "--seconds 0",
            "--seconds x",
            "--objects x",
            "--only nothing",
            "--objects 1 raw-server",
            "--ca a",
            "--insecure",
            "--token-file t",
            "--client-cert c --client-key k",
            "--url https://h:1 --client-cert c",
            "--url https://h:1 --client-key k",
            "--url https://h:1 --ca a --insecure",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
