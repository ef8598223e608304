//! When a status is written to the master: at once on change, one write at a time, the latest
//! wins, failures back off. Pure.
//!
//! The master's watch echoes our own writes, late; only a status that we did not write lately was
//! written by someone else (a lost node's, say) and is corrected.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use coracle_api::core::PodStatus;
use jiff::Timestamp;

use super::{
    backoff::after,
    report::{ReportError, StatusText},
};

/// Own writes whose echo may still come.
const RECENT_MAX: usize = 8;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// That a pod is being started is worth a write only if it takes this long.
const STARTING_DELAY: Duration = Duration::from_millis(300);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct StatusWriter {
    wanted: Option<Arc<PodStatus>>,
    /// What the master has, as far as known.
    stored: Option<Arc<PodStatus>>,
    sending: Option<Arc<StatusText>>,
    /// Someone else's write, seen while ours was under way.
    foreign: Option<Arc<PodStatus>>,
    recent: VecDeque<Arc<StatusText>>,
    failures: u32,
    not_before: Option<Timestamp>,
}

impl StatusWriter {
    /// The status that the master should have.
    pub(super) fn want(&mut self, status: &Arc<PodStatus>, now: Timestamp) {
        if self.wanted.as_ref().is_some_and(|wanted| Arc::ptr_eq(wanted, status) || wanted == status) {
            return;
        }
        if self.failures == 0 {
            self.not_before = match (is_starting(status), &self.wanted) {
                (true, None) => Some(after(now, STARTING_DELAY)),
                (true, Some(_)) => self.not_before,
                (false, _) => None,
            };
        }
        self.wanted = Some(Arc::clone(status));
    }

    /// The status that the master was seen to have.
    pub(super) fn see(&mut self, status: Option<&PodStatus>, now: Timestamp) {
        let none = PodStatus::default();
        let status = status.unwrap_or(&none);
        let is = |known: &Option<Arc<PodStatus>>| known.as_deref() == Some(status);
        if let Some(at) = self.recent.iter().position(|sent| **sent.status() == *status) {
            self.recent.drain(..at);
        } else if self.sending.is_some() {
            self.foreign = Some(Arc::new(status.clone()));
        } else if !is(&self.stored) {
            // Two writers that disagree must not run hot.
            if self.stored.is_some() && !is(&self.wanted) {
                self.back_off(now);
            }
            self.stored = Some(Arc::new(status.clone()));
            // A write whose answer was lost has arrived.
            if self.stored == self.wanted {
                (self.failures, self.not_before) = (0, None);
            }
        }
    }

    /// The status to write now, if any. Tell how it went with [`StatusWriter::sent`].
    pub(super) fn next(&mut self, now: Timestamp) -> Option<Arc<StatusText>> {
        let due = self.not_before.is_none_or(|at| at <= now);
        if !due || self.sending.is_some() || self.wanted == self.stored {
            return None;
        }
        let text = Arc::new(StatusText::of(self.wanted.as_ref()?));
        self.sending = Some(Arc::clone(&text));
        Some(text)
    }

    /// The status of which this is the JSON, if it was written lately or is being written.
    pub(super) fn wrote(&self, json: &[u8]) -> Option<Arc<PodStatus>> {
        let mut sent = self.recent.iter().chain(&self.sending);
        Some(Arc::clone(sent.find(|sent| sent.json().as_bytes() == json)?.status()))
    }

    /// Whether the master has what it should, as far as known.
    pub(super) fn is_quiet(&self) -> bool {
        self.sending.is_none() && self.failures == 0 && self.wanted == self.stored
    }

    /// When to ask again although nothing changes.
    pub(super) fn retry_at(&self) -> Option<Timestamp> {
        self.not_before.filter(|_| self.sending.is_none() && self.wanted != self.stored)
    }

    /// How the write went.
    pub(super) fn sent(&mut self, result: &Result<(), ReportError>, now: Timestamp) {
        let Some(sent) = self.sending.take() else { return };
        match result {
            Ok(()) | Err(ReportError::Gone) => {
                let status = Arc::clone(sent.status());
                self.recent.push_back(sent);
                if self.recent.len() > RECENT_MAX {
                    self.recent.pop_front();
                }
                (self.failures, self.not_before) = (0, None);
                // Seen before the answer: our own echo, or someone else's write on top of it.
                let foreign = self.foreign.take().filter(|f| self.recent.iter().all(|sent| sent.status() != f));
                self.stored = Some(foreign.unwrap_or(status));
            }
            Err(ReportError::Retry(_)) => self.back_off(now),
        }
    }

    fn back_off(&mut self, now: Timestamp) {
        self.not_before = Some(after(now, RETRY_MIN.saturating_mul(1 << self.failures.min(10)).min(RETRY_MAX)));
        self.failures = self.failures.saturating_add(1);
    }
}

/// Whether it says no more than that containers are being created.
pub(super) fn is_starting(status: &PodStatus) -> bool {
    let mut containers = status.container_statuses.iter().flatten();
    status.phase.as_deref() == Some("Pending")
        && status.message.is_none()
        && containers.all(|c| {
            let waiting = c.state.as_ref().and_then(|s| s.waiting.as_ref());
            waiting.is_some_and(|w| w.message.is_none())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn status(phase: &str) -> Arc<PodStatus> {
        Arc::new(PodStatus { phase: Some(phase.into()), ..Default::default() })
    }

    fn next(writer: &mut StatusWriter, now: Timestamp) -> Option<Arc<PodStatus>> {
        Some(Arc::clone(writer.next(now)?.status()))
    }

    fn later(ms: u64) -> Timestamp {
        after(NOW, Duration::from_millis(ms))
    }

    #[test]
    fn a_status_is_written_once_and_its_echo_changes_nothing() {
        let mut writer = StatusWriter::default();
        writer.want(&status("Running"), NOW);
        assert_eq!(next(&mut writer, NOW), Some(status("Running")));
        assert_eq!(next(&mut writer, NOW), None, "one at a time");
        writer.sent(&Ok(()), NOW);
        writer.see(Some(&status("Running")), NOW);
        writer.want(&status("Running"), NOW);
        assert_eq!(next(&mut writer, NOW), None);
    }

    #[test]
    fn a_write_that_arrived_without_an_answer_is_not_repeated_and_is_over() {
        let mut writer = StatusWriter::default();
        writer.want(&status("Running"), NOW);
        writer.next(NOW);
        writer.sent(&Err(ReportError::Retry("no answer".into())), NOW);
        assert!(!writer.is_quiet());
        writer.see(Some(&status("Running")), NOW);
        assert!(writer.is_quiet() && writer.retry_at().is_none() && writer.next(later(10_000)).is_none());
    }

    #[test]
    fn an_echo_is_known_by_its_json_before_and_after_the_answer() {
        let mut writer = StatusWriter::default();
        let json = |status: &PodStatus| serde_json::to_vec(status).unwrap();
        let (ours, other) = (status("Running"), status("Failed"));
        writer.want(&ours, NOW);
        assert_eq!(writer.wrote(&json(&ours)), None, "not sent yet");
        writer.next(NOW);
        assert_eq!(writer.wrote(&json(&ours)), Some(ours.clone()));
        writer.sent(&Ok(()), NOW);
        assert_eq!(writer.wrote(&json(&ours)), Some(ours));
        assert_eq!((writer.wrote(&json(&other)), writer.wrote(b"")), (None, None));
    }

    #[test]
    fn the_latest_status_wins_while_a_write_is_under_way() {
        let mut writer = StatusWriter::default();
        for phase in ["A", "B", "C"] {
            writer.want(&status(phase), NOW);
            writer.next(NOW);
        }
        writer.see(Some(&status("A")), NOW);
        writer.sent(&Ok(()), NOW);
        assert_eq!(next(&mut writer, NOW), Some(status("C")));
        writer.sent(&Ok(()), NOW);
        writer.see(Some(&status("A")), NOW);
        assert_eq!(next(&mut writer, NOW), None, "a late echo of our own is no reason to write");
    }

    #[test]
    fn what_someone_else_wrote_is_corrected() {
        let mut writer = StatusWriter::default();
        writer.want(&status("Running"), NOW);
        writer.next(NOW);
        writer.see(Some(&status("NodeLost")), NOW);
        writer.sent(&Ok(()), NOW);
        assert_eq!(next(&mut writer, NOW), Some(status("Running")));
        writer.sent(&Ok(()), NOW);
        writer.see(Some(&status("NodeLost")), NOW);
        assert_eq!(next(&mut writer, NOW), None, "not in a hot loop");
        let retry_at = writer.retry_at().unwrap();
        assert_eq!(next(&mut writer, retry_at), Some(status("Running")));
    }

    #[test]
    fn failed_writes_are_repeated_ever_more_slowly() {
        let mut writer = StatusWriter::default();
        writer.want(&status("Running"), NOW);
        let (mut now, mut waits) = (NOW, Vec::new());
        for _ in 0..9 {
            assert!(writer.next(now).is_some());
            writer.sent(&Err(ReportError::Retry("down".into())), now);
            let next = writer.retry_at().unwrap();
            waits.push(next.duration_since(now).as_millis());
            now = next;
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn a_quick_start_is_not_worth_a_write() {
        let mut writer = StatusWriter::default();
        writer.see(Some(&status("Pending")), NOW);
        let starting = PodStatus { host_ip: Some("x".into()), ..Arc::unwrap_or_clone(status("Pending")) };
        let starting = Arc::new(starting);
        writer.want(&starting, NOW);
        assert_eq!(next(&mut writer, NOW), None);
        assert_eq!(next(&mut writer, later(300)), Some(starting));
    }
}
