//! Which of several masters is asked. Pure: outcomes in, the next master out.
//!
//! A client sticks to the master that answered last. A request goes once round the list at most,
//! starting there; what could have been done already is repeated only where that does no harm.

/// What became of asking one master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered, be it with an error.
    Answered,
    /// It answered that it can't do it now (503): it stops, or its store does not take writes.
    Busy,
    /// It was not reached; the request never left.
    NotSent,
    /// The request left, and no answer came: it may have been done.
    Lost,
}

/// One request's way along the masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Round {
    count: usize,
    first: usize,
    asked: usize,
    repeatable: bool,
}

impl Round {
    /// Starts at `current`, one of `count` masters. `repeatable`: doing the request twice is as
    /// good as once.
    pub(super) fn new(count: usize, current: usize, repeatable: bool) -> Self {
        Self { count: count.max(1), first: current, asked: 1, repeatable }
    }

    /// The master to ask.
    pub(super) fn at(&self) -> usize {
        (self.first + self.asked - 1) % self.count
    }

    /// Whether another master may yet be asked when this one gives no answer.
    pub(super) fn may_go_on(&self) -> bool {
        self.repeatable && self.asked < self.count
    }

    /// Moves on to the next master; `false` when the outcome is final.
    pub(super) fn next(&mut self, outcome: Outcome) -> bool {
        let harmless = match outcome {
            Outcome::Answered => false,
            Outcome::NotSent => true,
            Outcome::Busy | Outcome::Lost => self.repeatable,
        };
        let goes_on = harmless && self.asked < self.count;
        if goes_on {
            self.asked += 1;
        }
        goes_on
    }

    /// Whom to stick to after this outcome, when `current` is who was stuck to before: another
    /// request may have moved on meanwhile. A busy master is left only for one that answered: it
    /// may be that none can do better.
    pub(super) fn stick(&self, current: usize, outcome: Outcome) -> usize {
        match outcome {
            Outcome::NotSent | Outcome::Lost if current == self.at() => (current + 1) % self.count,
            Outcome::Answered if self.was_asked(current) => self.at(),
            _ => current,
        }
    }

    fn was_asked(&self, master: usize) -> bool {
        (master + self.count - self.first % self.count) % self.count < self.asked
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Outcome::*, *};

    /// Plays a request with these outcomes: the masters asked, and who is stuck to in the end.
    fn check(count: usize, current: usize, repeatable: bool, outcomes: &[Outcome], asked: &[usize], stuck: usize) {
        let mut round = Round::new(count, current, repeatable);
        let (mut found, mut current) = (vec![round.at()], current);
        for (i, outcome) in outcomes.iter().enumerate() {
            current = round.stick(current, *outcome);
            let goes_on = round.next(*outcome);
            assert_eq!(goes_on, i + 1 < outcomes.len(), "after {outcome:?} as number {i} of {outcomes:?}");
            if goes_on {
                found.push(round.at());
            }
        }
        assert_eq!((found.as_slice(), current), (asked, stuck), "{outcomes:?}");
    }

    #[test]
    fn the_one_that_works_is_kept() {
        check(3, 1, true, &[Answered], &[1], 1);
        check(1, 0, true, &[Answered], &[0], 0);
    }

    #[test]
    fn one_that_is_not_there_is_passed_over_whatever_the_request() {
        check(3, 2, false, &[NotSent, Answered], &[2, 0], 0);
        check(3, 2, true, &[NotSent, NotSent, Answered], &[2, 0, 1], 1);
    }

    #[test]
    fn what_may_have_been_done_is_repeated_only_where_it_does_no_harm() {
        check(2, 0, true, &[Lost, Answered], &[0, 1], 1);
        check(2, 0, false, &[Lost], &[0], 1);
        check(2, 0, false, &[NotSent, Lost], &[0, 1], 0);
        check(2, 0, false, &[Busy], &[0], 0);
    }

    #[test]
    fn a_busy_one_is_left_only_for_one_that_is_not() {
        check(3, 0, true, &[Busy, Answered], &[0, 1], 1);
        check(3, 0, true, &[Busy, Busy, Busy], &[0, 1, 2], 0);
        check(3, 0, true, &[NotSent, Busy, Answered], &[0, 1, 2], 2);
        check(2, 0, true, &[Busy, NotSent], &[0, 1], 0);
    }

    #[test]
    fn none_is_asked_twice() {
        check(2, 1, true, &[NotSent, NotSent], &[1, 0], 1);
        check(1, 0, true, &[Lost], &[0], 0);
    }

    #[test]
    fn a_late_failure_does_not_move_those_who_moved_already() {
        let round = Round::new(3, 0, true);
        assert_eq!(round.stick(1, Lost), 1);
        assert_eq!(round.stick(2, Answered), 2);
    }

    proptest! {
        #[test]
        fn a_round_is_bounded_and_stays_in_the_list(
            count in 1usize..6, start in 0usize..6, repeatable: bool, outcomes in prop::collection::vec(0..4u8, 8)
        ) {
            let mut current = start % count;
            let mut round = Round::new(count, current, repeatable);
            let mut asked = vec![round.at()];
            for outcome in outcomes {
                let outcome = [Answered, Busy, NotSent, Lost][usize::from(outcome)];
                current = round.stick(current, outcome);
                prop_assert!(current < count);
                if !round.next(outcome) {
                    break;
                }
                prop_assert!(repeatable || outcome == NotSent);
                prop_assert!(!asked.contains(&round.at()));
                asked.push(round.at());
            }
            prop_assert!(asked.len() <= count);
        }
    }
}
