//! The whole measurement: what comes after what.

use std::{ops::Range, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    args::{ApiArgs, Workload},
    connection::Connection,
    limits, lists, load, memory,
    minion::Minion,
    objects::{Create, Delete, Get, Update, Way, shares},
    pods::{self, SPARE},
    report::Report,
    subject::Subject,
    target::Target,
    watch, wire,
};
use crate::machine;

/// Time that filling up may take for each pod, at the least rate of any server measured.
const FILL_TIME_EACH: Duration = Duration::from_millis(20);
/// Connections that fill up.
const FILL_CONNECTIONS: usize = 64;
/// Spare pods of one measurement at most.
const SPARE_MAX: u64 = 2_000_000;

/// Workloads that one server gets one after the other.
const SERVED: [Workload; 6] =
    [Workload::Create, Workload::Update, Workload::Get, Workload::List, Workload::Delete, Workload::Watch];
/// Pods at which a write is taken for the measure of writes among more.
const BASE: u64 = 10_000;
/// The figures that tell what a write costs at different sizes.
const WRITES: [&str; 2] = ["create", "update: patch"];

/// Measures what the arguments ask for.
pub(super) async fn run(args: &ApiArgs) -> Result<()> {
    let dir = directory(args)?;
    limits::require_disk(&dir)?;
    let server = match &args.url {
        Some(url) => url.clone(),
        None => format!("{} with the {:?} store", coracle_tests::coracle().display(), args.store).to_lowercase(),
    };
    let mut report = Report::begin(machine::describe()?, &machine::load()?, server);
    let result = measure(args, &dir, &mut report).await;
    report.end();
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    result
}

async fn measure(args: &ApiArgs, dir: &std::path::Path, report: &mut Report) -> Result<()> {
    let target = args.url.as_ref().map(|url| Target::at(url, &args.access)).transpose()?;
    if args.wants(Workload::Limits) {
        limits::memory(report);
        limits::disk(report, dir, args.time())?;
        limits::hyper(report, &args.connections, args.time()).await?;
    }
    let subject = || match &target {
        Some(target) => Ok(Subject::at(target.clone(), &args.process)),
        None => Subject::start(args.store, dir),
    };
    if args.url.is_some() && args.process.is_empty() {
        report.missing("the server's processor time and memory: name its processes with --process NAME=PID");
    }
    if SERVED.iter().any(|workload| args.wants(*workload)) {
        let mut suite = Suite { args, subject: subject()?, report, pods: 0 };
        Minion::join(&suite.subject).await?.alive_while(suite.levels()).await?;
    }
    if !args.wants(Workload::Memory) {
        return Ok(());
    }
    if args.url.is_some() {
        report.missing("memory of a pod and time to start: they need a server of our own, empty at first");
        return Ok(());
    }
    Suite { args, subject: subject()?, report, pods: 0 }.memory().await
}

fn directory(args: &ApiArgs) -> Result<PathBuf> {
    let dir = args.dir.clone().unwrap_or_else(|| coracle_tests::root().join("target/bench"));
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

/// A measurement under way.
struct Suite<'a> {
    args: &'a ApiArgs,
    subject: Subject,
    report: &'a mut Report,
    /// Pods there now.
    pods: u64,
}

impl Suite<'_> {
    async fn levels(&mut self) -> Result<()> {
        let levels = self.args.levels();
        for level in levels.iter().copied() {
            self.fill(level).await?;
            for count in self.args.connections.clone() {
                self.single_pods(count).await?;
            }
            if self.args.wants(Workload::List) {
                let (connections, time) = (&self.args.connections, self.args.time());
                lists::measure(&self.subject, self.report, level, connections, time).await?;
            }
        }
        if self.args.wants(Workload::Watch) {
            watch::measure(&self.subject, self.report, self.pods, self.args).await?;
        }
        self.compare(&levels);
        Ok(())
    }

    /// Sets what a write costs at each size beside what it costs at [`BASE`], or at the least.
    fn compare(&mut self, levels: &[u64]) {
        let Some(first) = levels.iter().find(|level| **level == BASE).or(levels.first()) else { return };
        let others = levels.iter().filter(|level| *level > first);
        let mut found = Vec::new();
        for (name, count) in WRITES.iter().flat_map(|name| self.args.connections.iter().map(move |c| (name, *c))) {
            let Some(base) = self.report.find(name, *first, count) else { continue };
            for level in others.clone() {
                let Some(row) = self.report.find(name, *level, count) else { continue };
                let what = format!("{name}, {count} connections, {level} pods beside {first}");
                found.push((format!("{what}: time of one"), base.per_second / row.per_second));
                let cpu = row.server_cpu_micros_each / base.server_cpu_micros_each;
                found.push((format!("{what}: server processor time of one"), cpu));
            }
        }
        if let (Some(sync), Some(one)) = (self.report.find(limits::FSYNC, 0, 1), self.report.find("create", *first, 1))
        {
            let over = one.p50_ms - sync.p50_ms;
            self.report.fact("create, 1 connection: p50 beyond that of fdatasync", over, "ms");
        }
        for (what, ratio) in found {
            self.report.ratio(what, ratio);
        }
    }

    /// Memory of a pod, and time to start, on a server of its own.
    async fn memory(&mut self) -> Result<()> {
        let level = self.args.memory_level();
        let minion = Minion::join(&self.subject).await?;
        let empty = memory::settled(&self.subject).await?;
        let full = minion
            .alive_while(async {
                self.fill(level).await?;
                memory::settled(&self.subject).await
            })
            .await?;
        memory::tell(self.report, level, "as written", empty, full);
        let time = self.subject.restart()?;
        self.report.fact(format!("start after SIGKILL to /readyz with {level} pods"), time.as_secs_f64(), "s");
        let minion = Minion::join(&self.subject).await?;
        let full = minion.alive_while(memory::settled(&self.subject)).await?;
        memory::tell(self.report, level, "as loaded", empty, full);
        Ok(())
    }

    /// Creates pods until there are so many.
    async fn fill(&mut self, level: u64) -> Result<()> {
        self.make_namespaces(pods::namespaces(level)).await?;
        let headers = self.subject.headers();
        let works = shares(self.pods..level, FILL_CONNECTIONS).into_iter().map(|share| Create::new(&headers, share));
        let time = FILL_TIME_EACH * u32::try_from(level - self.pods)? + Duration::from_secs(10);
        let (works, row) = load::run(&self.subject, works.collect(), time).await?;
        ensure!(works.iter().all(|w| w.left.is_empty()), "{level} pods were not created within {time:?}");
        self.report.row("fill up", level, row);
        self.pods = level;
        Ok(())
    }

    async fn make_namespaces(&mut self, wanted: Range<u64>) -> Result<()> {
        let mut connection = Connection::open(&self.subject.target).await?;
        for number in wanted {
            let name = pods::namespace(number);
            let body = format!(r#"{{"kind":"Namespace","apiVersion":"v1","metadata":{{"name":"{name}"}}}}"#);
            let (mut request, path, headers) = (Vec::new(), "/api/v1/namespaces", self.subject.headers());
            wire::request_with(&mut request, "POST", path, &headers, "application/json", body.as_bytes());
            let status = connection.exchange(&request).await?.status;
            ensure!(matches!(status, 201 | 409), "creating the namespace {name}: {status}");
        }
        Ok(())
    }

    async fn single_pods(&mut self, count: usize) -> Result<()> {
        let (time, headers, level) = (self.args.time(), self.subject.headers(), self.pods);
        let mut spare: Vec<Range<u64>> = Vec::new();
        if self.args.wants(Workload::Create) || self.args.wants(Workload::Delete) {
            let all = shares(SPARE..SPARE + SPARE_MAX, count);
            self.make_namespaces(pods::spare_namespaces()).await?;
            let works: Vec<_> = all.iter().map(|share| Create::new(&headers, share.clone())).collect();
            let (works, row) = load::run(&self.subject, works, time).await?;
            self.report.row("create", level, row);
            spare = all.iter().zip(works).map(|(all, work)| all.start..work.left.start).collect();
        }
        if self.args.wants(Workload::Update) {
            for (way, name) in Way::ALL {
                self.update(way, name, count).await?;
            }
        }
        if self.args.wants(Workload::Get) {
            let pods = 0..level;
            let get = |i| Get { headers: headers.clone(), pods: pods.clone(), at: i as u64 * 7919 };
            let (_, row) = load::run(&self.subject, (0..count).map(get).collect(), time).await?;
            self.report.row("get", level, row);
        }
        if !spare.is_empty() {
            let time = time * 10;
            let works = spare.into_iter().map(|left| Delete { headers: headers.clone(), left }).collect();
            let (works, row) = load::run(&self.subject, works, time).await?;
            ensure!(works.iter().all(|w| w.left.is_empty()), "spare pods were not removed within {time:?}");
            self.report.row("delete", level, row);
        }
        Ok(())
    }

    async fn update(&mut self, way: Way, name: &str, count: usize) -> Result<()> {
        let headers = self.subject.headers();
        let mut connection = Connection::open(&self.subject.target).await?;
        let mut works = Vec::new();
        for (i, share) in shares(0..self.pods, count).into_iter().enumerate() {
            let mut work = Update::new(&headers, way, share, i as u64);
            work.prepare(&mut connection).await?;
            works.push(work);
        }
        let (_, row) = load::run(&self.subject, works, self.args.time()).await?;
        self.report.row(name, self.pods, row);
        Ok(())
    }
}
