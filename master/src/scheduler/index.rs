//! The present nodes in the order in which they are looked at, and what lets a look skip most of
//! them.
//!
//! Nodes stand in the order of a hash of their names, in blocks of nearly equal size: every block is a fair
//! sample of the cluster, whatever the names say about zones or hardware. A block knows the most that
//! one of its nodes has left, so that a full cluster is passed over by blocks.
//!
//! Invariant: a block's maxima are exact; what is behind in the index is behind in [`super::cluster`].

use std::sync::OnceLock;

use super::{
    cluster::{NodeId, NodeState, Room},
    predicates::{has_labels, has_room, keeps_away},
    wanted::{Wanted, hash},
};

/// Nodes of a block at most.
const BLOCK: usize = 64;

/// What nearly every decision reads of a node, in one line of the processor's cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hot {
    pub(super) room: Room,
    /// One by what there is in all; 0 for unlimited.
    pub(super) per_milli_cpu: f64,
    pub(super) per_byte: f64,
    pub(super) per_pod: f64,
    /// Of the node's name: its place, and what breaks ties.
    pub(super) name_hash: u64,
    pub(super) id: NodeId,
    /// Ready and not cordoned.
    pub(super) open: bool,
    /// Some taint keeps pods away that do not tolerate it.
    pub(super) keeps_away: bool,
    pub(super) has_taints: bool,
    pub(super) has_images: bool,
}

impl Hot {
    fn of(id: NodeId, node: &NodeState) -> Self {
        let per = |amount: Option<i64>| amount.filter(|a| *a > 0).map_or(0.0, |a| 1.0 / a as f64);
        Self {
            room: node.room(),
            per_milli_cpu: per(node.cpu_milli),
            per_byte: per(node.memory_bytes),
            per_pod: per(node.pods_max),
            name_hash: hash(node.name.as_str()),
            id,
            open: node.ready && !node.cordoned,
            keeps_away: node.taints.iter().any(keeps_away),
            has_taints: !node.taints.is_empty(),
            has_images: !node.images.is_empty(),
        }
    }

    /// In which of a block's maxima it counts.
    fn counts(&self) -> [bool; 2] {
        [self.open && !self.keeps_away, self.open]
    }
}

/// The most that one node of a block has left: of those that bear pods without tolerations, of all.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Block {
    most: [Room; 2],
}

impl Block {
    const NONE: Self = Self { most: [Room::NONE; 2] };

    fn of(nodes: &[Hot]) -> Self {
        let mut block = Self::NONE;
        for hot in nodes {
            for (most, counts) in block.most.iter_mut().zip(hot.counts()) {
                if counts {
                    *most = most.max(hot.room);
                }
            }
        }
        block
    }
}

/// The index. Made anew when nodes come or go.
#[derive(Debug, Default)]
pub(super) struct Index {
    hot: Vec<Hot>,
    /// By [`NodeId`].
    positions: Vec<Option<u32>>,
    blocks: Vec<Block>,
    /// Positions by the hash of a label; made when the first pod asks.
    by_label: OnceLock<foldhash::HashMap<u64, Vec<u32>>>,
}

impl Index {
    pub(super) fn of(nodes: &[NodeState]) -> Self {
        let present = nodes.iter().enumerate().filter(|(_, node)| node.present);
        let mut hot: Vec<Hot> = present.map(|(id, node)| Hot::of(id as NodeId, node)).collect();
        hot.sort_unstable_by_key(|hot| (hot.name_hash, hot.id));
        let mut positions = vec![None; nodes.len()];
        for (position, hot) in hot.iter().enumerate() {
            positions[hot.id as usize] = Some(position as u32);
        }
        let mut index = Self { positions, blocks: Vec::new(), by_label: OnceLock::new(), hot };
        index.blocks = vec![Block::NONE; index.hot.len().div_ceil(BLOCK)];
        for block in 0..index.blocks.len() {
            index.blocks[block] = Block::of(&index.hot[index.range(block)]);
        }
        index
    }

    /// The nodes, in order.
    pub(super) fn hot(&self) -> &[Hot] {
        &self.hot
    }

    /// One node.
    pub(super) fn get(&self, id: NodeId) -> Option<&Hot> {
        let position = *self.positions.get(id as usize)?;
        self.hot.get(position? as usize)
    }

    /// Takes over how much is left of a node.
    pub(super) fn set_room(&mut self, id: NodeId, node: &NodeState) {
        let Some(Some(position)) = self.positions.get(id as usize).copied() else { return };
        let (position, room) = (position as usize, node.room());
        let before = std::mem::replace(&mut self.hot[position].room, room);
        let block = self.block_of(position);
        let counts = self.hot[position].counts();
        let most = self.blocks[block].most.iter_mut().zip(counts).filter(|(_, counts)| *counts);
        let mut was_most = false;
        for (most, _) in most {
            was_most |= most.is_reached_by(before);
            *most = most.max(room);
        }
        // Only a node that had the most can lower it.
        if was_most && !before.is_within(room) {
            self.blocks[block] = Block::of(&self.hot[self.range(block)]);
        }
    }

    /// Takes over all there is to know of a node but its labels; see [`Index::forget_labels`].
    pub(super) fn set_node(&mut self, id: NodeId, node: &NodeState) {
        let Some(Some(position)) = self.positions.get(id as usize).copied() else { return };
        self.hot[position as usize] = Hot::of(id, node);
        let block = self.block_of(position as usize);
        self.blocks[block] = Block::of(&self.hot[self.range(block)]);
    }

    /// Some node has other labels now.
    pub(super) fn forget_labels(&mut self) {
        self.by_label = OnceLock::new();
    }

    fn range(&self, block: usize) -> std::ops::Range<usize> {
        let (nodes, blocks) = (self.hot.len(), self.blocks.len());
        block * nodes / blocks..(block + 1) * nodes / blocks
    }

    /// The inverse of [`Index::range`].
    fn block_of(&self, position: usize) -> usize {
        ((position + 1) * self.blocks.len() - 1) / self.hot.len()
    }

    /// Goes through the nodes that may fit, those left out that surely do not, until `visit` has
    /// enough. `turn` says where to begin: turns one after the other begin at parts of
    /// the cluster one after the other, so that as many begin at each.
    pub(super) fn walk<'a>(
        &'a self,
        nodes: &[NodeState],
        wanted: &Wanted,
        turn: u64,
        mut visit: impl FnMut(&'a Hot) -> Walk,
    ) {
        if self.hot.is_empty() {
            return;
        }
        let bears_none = wanted.tolerations.is_empty();
        let may_fit = |hot: &&Hot| hot.open && !(hot.keeps_away && bears_none) && has_room(hot.room, wanted);
        if !wanted.node_selector.is_empty() {
            let labelled = self.rarest_label(nodes, wanted);
            let parts = labelled.len().div_ceil(BLOCK).max(1);
            let begin = (turn % parts as u64) as usize * labelled.len() / parts;
            let (before, after) = labelled.split_at(begin);
            for position in after.iter().chain(before) {
                let hot = &self.hot[*position as usize];
                if may_fit(&hot) && has_labels(&nodes[hot.id as usize], wanted) && visit(hot) == Walk::Enough {
                    return;
                }
            }
            return;
        }
        let begin = (turn % self.blocks.len() as u64) as usize;
        for block in (begin..self.blocks.len()).chain(0..begin) {
            if !has_room(self.blocks[block].most[usize::from(!bears_none)], wanted) {
                continue;
            }
            let mut walk = Walk::On;
            // A block is looked at as a whole: each of its nodes in as many looks as any other.
            for hot in self.hot[self.range(block)].iter().filter(may_fit) {
                walk = visit(hot);
            }
            if walk == Walk::Enough {
                return;
            }
        }
    }

    fn rarest_label(&self, nodes: &[NodeState], wanted: &Wanted) -> &[u32] {
        let by_label = self.by_label.get_or_init(|| {
            let mut by_label = foldhash::HashMap::<u64, Vec<u32>>::default();
            for (position, hot) in self.hot.iter().enumerate() {
                for label in &nodes[hot.id as usize].labels {
                    by_label.entry(hash(label)).or_default().push(position as u32);
                }
            }
            by_label
        });
        let lists = wanted.node_selector.iter().map(|label| by_label.get(&hash(label)).map_or(&[][..], Vec::as_slice));
        lists.min_by_key(|list| list.len()).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn assert_is_like(&self, fresh: &Self) {
        assert_eq!(self.hot, fresh.hot);
        assert_eq!(self.blocks, fresh.blocks);
        assert_eq!(self.positions.iter().flatten().count(), self.hot.len());
        let blocks: Vec<_> = (0..self.hot.len()).map(|p| self.block_of(p)).collect();
        let ranges = (0..self.blocks.len()).flat_map(|b| self.range(b).map(move |_| b));
        assert_eq!(blocks, ranges.collect::<Vec<_>>());
    }
}

/// Whether a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    On,
    Enough,
}
