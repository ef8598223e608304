//! The connected slaves, and which of them gets the next build.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::jenkins::name::Name;

const BUILD_TIMEOUT: Duration = Duration::from_secs(10);

/// A build on its way to a slave: where to report the host that ran it. Dropping it says that the slave is gone.
pub(super) type Work = oneshot::Sender<Name>;

/// The slaves of a master. Each belongs to the task of its connection, for as long as that holds its [`Membership`].
#[derive(Debug, Default)]
pub(super) struct Slaves {
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    by_name: BTreeMap<Name, Seat>,
    connections: u64,
}

#[derive(Debug)]
struct Seat {
    connection: u64,
    executors: usize,
    idle: Arc<Semaphore>,
    builds: u64,
    work: mpsc::Sender<Work>,
}

/// One slave as the pages show it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SlaveView {
    pub(super) name: Name,
    pub(super) executors: usize,
    pub(super) busy: usize,
}

/// A build that a slave has run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) slave: Name,
    pub(super) hostname: Name,
}

/// Why there was no build.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotBuilt {
    /// No slave, or all of them busy.
    NoneIdle,
    /// The slave's connection ended first.
    SlaveLost(Name),
    /// The slave is connected and says nothing about it.
    TimedOut(Name),
}

impl fmt::Display for NotBuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneIdle => write!(f, "no slave is idle"),
            Self::SlaveLost(slave) => write!(f, "slave {slave} went away during the build"),
            Self::TimedOut(slave) => {
                write!(f, "slave {slave} did not finish the build in {} s", BUILD_TIMEOUT.as_secs())
            }
        }
    }
}

impl Slaves {
    /// Registers a slave. One of the same name that is still there is the same process on an older connection, whose end has
    /// not been noticed yet: it gets no more work and its task ends.
    pub(super) fn join(self: &Arc<Self>, name: Name, executors: u8) -> Membership {
        let executors = usize::from(executors);
        let (work, receiver) = mpsc::channel(executors);
        let mut seats = self.lock();
        seats.connections += 1;
        let connection = seats.connections;
        let seat = Seat { connection, executors, idle: Arc::new(Semaphore::new(executors)), builds: 0, work };
        seats.by_name.insert(name.clone(), seat);
        drop(seats);
        Membership { slaves: Arc::clone(self), name, connection, work: receiver }
    }

    /// All slaves, by name.
    pub(super) fn view(&self) -> Vec<SlaveView> {
        let view = |(name, seat): (&Name, &Seat)| SlaveView {
            name: name.clone(),
            executors: seat.executors,
            busy: seat.executors.saturating_sub(seat.idle.available_permits()),
        };
        self.lock().by_name.iter().map(view).collect()
    }

    /// Runs a build on the idle slave that has the most executors free, then on the one that has built least.
    pub(super) async fn build(&self) -> Result<Finished, NotBuilt> {
        let (report, reported) = oneshot::channel();
        let (slave, _executor) = self.dispatch(report)?;
        match timeout(BUILD_TIMEOUT, reported).await {
            Ok(Ok(hostname)) => Ok(Finished { slave, hostname }),
            Ok(Err(_)) => Err(NotBuilt::SlaveLost(slave)),
            Err(_) => Err(NotBuilt::TimedOut(slave)),
        }
    }

    fn dispatch(&self, report: Work) -> Result<(Name, OwnedSemaphorePermit), NotBuilt> {
        let mut seats = self.lock();
        let idle = seats.by_name.iter_mut().filter(|(_, seat)| seat.idle.available_permits() > 0);
        let best = idle.min_by_key(|(_, seat)| (usize::MAX - seat.idle.available_permits(), seat.builds));
        let (name, seat) = best.ok_or(NotBuilt::NoneIdle)?;
        let executor = Arc::clone(&seat.idle).try_acquire_owned().map_err(|_| NotBuilt::NoneIdle)?;
        seat.work.try_send(report).map_err(|_| NotBuilt::SlaveLost(name.clone()))?;
        seat.builds += 1;
        Ok((name.clone(), executor))
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slave's place among the slaves, given up when dropped.
pub(super) struct Membership {
    slaves: Arc<Slaves>,
    name: Name,
    connection: u64,
    work: mpsc::Receiver<Work>,
}

impl Membership {
    /// The next build for this slave; `None` when a newer connection has taken its place. Cancel safe.
    pub(super) async fn work(&mut self) -> Option<Work> {
        self.work.recv().await
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut seats = self.slaves.lock();
        if seats.by_name.get(&self.name).is_some_and(|seat| seat.connection == self.connection) {
            seats.by_name.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn names(slaves: &Slaves) -> Vec<String> {
        slaves.view().iter().map(|slave| slave.name.to_string()).collect()
    }

    #[tokio::test]
    async fn builds_take_turns_and_stop_when_every_executor_is_busy() {
        let slaves = Arc::new(Slaves::default());
        let mut a = slaves.join(name("a"), 1);
        let mut b = slaves.join(name("b"), 1);
        let (report, _reported) = oneshot::channel();
        let (first, executor) = slaves.dispatch(report).unwrap();
        let (report, _reported) = oneshot::channel();
        let (second, _executor) = slaves.dispatch(report).unwrap();
        assert_eq!((first, second), (name("a"), name("b")));
        assert_eq!(slaves.build().await, Err(NotBuilt::NoneIdle));

        drop((a.work().await, b.work().await, executor));
        assert_eq!(slaves.view().iter().map(|slave| slave.busy).collect::<Vec<_>>(), [0, 1]);
    }

    #[tokio::test]
    async fn a_build_reports_the_host_or_the_loss_of_its_slave() {
        let slaves = Arc::new(Slaves::default());
        let mut a = slaves.join(name("a"), 2);
        let finish = async {
            a.work().await.unwrap().send(name("host")).unwrap();
            drop(a.work().await.unwrap());
        };
        let builds = async { (slaves.build().await, slaves.build().await) };
        let ((), (first, second)) = tokio::join!(finish, builds);
        assert_eq!(first, Ok(Finished { slave: name("a"), hostname: name("host") }));
        assert_eq!(second, Err(NotBuilt::SlaveLost(name("a"))));
    }

    #[tokio::test]
    async fn a_newer_connection_takes_the_place_of_the_older_and_keeps_it() {
        let slaves = Arc::new(Slaves::default());
        let mut older = slaves.join(name("a"), 1);
        let newer = slaves.join(name("a"), 1);
        assert!(older.work().await.is_none());
        drop(older);
        assert_eq!(names(&slaves), ["a"]);
        drop(newer);
        assert!(names(&slaves).is_empty());
    }
}
