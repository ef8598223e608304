//! Masters of one etcd find each other: the one that creates the leader's key leads.
//!
//! The key and a master's announcement hang on its lease, see [`session`]. The term is the key's
//! creation revision, and what the writes of the loops are fenced with.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Shared, compact,
    fault::Fault,
    members::Patience,
    roster::{self, Roster},
    session::{self, Lease},
};
use crate::{
    coordination::{Announcements, Coordinator, Leadership},
    store::{BoxFuture, Fence, StoreError},
};

/// For a campaign's question: of one member, of any.
const PATIENCE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// Before a question that failed is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// For an announcement, and for an orderly farewell.
const CALLER_PATIENCE: Duration = Duration::from_secs(5);

/// The state of one master's session.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) name: String,
    /// Whether there is anything to hold a lease for.
    pub(super) wanted: watch::Sender<bool>,
    pub(super) lease: watch::Sender<Option<Lease>>,
    /// The announcement and its number.
    pub(super) says: watch::Sender<(u64, Option<Bytes>)>,
    /// The number of the last one that etcd has.
    pub(super) said: watch::Sender<u64>,
    pub(super) roster: watch::Sender<Roster>,
    announcements: watch::Sender<Announcements>,
    /// The term that this master leads under, and whom to tell that it is over.
    leads: Mutex<Option<(i64, CancellationToken)>>,
}

impl Core {
    /// Takes note of what etcd says.
    pub(super) fn publish(&self, roster: Roster) {
        self.announcements.send_if_modified(|known| {
            let news = *known != roster.masters;
            if news {
                known.clone_from(&roster.masters);
            }
            news
        });
        self.roster.send_replace(roster);
        self.check_leadership();
    }

    /// Ends a leadership whose key is gone.
    fn check_leadership(&self) {
        let mut leads = self.leads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lost)) = leads.take_if(|(term, _)| self.roster.borrow().is_over(*term)) {
            lost.cancel();
        }
    }

    /// Waits for a lease that is held.
    async fn leased(&self) -> Lease {
        self.wanted.send_if_modified(|wanted| !std::mem::replace(wanted, true));
        let mut leases = self.lease.subscribe();
        let held = leases.wait_for(|lease| lease.as_ref().is_some_and(|lease| !lease.lost.is_cancelled())).await;
        match held.ok().and_then(|lease| lease.clone()) {
            Some(lease) => lease,
            // The sender lives as long as the core.
            None => std::future::pending().await,
        }
    }
}

/// Finds the other masters of the same etcd. Dropping it lets its lease expire.
#[derive(Debug)]
pub struct EtcdCoordinator {
    core: Arc<Core>,
    history: Duration,
    _stop_on_drop: DropGuard,
}

impl EtcdCoordinator {
    pub(super) fn start(shared: Arc<Shared>, name: String) -> Self {
        let core = Arc::new(Core {
            shared,
            name,
            wanted: watch::Sender::new(false),
            lease: watch::Sender::new(None),
            says: watch::Sender::default(),
            said: watch::Sender::default(),
            roster: watch::Sender::default(),
            announcements: watch::Sender::default(),
            leads: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let (task, until) = (core.clone(), stop.clone());
        tokio::spawn(async move {
            let both = async { tokio::join!(session::hold(&task), roster::follow(&task)) };
            until.run_until_cancelled(both).await;
            // Whoever leads must not think so for ever.
            if let Some(lease) = task.lease.send_replace(None) {
                lease.lost.cancel();
            }
        });
        Self { core, history: compact::KEPT, _stop_on_drop: stop.drop_guard() }
    }

    /// Has its upkeep leave this much of etcd's history, ten minutes at most, instead of five minutes.
    pub fn keeping(self, history: Duration) -> Self {
        Self { history, ..self }
    }

    async fn campaign(&self) -> Leadership {
        loop {
            let lease = self.core.leased().await;
            match self.try_to_lead(&lease).await {
                Ok(Attempt::Leads(term)) => return self.leadership(term, &lease),
                Ok(Attempt::Follows(term)) => self.wait_for_end_of(term, &lease).await,
                Err(fault) => {
                    tracing::debug!(%fault, "the campaign goes on");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Creates the leader's key if there is none.
    async fn try_to_lead(&self, lease: &Lease) -> Result<Attempt, Fault> {
        let key = self.core.shared.layout.leader();
        let request = |mut client: Client| {
            let put = TxnOp::put(&*key, &*self.core.name, Some(PutOptions::new().with_lease(lease.id)));
            let read = TxnOp::get(&*key, Some(GetOptions::new().with_keys_only()));
            let absent = Compare::create_revision(&*key, CompareOp::Equal, 0);
            let txn = Txn::new().when([absent]).and_then([put]).or_else([read]);
            async move { client.txn(txn).await }
        };
        // Done twice, the second one finds the own key.
        let answer = self.core.shared.members.ask(Patience::repeatable(PATIENCE[0], PATIENCE[1]), request).await?;
        if answer.succeeded() {
            return Ok(Attempt::Leads(answer.header().map_or(0, |header| header.revision())));
        }
        match answer.op_responses().first() {
            Some(TxnOpResponse::Get(get)) if !get.kvs().is_empty() => {
                let leader = &get.kvs()[0];
                let term = leader.create_revision();
                Ok(if leader.lease() == lease.id { Attempt::Leads(term) } else { Attempt::Follows(term) })
            }
            _ => Err(Fault::Silent("its answer is to another question".to_owned())),
        }
    }

    fn leadership(&self, term: i64, lease: &Lease) -> Leadership {
        let lost = lease.lost.child_token();
        *self.core.leads.lock().unwrap_or_else(PoisonError::into_inner) = Some((term, lost.clone()));
        // The key may be gone already.
        self.core.check_leadership();
        tracing::info!(master = self.core.name, term, "this master leads");
        Leadership { fence: Some(Fence(term.unsigned_abs())), lost }
    }

    async fn wait_for_end_of(&self, term: i64, lease: &Lease) {
        let mut roster = self.core.roster.subscribe();
        let vacant = roster.wait_for(|roster| roster.revision >= term && roster.leader.is_none());
        // Without a lease there is nothing to lead with: another one comes first.
        drop(lease.lost.run_until_cancelled(vacant).await);
    }

    async fn announce(&self, what: Bytes) -> Result<(), StoreError> {
        let mut number = 0;
        self.core.says.send_if_modified(|(last, said)| {
            let news = said.as_ref() != Some(&what);
            if news {
                *last += 1;
                *said = Some(what);
            }
            number = *last;
            news
        });
        self.core.wanted.send_if_modified(|wanted| !std::mem::replace(wanted, true));
        let mut said = self.core.said.subscribe();
        let done = timeout(CALLER_PATIENCE, said.wait_for(|said| *said >= number)).await;
        match done {
            Ok(_) => Ok(()),
            Err(_) => Err(Fault::no_answer(CALLER_PATIENCE).into_store_error(&self.core.shared.address)),
        }
    }

    async fn resign(&self) {
        self.core.says.send_modify(|(number, what)| {
            *number += 1;
            *what = None;
        });
        self.core.wanted.send_replace(false);
        let mut lease = self.core.lease.subscribe();
        if timeout(CALLER_PATIENCE, lease.wait_for(Option::is_none)).await.is_err() {
            tracing::warn!("etcd does not answer; what this master held expires by itself");
        }
    }
}

/// What became of a try to lead.
enum Attempt {
    Leads(i64),
    Follows(i64),
}

impl Coordinator for EtcdCoordinator {
    fn campaign(&self) -> BoxFuture<'_, Leadership> {
        Box::pin(self.campaign())
    }

    fn resign(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.resign())
    }

    fn announce(&self, what: Bytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.announce(what))
    }

    fn announcements(&self) -> watch::Receiver<Announcements> {
        self.core.announcements.subscribe()
    }

    /// Bounds etcd's history.
    fn upkeep(&self, stop: CancellationToken) -> BoxFuture<'_, ()> {
        Box::pin(compact::compact_history(&self.core.shared, self.history, stop))
    }
}
