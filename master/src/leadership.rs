//! The control loops run here while this master leads, and nowhere else.
//!
//! Losing the lead stops them; what they still had on the way is refused by the store, which checks
//! the fence. A master alone leads from its start to its end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ipnet::Ipv4Net;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{controllers, coordination::Coordinator, liveness::Liveness, plans::Plans, registry::Registry};

/// How long the loops get to end. They wait for nothing but the store.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the loops need.
#[derive(Clone)]
pub(crate) struct Loops {
    pub(crate) registry: Registry,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) coordinator: Arc<dyn Coordinator>,
    /// Where other hosts reach this master.
    pub(crate) advertised: Option<SocketAddr>,
    pub(crate) pod_cidr: Ipv4Net,
    pub(crate) beat: Duration,
    pub(crate) plans: Plans,
    /// Cancelled by a loop that ends by itself.
    pub(crate) failed: CancellationToken,
}

/// Leads whenever it may, until `stop`.
pub(crate) async fn run(loops: Loops, stop: CancellationToken) {
    // Cancel-safe: giving up a campaign is what dropping it is for.
    while let Some(leadership) = stop.run_until_cancelled(loops.coordinator.campaign()).await {
        tracing::info!(term = leadership.fence.map(|f| f.0), "leading");
        let (tasks, term) = (TaskTracker::new(), stop.child_token());
        let fenced = Loops { registry: loops.registry.fenced(leadership.fence), ..loops.clone() };
        controllers::start(&fenced, &tasks, &term);
        let (coordinator, over) = (loops.coordinator.clone(), term.clone());
        tasks.spawn(async move { coordinator.upkeep(over).await });
        tokio::select! {
            () = stop.cancelled() => {}
            () = leadership.lost.cancelled() => tracing::warn!("this master does not lead any more"),
        }
        term.cancel();
        tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, tasks.wait()).await.is_err() {
            tracing::warn!("the control loops did not end within {STOP_TIMEOUT:?}");
        }
    }
    loops.coordinator.resign().await;
}
