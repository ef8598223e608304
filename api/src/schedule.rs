//! What would become of pods that were created now: the answer of `POST /coracle/v1/schedule`.

use serde::{Deserialize, Serialize};

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleExplanation {
    /// How many minions there are.
    pub minions: usize,
    /// What minions that fit are compared by, in the order of [`MinionVerdict::points`].
    pub priorities: Vec<Priority>,
    /// One for each pod, in order; each counts those before it as placed.
    pub pods: Vec<PodPlacement>,
    /// Objects of the request that have no pods, as `kind/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// One priority.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Priority {
    /// Its name.
    pub name: String,
    /// The most points that it gives.
    pub weight: f64,
}

/// What would become of one pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPlacement {
    /// Its namespace.
    pub namespace: String,
    /// Its name; for the pod of a template, the controller's with a number.
    pub name: String,
    /// The minion that it would go to; none if it would wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minion: Option<String>,
    /// One sentence: where it goes, or why it waits.
    pub message: String,
    /// The chosen minion, then the others that fit, the best first, then those that do not.
    pub verdicts: Vec<MinionVerdict>,
    /// Minions that are not listed, because they are many.
    #[serde(default)]
    pub omitted: usize,
}

/// What speaks for a minion, or against it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MinionVerdict {
    /// The minion.
    pub minion: String,
    /// The points by priority; none if it does not fit, or was not compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<f64>,
    /// Their sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
    /// Why not, in one word; none if it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same as a phrase, with figures.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
