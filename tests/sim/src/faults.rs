//! What happens to the cluster: drawn from the seed, one fault after the other, some at the same time.

use std::{sync::Arc, time::Duration};

use coracle_minion::runtime::hollow::Call;

use crate::{course::Cluster, disk::Mood, host::Host, network::Weather, note, random::Random, user};

/// Writes until a crash at most, once it is to come.
const FUEL_MAX: usize = 40;

/// Goes on until dropped.
pub async fn run(cluster: Arc<Cluster>, seed: u64) {
    let mut random = Random::new(seed, "faults");
    // Some runs are calm, some are not.
    let (pause_max, weather) = ([1500, 4000, 9000][random.below(3)], [0, 400, 60][random.below(3)]);
    cluster.network.set_weather(Weather { break_one_in: weather });
    loop {
        tokio::time::sleep(random.millis(100, pause_max)).await;
        strike(&cluster, &mut random);
    }
}

/// Ends all faults but the loss of hosts.
pub fn end(cluster: &Cluster) {
    cluster.network.set_weather(Weather::default());
    cluster.disk.set_fuel(None);
    cluster.disk.set_mood(Mood::Well);
    for host in &cluster.hosts {
        cluster.network.cut(host.number, false);
        cluster.network.slow(host.number, Duration::ZERO);
        calm(host);
    }
    cluster.network.cut(user::NUMBER, false);
}

fn calm(host: &Host) {
    let engine = host.engine();
    for call in CALLS {
        engine.fail(call, 0);
    }
    engine.lose_events(false);
    engine.set_reachable(true);
}

const CALLS: [Call; 6] = [Call::List, Call::RunInfra, Call::Create, Call::Start, Call::Stop, Call::Remove];

fn strike(cluster: &Arc<Cluster>, random: &mut Random) {
    let trace = &cluster.world.trace;
    let host = cluster.hosts[random.below(cluster.hosts.len())].clone();
    let (name, number) = (&host.name, host.number);
    match random.below(24) {
        0..=2 => {
            let fuel = random.below(FUEL_MAX) as u64;
            note!(trace, "fault  the master crashes after {fuel} more writes");
            cluster.disk.set_fuel(Some(fuel));
        }
        3 => cluster.crash_master(),
        4..=6 => {
            let wait = random.millis(50, 15_000);
            host.crash();
            later(cluster, wait, move |cluster| cluster.start_host(&host));
        }
        7..=9 => {
            let wait = random.millis(500, 40_000);
            note!(trace, "fault  {name} is cut off");
            cluster.network.cut(number, true);
            later(cluster, wait, move |cluster| {
                note!(cluster.world.trace, "fault  h{number} is connected again");
                cluster.network.cut(number, false);
            });
        }
        10 | 11 => {
            note!(trace, "fault  the connections of {name} break");
            cluster.network.shatter(number);
        }
        12 => {
            let (slowness, wait) = (random.millis(100, 2500), random.millis(1000, 20_000));
            note!(trace, "fault  {name} is slow by {slowness:?}");
            cluster.network.slow(number, slowness);
            later(cluster, wait, move |cluster| cluster.network.slow(number, Duration::ZERO));
        }
        13 => {
            let (back, wait) = (!random.one_in(3), random.millis(1000, 60_000));
            if !back && !cluster.lose(number) {
                return;
            }
            host.die();
            if back {
                later(cluster, wait, move |cluster| cluster.start_host(&host));
            }
        }
        14..=17 => {
            let engine = host.engine();
            let containers = engine.containers();
            let Some(victim) = random.pick(&containers) else { return };
            note!(trace, "fault  {name} {} of {} is killed", victim.name, victim.pod_name);
            if random.one_in(4) { engine.remove_by_hand(&victim.id) } else { engine.kill(&victim.id) }
        }
        18 | 19 => {
            let (call, times) = (CALLS[random.below(CALLS.len())], u32::try_from(random.range(1, 3)).unwrap_or(1));
            let lost = random.one_in(2);
            note!(
                trace,
                "fault  {name} {call:?} fails {times} times{}",
                if lost { ", the work being done" } else { "" }
            );
            if lost { host.engine().lose_answer(call, times) } else { host.engine().fail(call, times) }
        }
        20 => {
            let (engine, wait) = (host.engine(), random.millis(500, 12_000));
            note!(trace, "fault  {name} engine is away");
            engine.set_reachable(false);
            later(cluster, wait, move |_| engine.set_reachable(true));
        }
        21 => {
            let (engine, wait) = (host.engine(), random.millis(500, 8000));
            note!(trace, "fault  {name} events are lost");
            engine.lose_events(true);
            later(cluster, wait, move |_| engine.lose_events(false));
        }
        22 => {
            let mood = if random.one_in(2) { Mood::Full } else { Mood::Mute };
            let wait = random.millis(200, 5000);
            note!(trace, "fault  the store is {mood:?}");
            cluster.disk.set_mood(mood);
            later(cluster, wait, |cluster| {
                note!(cluster.world.trace, "fault  the store is well");
                cluster.disk.set_mood(Mood::Well);
            });
        }
        _ => {
            note!(trace, "fault  the user's connections break");
            cluster.network.shatter(user::NUMBER);
        }
    }
}

fn later(cluster: &Arc<Cluster>, wait: Duration, then: impl FnOnce(&Arc<Cluster>) + Send + 'static) {
    let cluster = cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        then(&cluster);
    });
}
