//! What happens again is counted in the event that is there, not told anew.

use std::collections::{BTreeMap, HashMap};

use super::Event;

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

/// What makes two events the same.
type Sameness = [Option<String>; 8];

/// The events that one reporter has told of late.
#[derive(Debug, Default)]
pub struct Repeats {
    told: HashMap<Sameness, (u64, Event)>,
    /// By when they were told last.
    order: BTreeMap<u64, Sameness>,
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

    fn note(&mut self, event: Event) -> Telling {
        let same = sameness(&event);
        let told = self.told.remove(&same).map(|(at, told)| {
            self.order.remove(&at);
            Event {
                count: Some(told.count.unwrap_or(1).saturating_add(1)),
                last_timestamp: event.last_timestamp.clone(),
                ..told
            }
        });
        let telling = told.map_or_else(|| Telling::New(event), Telling::Again);
        self.told.insert(same.clone(), (self.next, telling.event().clone()));
        self.order.insert(self.next, same);
        self.next += 1;
        if self.order.len() > REMEMBERED_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.told.remove(&oldest);
        }
        telling
    }
}

fn sameness(event: &Event) -> Sameness {
    let object = &event.involved_object;
    [
        object.kind.clone(),
        event.metadata.namespace.clone(),
        object.name.clone(),
        object.uid.clone(),
        object.field_path.clone(),
        event.reason.clone(),
        event.message.clone(),
        event.source.as_ref().and_then(|source| source.component.clone()),
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
