//! Clients and watchers that record a [`History`] of registers: namespaces with one label, since
//! nothing but their writers acts on them.

use std::{
    io::{BufRead, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    PATIENCE, eventually,
    history::{Act, History, Record, State, Watched},
    http,
    random::Random,
};

const PATH: &str = "/api/v1/namespaces";
/// What the registers are called, and a number.
const PREFIX: &str = "register-";
/// A watch ends by itself after this, so that it also tries the other masters.
const WATCH_TIMEOUT_S: u64 = 2;
/// Between two attempts at masters that are away.
const PAUSE: Duration = Duration::from_millis(20);

/// Registers on some masters, and the recording of what is done with them.
#[derive(Debug)]
pub struct Registers {
    masters: Vec<SocketAddr>,
    count: u64,
    history: Mutex<History>,
    next_value: AtomicU64,
    stop: AtomicBool,
}

impl Registers {
    /// Creates them through the first master, and waits until all masters know them.
    pub fn create(masters: Vec<SocketAddr>, count: u64) -> Result<Self> {
        let registers = Self {
            masters,
            count,
            history: Mutex::default(),
            next_value: AtomicU64::new(1),
            stop: AtomicBool::new(false),
        };
        for i in 0..count {
            http::post(registers.masters[0], PATH, &body(&format!("{PREFIX}{i}"), "0", None).to_string())?;
        }
        for master in &registers.masters {
            eventually("the registers are known", || {
                (registers.list(*master).ok()?.1.len() as u64 == count).then_some(())
            })?;
        }
        Ok(registers)
    }

    /// Runs clients and watchers while `faults` does its worst, then lets everybody finish, and
    /// returns what was recorded. `faults` leaves all masters well.
    pub fn record(self, clients: u64, watchers: u64, faults: impl FnOnce(&Self) -> Result<()>) -> Result<History> {
        let result = std::thread::scope(|scope| {
            let me = &self;
            let clients: Vec<_> = (0..clients).map(|seed| scope.spawn(move || me.client(seed))).collect();
            let watchers: Vec<_> = (0..watchers).map(|seed| scope.spawn(move || me.watcher(seed))).collect();
            let done = faults(me);
            self.stop.store(true, Ordering::SeqCst);
            for client in clients {
                client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            }
            for watcher in watchers {
                watcher.join().map_err(|_| anyhow::anyhow!("a watcher panicked"))??;
            }
            done
        });
        result?;
        Ok(self.history.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.records.iter().filter(|r| matches!(r.act, Act::Write { done: Some(_), .. })).count()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Reads and writes until told to stop, at random.
    fn client(&self, seed: u64) -> Result<()> {
        let mut random = Random::from_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut known: Vec<Option<State>> = vec![None; usize::try_from(self.count)?];
        while !self.stopped() {
            let (i, master) = (random.below(usize::try_from(self.count)?), random.below(self.masters.len()));
            let key = format!("{PREFIX}{i}");
            let begun = Instant::now();
            let act = match known[i].take() {
                Some(State { version, .. }) if random.below(3) > 0 => {
                    let value = self.next_value.fetch_add(1, Ordering::Relaxed).to_string();
                    let (done, answered) = self.write(master, &key, version, &value);
                    known[i] = done.map(|version| State { version, value: value.clone() });
                    Some(Act::Write { from: version, value, done, answered })
                }
                _ => self.read(master, &key).ok().map(|seen| {
                    known[i] = Some(seen.clone());
                    Act::Read { seen }
                }),
            };
            match act {
                Some(act) => {
                    let record = Record { master, key, begun, ended: Instant::now(), act };
                    self.history.lock().unwrap_or_else(PoisonError::into_inner).records.push(record);
                }
                None => std::thread::park_timeout(PAUSE),
            }
        }
        Ok(())
    }

    fn read(&self, master: usize, key: &str) -> Result<State> {
        let text = http::get(self.masters[master], &format!("{PATH}/{key}")).context("no answer")?;
        state(&serde_json::from_str(&text)?).map(|(_, state)| state).context("no register")
    }

    /// The new version if it was done, and whether there was an answer that says so or not.
    fn write(&self, master: usize, key: &str, from: u64, value: &str) -> (Option<u64>, bool) {
        let body = body(key, value, Some(from)).to_string();
        match http::exchange(self.masters[master], "PUT", &format!("{PATH}/{key}"), &body) {
            Ok((200, text)) => {
                let object = serde_json::from_str::<Value>(&text).ok();
                (object.as_ref().and_then(state).map(|(_, state)| state.version), true)
            }
            Ok((409, _)) => (None, true),
            // 503 leaves it open, as does silence.
            _ => (None, false),
        }
    }

    fn list(&self, master: SocketAddr) -> Result<(u64, Vec<(String, State)>)> {
        let list: Value = serde_json::from_str(&http::get(master, PATH).context("no answer")?)?;
        let version = list["metadata"]["resourceVersion"].as_str().context("no version")?.parse()?;
        let items = list["items"].as_array().context("no items")?;
        Ok((version, items.iter().filter_map(state).collect()))
    }

    /// Watches, at one master after the other, until it has seen the end of the history.
    fn watcher(&self, seed: u64) -> Result<()> {
        let mut at = seed as usize;
        let mut watched: Option<Watched> = None;
        let mut target: Option<u64> = None;
        let mut deadline: Option<Instant> = None;
        loop {
            if self.stopped() {
                let end = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                ensure!(Instant::now() < end, "the watcher never saw the end: {:?}", watched.map(|w| w.end));
                let newest = |(_, items): (u64, Vec<(String, State)>)| items.iter().map(|(_, s)| s.version).max();
                target = target.or_else(|| {
                    let newest = self.masters.iter().map(|m| self.list(*m).ok().and_then(newest));
                    newest.collect::<Option<Vec<_>>>()?.into_iter().max()
                });
            }
            let master = self.masters[at % self.masters.len()];
            at += 1;
            let current = match &mut watched {
                Some(current) => current,
                None => match self.list(master) {
                    Ok((start, _)) => watched.insert(Watched { start, events: Vec::new(), end: start }),
                    Err(_) => {
                        std::thread::park_timeout(PAUSE);
                        continue;
                    }
                },
            };
            let outcome = watch(master, current);
            let over = target.is_some_and(|target| current.end >= target);
            if over || matches!(outcome, Ok(Ending::Expired)) {
                let done = watched.take();
                self.history.lock().unwrap_or_else(PoisonError::into_inner).watches.extend(done);
            }
            if over {
                return Ok(());
            }
            if outcome.is_err() {
                std::thread::park_timeout(PAUSE);
            }
        }
    }
}

enum Ending {
    /// The time was up.
    Over,
    /// 410: list again.
    Expired,
}

/// One watch from where `watched` ends. An error is a connection that broke, or none.
fn watch(master: SocketAddr, watched: &mut Watched) -> Result<Ending> {
    let mut socket = TcpStream::connect_timeout(&master, Duration::from_secs(1))?;
    socket.set_read_timeout(Some(Duration::from_secs(WATCH_TIMEOUT_S + 3)))?;
    let path = format!(
        "{PATH}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_TIMEOUT_S}&resourceVersion={}",
        watched.end
    );
    write!(socket, "GET {path} HTTP/1.0\r\nHost: {master}\r\n\r\n")?;
    let mut lines = BufReader::new(socket).lines();
    let status = lines.next().context("no answer")??;
    match status.split(' ').nth(1) {
        Some("200") => {}
        Some("410") => return Ok(Ending::Expired),
        other => bail!("answered with {other:?}"),
    }
    for line in lines {
        let line = line?;
        // Headers and the sizes of chunks are no objects.
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        let object = &event["object"];
        match event["type"].as_str() {
            Some("ERROR") if object["code"] == 410 => return Ok(Ending::Expired),
            Some("BOOKMARK") => {
                watched.end = object["metadata"]["resourceVersion"].as_str().context("no version")?.parse()?;
            }
            Some("ADDED" | "MODIFIED" | "DELETED") => {
                let version: u64 = object["metadata"]["resourceVersion"].as_str().context("no version")?.parse()?;
                watched.events.extend(state(object));
                watched.end = version;
            }
            _ => {}
        }
    }
    Ok(Ending::Over)
}

fn body(name: &str, value: &str, version: Option<u64>) -> Value {
    let version = version.map(|v| v.to_string());
    json!({ "kind": "Namespace", "apiVersion": "v1",
        "metadata": { "name": name, "labels": { "value": value }, "resourceVersion": version } })
}

/// Name and state, if it is a register.
fn state(object: &Value) -> Option<(String, State)> {
    let meta = &object["metadata"];
    let name = meta["name"].as_str().filter(|name| name.starts_with(PREFIX))?;
    let state = State {
        version: meta["resourceVersion"].as_str()?.parse().ok()?,
        value: meta["labels"]["value"].as_str()?.into(),
    };
    Some((name.to_owned(), state))
}
