//! The members of an etcd cluster: one connection each, and the one that requests go to.
//!
//! A request moves on to the next member where it is certain that it was not done, or doing it
//! twice changes nothing. Whoever finds a member silent leaves it for all.

use std::{fmt, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::{
    sync::{OnceCell, watch},
    time::{Instant, sleep, timeout},
};

use super::{config::EtcdConfig, fault::Fault};

/// For the connection itself.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection on which requests or watches are open and nothing arrives is asked for a sign of
/// life after this, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Between two rounds over all members, doubled up to the second.
const PAUSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// With one member.
    pub(super) each: Duration,
    /// Altogether.
    pub(super) total: Duration,
    /// Whether doing it twice is as good as once.
    pub(super) repeatable: bool,
}

impl Patience {
    /// For what changes something: once sent, it is not sent again.
    pub(super) fn once(total: Duration) -> Self {
        Self { each: total, total, repeatable: false }
    }

    /// For reads.
    pub(super) fn repeatable(each: Duration, total: Duration) -> Self {
        Self { each, total, repeatable: true }
    }
}

pub(super) struct Members {
    endpoints: Vec<String>,
    clients: Vec<OnceCell<Client>>,
    options: ConnectOptions,
    current: watch::Sender<usize>,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Members {
    /// Reads the files that the configuration names. Connects when asked something.
    pub(super) async fn new(config: &EtcdConfig) -> Result<Self, String> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
            // etcd closes connections that are asked for signs of life while nothing is open on them.
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        if let Some(login) = &config.login {
            options = options.with_user(&login.user, &login.password).with_auto_token_refresh(true);
        }
        let scheme = if let Some(tls) = &config.tls {
            let read = async |path: &std::path::Path| {
                tokio::fs::read(path).await.map_err(|e| format!("{} can't be read: {e}", path.display()))
            };
            let mut with = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca).await?));
            if let Some((certificate, key)) = &tls.client {
                with = with.identity(Identity::from_pem(read(certificate).await?, read(key).await?));
            }
            options = options.with_tls(with);
            "https"
        } else {
            "http"
        };
        let endpoints: Vec<String> = config.endpoints.iter().map(|e| format!("{scheme}://{e}")).collect();
        let clients = endpoints.iter().map(|_| OnceCell::new()).collect();
        Ok(Self { endpoints, clients, options, current: watch::Sender::new(0) })
    }

    /// Follows which member requests go to.
    pub(super) fn current(&self) -> watch::Receiver<usize> {
        self.current.subscribe()
    }

    /// A client of one member. Does not fail for want of a connection, unless there is a user to
    /// log in.
    pub(super) async fn client(&self, member: usize) -> Result<Client, Fault> {
        let connect = || Client::connect([&self.endpoints[member]], Some(self.options.clone()));
        self.clients[member].get_or_try_init(connect).await.cloned().map_err(Fault::of)
    }

    /// The member after this one.
    pub(super) fn after(&self, member: usize) -> usize {
        (member + 1) % self.endpoints.len()
    }

    /// Has requests go to the next member, unless they go to another than this one already.
    pub(super) fn leave(&self, member: usize) {
        let next = self.after(member);
        let left = self.current.send_if_modified(|current| {
            let leave = *current == member && next != member;
            if leave {
                *current = next;
            }
            leave
        });
        if left {
            let (from, to) = (&self.endpoints[member], &self.endpoints[next]);
            tracing::info!(from, to, "asking another member of etcd");
        }
    }

    /// Asks the members in turn.
    pub(super) async fn ask<T, F, R>(&self, patience: Patience, request: F) -> Result<T, Fault>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let deadline = Instant::now() + patience.total;
        let mut pause = PAUSE[0];
        let mut attempts = 0;
        loop {
            attempts += 1;
            let member = *self.current.borrow();
            let within = patience.each.min(deadline - Instant::now());
            let attempt_one = async { request(self.client(member).await?).await.map_err(Fault::of) };
            let fault = match timeout(within, attempt_one).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(fault)) => fault,
                Err(_) => Fault::no_answer(patience.each),
            };
            if fault.is_members() {
                self.leave(member);
            }
            let again = matches!(fault, Fault::Unreached(_)) || (patience.repeatable && fault.is_members());
            if !again || Instant::now() + pause >= deadline {
                return Err(fault);
            }
            if attempts % self.endpoints.len() == 0 {
                sleep(pause).await;
                pause = PAUSE[1].min(pause * 2);
            }
        }
    }
}
