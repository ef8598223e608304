//! What the supervisor tells a worker.

use std::sync::{Arc, Mutex, PoisonError};

use coracle_api::{client::Wire, core::Pod};
use tokio::{sync::Notify, time::Instant};

use crate::runtime::{Container, ContainerId};

/// How the manager wakes a worker: the newest of each kind of news, no queue.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    news: Mutex<News>,
    notify: Notify,
}

#[derive(Debug, Default)]
pub(super) struct News {
    /// The pod, or that it is gone.
    pub(super) pod: Option<Option<Arc<Wire<Pod>>>>,
    /// Its containers, and when the look at them began.
    pub(super) containers: Option<(Instant, Vec<Arc<Container>>)>,
    /// What changed since.
    pub(super) changed: Changed,
}

/// Which of its containers changed.
#[derive(Debug, Default)]
pub(super) enum Changed {
    /// None.
    #[default]
    None,
    /// These; few.
    Some(Vec<ContainerId>),
    /// Some, nobody knows which.
    Any,
}

/// More than these and it is not remembered which they were.
const CHANGED_MAX: usize = 8;

impl Changed {
    fn add(&mut self, id: ContainerId) {
        match self {
            Self::None => *self = Self::Some(vec![id]),
            Self::Some(ids) if ids.contains(&id) => {}
            Self::Some(ids) if ids.len() < CHANGED_MAX => ids.push(id),
            Self::Some(_) | Self::Any => *self = Self::Any,
        }
    }
}

impl Mailbox {
    fn tell(&self, news: impl FnOnce(&mut News)) {
        news(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }

    /// The pod is now so, or gone.
    pub(super) fn pod(&self, pod: Option<Arc<Wire<Pod>>>) {
        self.tell(|news| news.pod = Some(pod));
    }

    /// Its containers were so when a look that began then ended.
    pub(super) fn containers(&self, since: Instant, containers: Vec<Arc<Container>>) {
        self.tell(|news| news.containers = Some((since, containers)));
    }

    /// One of its containers changed.
    pub(super) fn changed(&self, id: ContainerId) {
        self.tell(|news| news.changed.add(id));
    }

    /// Some of its containers changed.
    pub(super) fn changed_any(&self) {
        self.tell(|news| news.changed = Changed::Any);
    }

    /// Whether there is news that nobody took.
    pub(super) fn has_news(&self) -> bool {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.pod.is_some() || news.containers.is_some() || !matches!(news.changed, Changed::None)
    }

    /// Waits for news.
    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// The news since the last time.
    pub(super) fn take(&self) -> News {
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
