//! Lets connections from other hosts through Docker's filter, which drops what is forwarded to
//! containers but for ports that it publishes itself: node ports and external addresses of services
//! are translated by our rules, and a drop in one table is final for all.
//!
//! One rule in `DOCKER-USER`, the chain that Docker keeps for others. It is set with `iptables`, as
//! Docker sets its own: that chain must stay readable for it, whichever kind of tables it has.
//!
//! Best effort: a host without the tool or the chain has no such filter.

use std::process::Stdio;

use tokio::process::Command;

use crate::network::bridge_name;

/// Seconds to wait for the lock that users of `iptables` share.
const LOCK_SECONDS: &str = "5";

/// The rule of one cluster.
#[derive(Debug)]
pub(super) struct Admission {
    bridge: String,
    wanted: bool,
}

impl Admission {
    pub(super) fn new(cluster_id: &str) -> Self {
        Self { bridge: bridge_name(cluster_id), wanted: false }
    }

    /// Has the rule from now on, or not.
    pub(super) async fn keep(&mut self, wanted: bool) {
        if self.wanted && !wanted {
            self.remove().await;
        }
        self.wanted = wanted;
        self.restore().await;
    }

    /// Sets the rule where it is wanted and not there.
    pub(super) async fn restore(&self) {
        if self.wanted && !self.iptables("-C").await && !self.iptables("-I").await {
            tracing::debug!(bridge = self.bridge, "no rule in DOCKER-USER");
        }
    }

    /// Removes the rule, however often it is there.
    pub(super) async fn remove(&self) {
        while self.iptables("-D").await {}
    }

    /// Whether iptables did it. A call that is cut off did it or did nothing.
    async fn iptables(&self, verb: &str) -> bool {
        let mut command = Command::new("iptables");
        command.args(["-w", LOCK_SECONDS, verb]).args(rule(&self.bridge));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command.status().await.is_ok_and(|status| status.success())
    }
}

/// What was translated and goes to pods passes: by our rules, or by Docker's, which let it pass too.
fn rule(bridge: &str) -> [&str; 9] {
    ["DOCKER-USER", "-o", bridge, "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT"]
}
