//! A master's lease: what it holds in etcd lives as long as the process and the way to etcd do.
//!
//! Invariant: a lease is given up by the local clock, for good, before etcd can have let it expire.
//! A new one follows; nothing is ever taken over from the one before.

use std::time::Duration;

use etcd_client::{Client, PutOptions};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{coordinator::Core, fault::Fault, members::Patience};

/// etcd deletes what a master held this long after its last sign of life.
const TTL_SECONDS: i64 = 3;
/// How much earlier the lease is given up here: clocks may differ in speed, and tasks may be late.
const MARGIN: Duration = Duration::from_millis(500);
/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// For the answer to one, before another member is asked.
const BEAT_PATIENCE: Duration = Duration::from_millis(700);
/// For everything else: of one member, of any.
const PATIENCE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// Before something that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// A lease that is held.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) id: i64,
    /// Cancelled when it is given up.
    pub(super) lost: CancellationToken,
}

/// Holds a lease while one is wanted, one after the other, until dropped.
pub(super) async fn hold(core: &Core) {
    let mut wanted = core.wanted.subscribe();
    // The sender lives as long as the core.
    while wanted.wait_for(|wanted| *wanted).await.is_ok() {
        match grant(core).await {
            Ok((lease, until)) => {
                core.lease.send_replace(Some(lease.clone()));
                let unwanted = async { drop(wanted.wait_for(|wanted| !wanted).await) };
                // Cancel-safe: whichever ends first, the lease is over.
                tokio::select! {
                    () = keep(core, lease.id, until) => tracing::warn!("the lease in etcd is lost"),
                    () = announce(core, lease.id) => {}
                    () = unwanted => {}
                }
                lease.lost.cancel();
                if let Err(fault) = revoke(core, lease.id).await {
                    tracing::debug!(%fault, "the lease is left to expire");
                }
                core.lease.send_replace(None);
            }
            Err(fault) => {
                tracing::debug!(%fault, "no lease yet");
                sleep(PAUSE).await;
            }
        }
    }
}

/// A new lease, and until when it can be counted on.
async fn grant(core: &Core) -> Result<(Lease, Instant), Fault> {
    let request = |mut client: Client| async move {
        let sent = Instant::now();
        client.lease_grant(TTL_SECONDS, None).await.map(|lease| (lease, sent))
    };
    // Granted twice, one of them expires unused.
    let (lease, sent) = core.shared.members.ask(Patience::repeatable(PATIENCE[0], PATIENCE[1]), request).await?;
    Ok((Lease { id: lease.id(), lost: CancellationToken::new() }, good_until(sent, lease.ttl())))
}

/// etcd counts from when it got the sign of life, which is after it was sent.
fn good_until(sent: Instant, ttl_seconds: i64) -> Instant {
    sent + Duration::from_secs(ttl_seconds.unsigned_abs()) - MARGIN
}

async fn revoke(core: &Core, lease: i64) -> Result<(), Fault> {
    let request = |mut client: Client| async move { client.lease_revoke(lease).await };
    core.shared.members.ask(Patience::repeatable(PATIENCE[0], PATIENCE[1]), request).await.map(drop)
}

/// Gives signs of life until the lease is lost.
async fn keep(core: &Core, lease: i64, mut until: Instant) {
    let members = &core.shared.members;
    let mut current = members.current();
    let mut member = *current.borrow_and_update();
    while Instant::now() < until {
        // Cancel-safe: `until` holds what was answered, and a sign of life too many does no harm.
        tokio::select! {
            fault = beat(core, member, lease, &mut until) => {
                if fault == Fault::Expired {
                    return;
                }
                tracing::debug!(%fault, "no answer to a sign of life");
                // Others may go on asking this one: it may only be slow.
                member = members.after(member);
                sleep_until(until.min(Instant::now() + PAUSE)).await;
            }
            _ = current.changed() => member = *current.borrow_and_update(),
        }
    }
}

/// Gives signs of life at one member, and moves on until when the lease can be counted on.
async fn beat(core: &Core, member: usize, lease: i64, until: &mut Instant) -> Fault {
    let mut sent = Instant::now();
    let open = async { core.shared.members.client(member).await?.lease_keep_alive(lease).await.map_err(Fault::of) };
    // Opening gives the first one.
    let (mut keeper, mut answers) = match timeout_at((*until).min(sent + BEAT_PATIENCE), open)
        .await
        .unwrap_or_else(|_| Err(Fault::no_answer(BEAT_PATIENCE)))
    {
        Ok(open) => open,
        Err(fault) => return fault,
    };
    *until = good_until(sent, TTL_SECONDS);
    loop {
        sleep(BEAT).await;
        sent = Instant::now();
        let answer = async {
            keeper.keep_alive().await.map_err(Fault::of)?;
            match answers.message().await.map_err(Fault::of)? {
                Some(answer) if answer.ttl() > 0 => Ok(answer.ttl()),
                Some(_) => Err(Fault::Expired),
                None => Err(Fault::Silent("it ended the signs of life".to_owned())),
            }
        };
        // A machine that stood still wakes up after `until`.
        match timeout_at((*until).min(sent + BEAT_PATIENCE), answer)
            .await
            .unwrap_or_else(|_| Err(Fault::no_answer(BEAT_PATIENCE)))
        {
            Ok(ttl) => *until = good_until(sent, ttl),
            Err(fault) => return fault,
        }
    }
}

/// Keeps the announcement under the lease as it should be, for ever.
async fn announce(core: &Core, lease: i64) {
    let mut says = core.says.subscribe();
    let key = format!("{}{}", core.shared.layout.masters(), core.name);
    loop {
        let (number, what) = says.borrow_and_update().clone();
        if let Some(what) = what {
            let request = |mut client: Client| {
                let (key, what) = (key.clone(), what.clone());
                async move { client.put(key, what, Some(PutOptions::new().with_lease(lease))).await }
            };
            if let Err(fault) = core.shared.members.ask(Patience::repeatable(PATIENCE[0], PATIENCE[1]), request).await {
                tracing::debug!(%fault, "not announced yet");
                sleep(PAUSE).await;
                says.mark_changed();
            } else {
                core.said.send_replace(number);
            }
        }
        // The sender lives as long as the core.
        drop(says.changed().await);
    }
}
