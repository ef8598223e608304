//! Events: what happened to an object, and why.
//!
//! Owns the kind's rules, the pure construction of an event and the counting of repeats; posting is
//! the reporter's matter.

mod repeats;

pub use repeats::{Repeats, Telling};

use crate::{
    core::{Event, EventSource, ObjectReference},
    error::FieldErrors,
    kinds::{Kind, Object, TypedObject},
    meta::{ObjectMeta, Time},
};

/// The row of this kind.
pub static KIND: Kind = Kind {
    short_names: &["ev"],
    fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "source",
        "type",
    ],
    ..Kind::of::<Event>("events", "event")
};

/// Longest message of an event, in characters.
pub const MAX_MESSAGE: usize = 1024;

/// Whether an event is good or bad news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Someone may have to act.
    Warning,
}

impl EventType {
    /// The wire form.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// The event that `component` on `host` ("" if none) reports on an object at `now`. Named
/// `<object>.<hex unix nanoseconds>`; events about cluster-scoped objects live in `default`.
/// A long message is cut.
pub fn record(
    regarding: &dyn Object,
    type_: EventType,
    reason: &str,
    message: &str,
    component: &str,
    host: &str,
    now: jiff::Timestamp,
) -> Event {
    let meta = regarding.meta();
    let namespace = match regarding.namespace() {
        "" => "default",
        namespace => namespace,
    };
    let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", regarding.name(), now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..Default::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some(regarding.kind().kind.into()),
            name: meta.name.clone(),
            namespace: set(regarding.namespace()),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            ..Default::default()
        },
        type_: Some(type_.as_str().into()),
        reason: set(reason),
        message: set(&cut(message)),
        source: Some(EventSource { component: set(component), host: set(host) }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: Some(host.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Default::default()
    }
}

fn cut(message: &str) -> String {
    if message.chars().count() <= MAX_MESSAGE {
        return message.to_owned();
    }
    message.chars().take(MAX_MESSAGE - 1).chain(['…']).collect()
}

impl TypedObject for Event {
    fn row() -> &'static Kind {
        &KIND
    }

    fn set_defaults(&mut self) {
        self.type_.get_or_insert_with(|| EventType::Normal.as_str().into());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        if let Some(type_) = self.type_.as_deref()
            && !["Normal", "Warning"].contains(&type_)
        {
            errors.not_supported("type", type_, &["Normal", "Warning"]);
        }
        let own = self.metadata.namespace.as_deref().unwrap_or_default();
        let theirs = self.involved_object.namespace.as_deref().unwrap_or_default();
        if theirs != own && !(theirs.is_empty() && own == "default") {
            errors.invalid(
                "involvedObject.namespace",
                theirs,
                format_args!(
                    "must be the event's own namespace, '{own}' (events on cluster-scoped objects: 'default')"
                ),
            );
        }
    }

    fn field(&self, field: &str) -> Option<&str> {
        let object = &self.involved_object;
        match field {
            "involvedObject.kind" => object.kind.as_deref(),
            "involvedObject.namespace" => object.namespace.as_deref(),
            "involvedObject.name" => object.name.as_deref(),
            "involvedObject.uid" => object.uid.as_deref(),
            "involvedObject.apiVersion" => object.api_version.as_deref(),
            "involvedObject.resourceVersion" => object.resource_version.as_deref(),
            "involvedObject.fieldPath" => object.field_path.as_deref(),
            "reason" => self.reason.as_deref(),
            "source" => self.source.as_ref()?.component.as_deref(),
            "type" => self.type_.as_deref(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Node, Pod};

    fn named(name: &str, namespace: Option<&str>) -> ObjectMeta {
        ObjectMeta { name: Some(name.into()), namespace: namespace.map(Into::into), ..Default::default() }
    }

    #[test]
    fn a_recorded_event_names_its_object_and_is_valid() {
        let pod = Pod { metadata: named("jenkins", Some("ci")), ..Default::default() };
        let now = jiff::Timestamp::from_nanosecond(0xabc).unwrap();
        let event = record(&pod, EventType::Warning, "Failed", &"é".repeat(2000), "minion", "node-1", now);
        assert_eq!(event.metadata.name.as_deref(), Some("jenkins.abc"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("ci"));
        assert_eq!(TypedObject::field(&event, "involvedObject.kind"), Some("Pod"));
        assert_eq!(event.message.as_ref().unwrap().chars().count(), MAX_MESSAGE);
        assert_eq!(Object::validate(&event), Ok(()));
    }

    #[test]
    fn events_on_nodes_live_in_the_default_namespace() {
        let node = Node { metadata: named("n", None), ..Default::default() };
        let event = record(&node, EventType::Normal, "Ready", "", "master", "", jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(Object::validate(&event), Ok(()));
    }

    #[test]
    fn an_event_in_another_namespace_than_its_object_is_refused() {
        let pod = Pod { metadata: named("p", Some("a")), ..Default::default() };
        let mut event = record(&pod, EventType::Normal, "r", "m", "c", "", jiff::Timestamp::UNIX_EPOCH);
        event.metadata.namespace = Some("b".into());
        event.type_ = Some("Bad".into());
        let error = Object::validate(&event).unwrap_err();
        assert!(error.message.contains("involvedObject.namespace: invalid value: 'a': must be the event's own"));
        assert!(error.message.contains("supported values: Normal, Warning"));
    }
}
