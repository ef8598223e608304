//! Which of the nodes that fit is best: priorities, each 0 to 1, and their weights.
//!
//! The weights keep an order: what the cluster's owner marked (`PreferNoSchedule`) outweighs all the
//! rest together, two more siblings outweigh all but that, and one more sibling outweighs load. So
//! pods of one controller stay within two of even on nodes that are equally welcome, whatever
//! the load of the nodes.

use coracle_api::{core::Taint, objects::pod};

use super::{cluster::NodeState, index::Hot, wanted::Wanted};

/// The names and weights of the priorities, in the order of [`Scores::points`].
pub const PRIORITIES: [(&str, f64); 5] = [
    ("taints", WEIGHT_TAINTS),
    ("spreading", WEIGHT_SPREADING),
    ("leastRequested", WEIGHT_LEAST_REQUESTED),
    ("balanced", WEIGHT_BALANCED),
    ("images", WEIGHT_IMAGES),
];

/// No taint that asks pods to stay away if they can.
const WEIGHT_TAINTS: f64 = 20.0;
/// Few siblings: apart they survive a minion's death.
const WEIGHT_SPREADING: f64 = 6.5;
/// Much is left of cpu, memory and places for pods.
const WEIGHT_LEAST_REQUESTED: f64 = 1.0;
/// Cpu and memory are used alike, so that neither is left over alone.
const WEIGHT_BALANCED: f64 = 1.0;
/// The images are there already.
const WEIGHT_IMAGES: f64 = 1.0;
/// So many siblings more than the node with the fewest score nothing.
const SIBLINGS_MAX: f64 = 2.0;

/// How a node does in each priority.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// No unwelcome taints.
    pub taints: f64,
    /// Few siblings.
    pub spreading: f64,
    /// Much room.
    pub least_requested: f64,
    /// Even use.
    pub balanced: f64,
    /// Images present.
    pub images: f64,
}

impl Scores {
    /// The weighted scores, in the order of [`PRIORITIES`].
    pub fn points(&self) -> [f64; 5] {
        [
            WEIGHT_TAINTS * self.taints,
            WEIGHT_SPREADING * self.spreading,
            WEIGHT_LEAST_REQUESTED * self.least_requested,
            WEIGHT_BALANCED * self.balanced,
            WEIGHT_IMAGES * self.images,
        ]
    }

    /// The sum that nodes are compared by.
    pub fn total(&self) -> f64 {
        self.points().iter().sum()
    }
}

/// Scores a node with the pod on it. `siblings` is how many more it has there than on the node
/// with the fewest.
pub(super) fn scores(node: &NodeState, hot: &Hot, wanted: &Wanted, siblings: u32) -> Scores {
    let (room, needs) = (hot.room, wanted.requests);
    // Saturating: a request may be as large as a number gets where nothing limits it.
    let cpu = share_left(room.milli_cpu.saturating_sub(needs.milli_cpu), hot.per_milli_cpu);
    let memory = share_left(room.memory_bytes.saturating_sub(needs.memory_bytes), hot.per_byte);
    // Pods that ask for nothing still weigh something.
    let pods = share_left(room.pods.saturating_sub(1), hot.per_pod);
    let there = if hot.has_images { wanted.images.iter().filter(|i| node.images.contains(i)).count() } else { 0 };
    Scores {
        taints: if hot.has_taints { taints(&node.taints, wanted) } else { 1.0 },
        spreading: 1.0 - (f64::from(siblings) / SIBLINGS_MAX).min(1.0),
        least_requested: (cpu + memory + pods) / 3.0,
        balanced: 1.0 - (cpu - memory).abs(),
        images: there as f64 / wanted.images.len().max(1) as f64,
    }
}

/// `per_unit` is one by what there is in all; 0 where that is unlimited.
fn share_left(left: i64, per_unit: f64) -> f64 {
    if per_unit > 0.0 { (left as f64 * per_unit).clamp(0.0, 1.0) } else { 1.0 }
}

fn taints(taints: &[Taint], wanted: &Wanted) -> f64 {
    let unwelcome = |t: &&Taint| t.effect == "PreferNoSchedule" && !pod::is_tolerated(t, &wanted.tolerations);
    1.0 / (1 + taints.iter().filter(unwelcome).count()) as f64
}
