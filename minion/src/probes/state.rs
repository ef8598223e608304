//! What a series of probe outcomes means. Pure.

use std::time::Duration;

use coracle_api::core::Probe;
use jiff::Timestamp;

use crate::pods::backoff::after;

/// A container that was never ready is asked at least this often: nobody should wait for the
/// period of a probe that is meant for containers in service.
const FIRST_READY_PERIOD: Duration = Duration::from_secs(1);

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// The other two wait for its first success.
    Startup,
    /// When it fails the container is restarted.
    Liveness,
    /// While it fails the pod gets no traffic.
    Readiness,
}

impl ProbeKind {
    /// As in sentences.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "startup",
            ProbeKind::Liveness => "liveness",
            ProbeKind::Readiness => "readiness",
        }
    }
}

/// When to probe and how many outcomes make a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeSettings {
    /// From the start of the container to the first probe.
    pub initial_delay: Duration,
    /// From probe to probe.
    pub period: Duration,
    /// For one answer.
    pub timeout: Duration,
    /// Successes in a row that end a failure. 1 but for readiness.
    pub successes: u32,
    /// Failures in a row that end a success.
    pub failures: u32,
}

impl ProbeSettings {
    /// The settings of a probe, with the defaults of Kubernetes.
    pub fn of(kind: ProbeKind, probe: &Probe) -> Self {
        let number =
            |n: Option<i32>, default: u32| n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default);
        let seconds = |n: Option<i32>, default: u32| Duration::from_secs(number(n, default).into());
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: if kind == ProbeKind::Readiness { number(probe.success_threshold, 1) } else { 1 },
            failures: number(probe.failure_threshold, 3),
        }
    }
}

/// The state of one probe of one run of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeState {
    kind: ProbeKind,
    settings: ProbeSettings,
    healthy: bool,
    /// A verdict was given before.
    settled: bool,
    /// Outcomes in a row that contradict the verdict.
    contrary: u32,
    /// Failures of a startup probe.
    refused: u32,
    due: Timestamp,
}

impl ProbeState {
    /// A probe of a container that runs since `started_at`, with the verdict so far.
    pub fn new(kind: ProbeKind, settings: ProbeSettings, started_at: Timestamp, healthy: bool) -> Self {
        let due = after(started_at, settings.initial_delay);
        Self { kind, settings, healthy, settled: healthy && kind == ProbeKind::Readiness, contrary: 0, refused: 0, due }
    }

    /// When to probe next.
    pub fn due(&self) -> Timestamp {
        self.due
    }

    /// Takes in an outcome. `Some` when the verdict changes.
    pub fn observe(&mut self, success: bool, now: Timestamp) -> Option<bool> {
        let changed = self.judge(success);
        let quick = self.kind == ProbeKind::Readiness && !self.settled;
        let period = if quick { self.settings.period.min(FIRST_READY_PERIOD) } else { self.settings.period };
        self.due = after(self.due, period).max(now);
        changed
    }

    fn judge(&mut self, success: bool) -> Option<bool> {
        if success == self.healthy {
            self.contrary = 0;
            // A startup probe begins unhealthy: its patience can end without a success before.
            self.refused += u32::from(self.kind == ProbeKind::Startup && !success);
            return (self.refused == self.settings.failures).then_some(false);
        }
        self.contrary += 1;
        let needed = if success { self.settings.successes } else { self.settings.failures };
        if self.contrary < needed {
            return None;
        }
        (self.healthy, self.settled, self.contrary) = (success, true, 0);
        Some(success)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(successes: u32, failures: u32) -> ProbeSettings {
        let second = Duration::from_secs(1);
        ProbeSettings { initial_delay: 5 * second, period: 10 * second, timeout: second, successes, failures }
    }

    fn check(kind: ProbeKind, healthy: bool, outcomes: &str, verdicts: &str) {
        let mut state = ProbeState::new(
            kind,
            settings(if kind == ProbeKind::Startup { 1 } else { 2 }, 3),
            Timestamp::UNIX_EPOCH,
            healthy,
        );
        let seen: String = outcomes
            .chars()
            .map(|c| match state.observe(c == '+', Timestamp::UNIX_EPOCH) {
                Some(true) => '+',
                Some(false) => '-',
                None => '.',
            })
            .collect();
        assert_eq!(seen, verdicts, "{kind:?} {outcomes}");
    }

    #[test]
    fn verdicts_change_at_the_thresholds() {
        check(ProbeKind::Liveness, true, "--+---", ".....-");
        check(ProbeKind::Readiness, false, "+-++--+---", "...+.....-");
        check(ProbeKind::Startup, false, "--++", "..+.");
        check(ProbeKind::Startup, false, "----", "..-.");
    }

    #[test]
    fn the_first_probe_waits_for_the_initial_delay_and_then_keeps_the_period() {
        let mut state = ProbeState::new(ProbeKind::Liveness, settings(1, 3), Timestamp::UNIX_EPOCH, true);
        assert_eq!(state.due().as_second(), 5);
        state.observe(true, after(Timestamp::UNIX_EPOCH, Duration::from_secs(6)));
        assert_eq!(state.due().as_second(), 15);
        state.observe(true, after(Timestamp::UNIX_EPOCH, Duration::from_secs(40)));
        assert_eq!(state.due().as_second(), 40);
    }

    #[test]
    fn a_container_that_was_never_ready_is_asked_every_second() {
        let mut state = ProbeState::new(ProbeKind::Readiness, settings(1, 3), Timestamp::UNIX_EPOCH, false);
        state.observe(false, state.due());
        assert_eq!(state.due().as_second(), 6);
        state.observe(true, state.due());
        assert_eq!(state.due().as_second(), 16);
    }

    proptest! {
        #[test]
        fn verdicts_alternate(outcomes in proptest::collection::vec(any::<bool>(), 0..60), start: bool) {
            let mut state = ProbeState::new(ProbeKind::Readiness, settings(2, 3), Timestamp::UNIX_EPOCH, start);
            let mut verdict = start;
            for outcome in outcomes {
                if let Some(new) = state.observe(outcome, Timestamp::UNIX_EPOCH) {
                    prop_assert_eq!(new, outcome);
                    prop_assert_ne!(new, verdict);
                    verdict = new;
                }
            }
        }
    }
}
