//! Pipes that bytes go through from socket to socket without being copied.
//!
//! Invariant: a pipe in the pool is empty.

use std::{cell::RefCell, os::fd::OwnedFd};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::sync::OwnedSemaphorePermit;

use crate::Budget;

/// Room of a pipe.
pub(super) const PIPE_BYTES: usize = 256 << 10;
/// Pipes of one worker, used or not; connections beyond that copy.
const PIPES_MAX: usize = 128;
/// Unused pipes that are kept.
const KEPT_MAX: usize = 16;

/// An empty pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
    _budget: OwnedSemaphorePermit,
}

/// The pipes of one worker.
#[derive(Debug)]
pub struct Pipes {
    budget: Budget,
    pool: RefCell<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    unused: Vec<Pipe>,
    used: usize,
}

/// A pipe that is in use. Dropped with bytes in it, it is closed.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    pipes: &'a Pipes,
    pipe: Option<Pipe>,
}

impl Pipes {
    /// No pipe yet; those to come are of the budget.
    pub fn new(budget: Budget) -> Self {
        Self { budget, pool: RefCell::default() }
    }

    /// A pipe, unless there are too many.
    pub(super) fn lease(&self) -> Option<Lease<'_>> {
        let mut pool = self.pool.borrow_mut();
        if pool.used >= PIPES_MAX {
            return None;
        }
        let pipe = match pool.unused.pop() {
            Some(pipe) => pipe,
            None => self.open()?,
        };
        pool.used += 1;
        Some(Lease { pipes: self, pipe: Some(pipe) })
    }

    fn open(&self) -> Option<Pipe> {
        let budget = self.budget.try_take(2)?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // The default is smaller, and will do.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Some(Pipe { read, write, _budget: budget })
    }
}

impl Lease<'_> {
    pub(super) fn pipe(&self) -> Option<&Pipe> {
        self.pipe.as_ref()
    }

    /// Gives an empty pipe back.
    pub(super) fn give_back(mut self) {
        let mut pool = self.pipes.pool.borrow_mut();
        if let Some(pipe) = self.pipe.take().filter(|_| pool.unused.len() < KEPT_MAX) {
            pool.unused.push(pipe);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.pipes.pool.borrow_mut().used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_bounded_and_used_again() {
        let pipes = Pipes::new(Budget::of_process());
        let mut leases: Vec<_> = (0..PIPES_MAX).map(|_| pipes.lease().unwrap()).collect();
        assert!(pipes.lease().is_none());
        leases.pop().unwrap().give_back();
        drop(leases.pop());
        assert_eq!(pipes.pool.borrow().unused.len(), 1, "only the one that is empty");
        leases.push(pipes.lease().unwrap());
        assert_eq!(pipes.pool.borrow().unused.len(), 0);
    }
}
