//! What happens again is counted in the event that is there, not told anew.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
};

use super::Event;
use crate::meta::Time;

/// Events that a reporter remembers. Beyond that the one that was seen longest ago is forgotten: its
/// next repeat begins a new count.
const REMEMBERED_MAX: usize = 1024;

/// What a reporter has to tell the master.
#[derive(Debug, Clone, PartialEq)]
pub enum Telling {
    /// An event to create.
    New(Event),
    /// One that was told before, with its new count and time: to update, or to create if it has
    /// expired meanwhile.
    Again(Event),
}

impl Telling {
    /// The event as it is to be stored.
    pub fn event(&self) -> &Event {
        match self {
            Self::New(event) | Self::Again(event) => event,
        }
    }
}

/// What is kept of an event that was told: enough to tell it again.
#[derive(Debug)]
struct Told {
    /// Orders by when it was told last.
    at: u64,
    name: Option<String>,
    first: Option<Time>,
    count: i32,
}

/// The events that one reporter has told of late. A cluster has as many reporters as minions, so little
/// is kept of each event, and what makes two of them the same only as a hash.
#[derive(Debug, Default)]
pub struct Repeats {
    hasher: RandomState,
    told: HashMap<u64, Told>,
    /// By when they were told last.
    order: BTreeMap<u64, u64>,
    next: u64,
}

impl Repeats {
    /// What there is to tell of events in this order, each of them once.
    pub fn gather(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Telling> {
        let mut tellings: Vec<Telling> = Vec::new();
        let mut places: HashMap<Option<String>, usize> = HashMap::new();
        for event in events {
            let telling = self.note(event);
            match places.get(&telling.event().metadata.name).and_then(|place| tellings.get_mut(*place)) {
                Some(Telling::New(told) | Telling::Again(told)) => told.clone_from(telling.event()),
                None => {
                    places.insert(telling.event().metadata.name.clone(), tellings.len());
                    tellings.push(telling);
                }
            }
        }
        tellings
    }

    fn note(&mut self, mut event: Event) -> Telling {
        let same = self.hasher.hash_one(sameness(&event));
        let known = self.told.remove(&same);
        let is_new = known.is_none();
        if let Some(told) = known {
            self.order.remove(&told.at);
            (event.metadata.name, event.first_timestamp) = (told.name, told.first);
            event.count = Some(told.count.saturating_add(1));
        }
        let (name, first) = (event.metadata.name.clone(), event.first_timestamp.clone());
        self.told.insert(same, Told { at: self.next, name, first, count: event.count.unwrap_or(1) });
        self.order.insert(self.next, same);
        self.next += 1;
        if self.order.len() > REMEMBERED_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.told.remove(&oldest);
        }
        if is_new { Telling::New(event) } else { Telling::Again(event) }
    }
}

/// What makes two events the same.
fn sameness(event: &Event) -> [Option<&str>; 8] {
    let object = &event.involved_object;
    [
        object.kind.as_deref(),
        event.metadata.namespace.as_deref(),
        object.name.as_deref(),
        object.uid.as_deref(),
        object.field_path.as_deref(),
        event.reason.as_deref(),
        event.message.as_deref(),
        event.source.as_ref().and_then(|source| source.component.as_deref()),
    ]
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{
        super::{EventType, record},
        *,
    };
    use crate::{core::Pod, meta::ObjectMeta};

    fn event(pod: &str, message: &str, second: i64) -> Event {
        let metadata = ObjectMeta { name: Some(pod.into()), namespace: Some("n".into()), ..Default::default() };
        let now = Timestamp::from_second(second).unwrap();
        record(&Pod { metadata, ..Default::default() }, EventType::Warning, "BackOff", message, "minion", "", now)
    }

    #[test]
    fn a_repeat_counts_in_the_first() {
        let mut repeats = Repeats::default();
        let first = event("p", "again", 10);
        assert_eq!(repeats.gather([first.clone()]), [Telling::New(first.clone())]);
        let told = repeats.gather([event("p", "again", 20), event("p", "other", 20), event("p", "again", 30)]);
        let [Telling::Again(again), Telling::New(other)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(again.metadata.name, first.metadata.name);
        assert_eq!((again.count, &again.first_timestamp), (Some(3), &first.first_timestamp));
        assert_eq!(again.last_timestamp, event("p", "again", 30).last_timestamp);
        assert_eq!(other.message.as_deref(), Some("other"));
    }

    #[test]
    fn one_that_is_new_and_repeated_at_once_is_created_with_its_count() {
        let told = Repeats::default().gather([event("p", "m", 1), event("p", "m", 2)]);
        let [Telling::New(event)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(event.count, Some(2));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes() {
        let mut repeats = Repeats::default();
        let name = |i: usize| format!("p{i}");
        repeats.gather((0..REMEMBERED_MAX).map(|i| event(&name(i), "m", 1)));
        // Told again, so it is not the oldest.
        repeats.gather([event(&name(0), "m", 2), event(&name(REMEMBERED_MAX), "m", 2)]);
        assert_eq!((repeats.told.len(), repeats.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert!(matches!(repeats.gather([event(&name(0), "m", 3)])[..], [Telling::Again(_)]));
        assert!(matches!(repeats.gather([event(&name(1), "m", 3)])[..], [Telling::New(_)]));
    }
}
