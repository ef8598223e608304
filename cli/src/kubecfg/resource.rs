//! The five resources kubecfg knows, under their 0.5.4 names.

use serde_json::Value;

/// A resource as it appears in paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    Events,
    Minions,
    Pods,
    ReplicationControllers,
    Services,
}

impl Resource {
    /// In the order of the usage text.
    const ALL: [Resource; 5] =
        [Resource::Events, Resource::Minions, Resource::Pods, Resource::ReplicationControllers, Resource::Services];

    /// Reads a name. Exact, as in 0.5.4.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == name)
    }

    /// The path segment.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Resource::Events => "events",
            Resource::Minions => "minions",
            Resource::Pods => "pods",
            Resource::ReplicationControllers => "replicationControllers",
            Resource::Services => "services",
        }
    }

    /// The `kind` of its objects.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Resource::Events => "Event",
            Resource::Minions => "Minion",
            Resource::Pods => "Pod",
            Resource::ReplicationControllers => "ReplicationController",
            Resource::Services => "Service",
        }
    }

    /// `events|minions|...`
    pub(crate) fn choices() -> String {
        Self::ALL.map(Resource::as_str).join("|")
    }
}

/// Text of a JSON value at `path`, or "".
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Entries of a JSON array at `path`, or none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
