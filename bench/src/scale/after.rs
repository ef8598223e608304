//! What happens to pods that run: they are deleted by the hundred a second, a tenth of the minions dies at once, and
//! at last all are taken away.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use coracle_api::{
    client::{Client, ListParams},
    core::{Pod, ReplicationController},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Mutex;

use super::{
    NAMESPACES, PATIENCE, exactly,
    follower::{Follower, Stage},
    minions::Minions,
};
use crate::api::{connection::Connection, histogram::Histogram, target::Target, wire};

/// Deletions a second.
const DEATHS_PER_SECOND: u32 = 500;
/// Deletions under way at once.
const CONNECTIONS: usize = 16;
/// Requests about controllers at once.
const WRITES_AT_ONCE: usize = 16;

/// How a time of deletions went.
#[derive(Debug)]
pub(super) struct Churn {
    pub(super) deaths: usize,
    /// How long they were asked for.
    pub(super) lasted: Duration,
    /// From the last of them until every controller had what it asks for again.
    pub(super) settled: Duration,
    /// 99 of a hundred requests.
    pub(super) answered_99: Duration,
}

/// Deletes running pods, the ones that have run longest first, at an even rate.
pub(super) async fn churn(
    master: SocketAddr,
    client: &Client,
    follower: &Follower,
    pods: usize,
    time: Duration,
) -> Result<Churn> {
    let target = Target::plain(master);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Mutex::new(Connection::open(&target).await?));
    }
    let times = std::sync::Mutex::new(Histogram::default());
    let wanted = (time.as_secs_f64() * f64::from(DEATHS_PER_SECOND)) as usize;
    let begun = Instant::now();
    let delete = async |number: usize| -> Result<()> {
        let due = Duration::from_secs(1) * u32::try_from(number)? / DEATHS_PER_SECOND;
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        let path = follower.oldest().context("no pod runs any more")?;
        let mut request = Vec::new();
        wire::request(&mut request, "DELETE", &format!("{path}?gracePeriodSeconds=1"), &target.headers);
        let mut connection = connections[number % CONNECTIONS].lock().await;
        let asked = Instant::now();
        let answer = connection.exchange(&request).await?;
        ensure!(matches!(answer.status, 200 | 202), "DELETE {path}: {}", answer.status);
        times.lock().map_err(|_| anyhow::anyhow!("a deletion panicked"))?.record(asked.elapsed());
        Ok(())
    };
    let before = follower.count(Stage::Running);
    stream::iter(0..wanted).map(delete).buffered(CONNECTIONS).try_collect::<()>().await?;
    let lasted = begun.elapsed();
    follower.wait_for(Stage::Running, before + wanted, PATIENCE)?;
    exactly(client, pods).await?;
    let settled = begun.elapsed() - lasted;
    let times = times.into_inner().map_err(|_| anyhow::anyhow!("a deletion panicked"))?;
    Ok(Churn { deaths: wanted, lasted, settled, answered_99: times.quantile(0.99) })
}

/// Kills these minions and waits until as many pods as were on them run elsewhere. Returns how many and how long
/// that took, the time in which the minions might only have been slow included.
pub(super) async fn mass_death(
    client: &Client,
    follower: &Follower,
    doomed: Minions,
    pods: usize,
) -> Result<(usize, Duration)> {
    let on = |name: String| async move {
        let fields = format!("spec.nodeName={name}");
        let list = client.all::<Pod>().list(&ListParams { fields, ..Default::default() }).await?;
        anyhow::Ok(list.items.len())
    };
    let counts = stream::iter(doomed.names()).map(on).buffered(WRITES_AT_ONCE);
    let lost = counts.try_fold(0, async |sum, count| Ok(sum + count)).await?;
    let before = follower.count(Stage::Running);
    let begun = Instant::now();
    drop(doomed);
    follower.wait_for(Stage::Running, before + lost, PATIENCE)?;
    exactly(client, pods).await?;
    Ok((lost, begun.elapsed()))
}

/// Asks every controller for no pods, and waits until none is there.
pub(super) async fn resize_to_zero(client: &Client, follower: &Follower) -> Result<Duration> {
    let begun = Instant::now();
    let list = client.all::<ReplicationController>().list(&ListParams::default()).await?.items;
    let ours =
        |rc: &ReplicationController| rc.metadata.namespace.as_deref().is_some_and(|ns| ns.starts_with(NAMESPACES));
    let resize = |mut rc: ReplicationController| async move {
        let namespace = rc.metadata.namespace.clone().unwrap_or_default();
        let name = rc.metadata.name.clone().unwrap_or_default();
        rc.spec.get_or_insert_default().replicas = Some(0);
        // Whatever else changed meanwhile: its status.
        rc.metadata.resource_version = None;
        client.namespaced::<ReplicationController>(&namespace).update(&name, &rc).await.map(drop)
    };
    stream::iter(list.into_iter().filter(ours)).map(resize).buffered(WRITES_AT_ONCE).try_collect::<()>().await?;
    follower.wait_for_none(PATIENCE)?;
    exactly(client, 0).await?;
    Ok(begun.elapsed())
}
