//! The choice of a node: filter, score, break ties. Pure.

use std::fmt;

use compact_str::CompactString;

use super::{
    cluster::{Cluster, NodeId},
    index::{Hot, Walk},
    predicates::{Misfit, misfit},
    priorities::{Scores, scores},
    wanted::{Wanted, hash},
};

/// Nodes that fit and are compared, about: a walk ends with the block in which it has so many. More
/// make no better choice that could be measured, and each costs.
const COMPARED: usize = 96;
/// Different causes that are told apart; only taints come in any number.
const CAUSES_MAX: usize = 24;

/// Where a pod goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// To this node.
    Place {
        /// Its name.
        node: CompactString,
    },
    /// Nowhere now.
    Wait(Explanation),
}

/// Chooses a node for a pod: the best by [`super::priorities`] of those that pass all
/// [`super::predicates`], if few do, or of a fair sample of them.
///
/// A pod waits only if no node at all does.
pub fn decide(cluster: &Cluster, wanted: &Wanted) -> Decision {
    match place(cluster, wanted) {
        Some(node) => Decision::Place { node },
        None => Decision::Wait(Explanation::of(cluster, wanted)),
    }
}

/// [`decide`] without the reasons, which are a look at every node.
pub(super) fn place(cluster: &Cluster, wanted: &Wanted) -> Option<CompactString> {
    let compared = compare(cluster, wanted);
    let better =
        |a: &&Compared, b: &&Compared| a.total.total_cmp(&b.total).then(a.tie.cmp(&b.tie)).then(a.node.cmp(&b.node));
    compared.iter().max_by(better).map(|best| cluster.node(best.node).name.clone())
}

/// A node that fits, and how well.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compared {
    pub(super) node: NodeId,
    pub(super) scores: Scores,
    /// The sum of the scores.
    total: f64,
    /// Higher wins between equals.
    tie: u64,
}

/// The nodes among which the choice is made: all that fit, if they are few.
pub(super) fn compare<'a>(cluster: &'a Cluster, wanted: &Wanted) -> Vec<Compared> {
    let index = cluster.index();
    let group = cluster.siblings(wanted.siblings);
    // Siblings begin their walks one after the other all around the cluster, so that each part gets
    // as many of them; pods without any begin by chance.
    let turn = match wanted.siblings {
        0 => wanted.tie,
        siblings => siblings.wrapping_add(group.map_or(0, |g| u64::from(g.total))),
    };
    let mut fits = Vec::with_capacity(2 * COMPARED);
    let mut visit = |hot: &'a Hot| {
        let node = cluster.node(hot.id);
        // For nearly every pod and node the walk has checked all there is.
        let plain = !hot.has_taints && wanted.host_ports.is_empty() && wanted.affinity.is_none();
        if plain && wanted.node_name.is_none() || misfit(node, wanted).is_none() {
            fits.push((hot, group.map_or(0, |g| g.on(hot.id))));
        }
        if fits.len() >= COMPARED { Walk::Enough } else { Walk::On }
    };
    match &wanted.node_name {
        None => index.walk(cluster.nodes(), wanted, turn, visit),
        Some(name) => drop(cluster.find(name).map(&mut visit)),
    }
    let fewest = fits.iter().map(|(_, siblings)| *siblings).min().unwrap_or_default();
    let compared = |(hot, siblings): (&Hot, u32)| {
        let scores = scores(cluster.node(hot.id), hot, wanted, siblings - fewest);
        Compared { node: hot.id, scores, total: scores.total(), tie: hash(wanted.tie ^ hot.name_hash) }
    };
    fits.into_iter().map(compared).collect()
}

/// Why no node does: how many fail for each reason, and how close the best comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    nodes: usize,
    /// With what is left on the best of them. The most frequent first.
    misfits: Vec<(Misfit, usize)>,
}

impl Explanation {
    /// Looks at every node.
    pub(super) fn of(cluster: &Cluster, wanted: &Wanted) -> Self {
        let index = cluster.index();
        let mut misfits: Vec<(Misfit, usize)> = Vec::new();
        for hot in index.hot() {
            let Some(mut why) = misfit(cluster.node(hot.id), wanted) else { continue };
            if misfits.len() >= CAUSES_MAX && matches!(why, Misfit::Taint { .. }) {
                why = Misfit::OtherTaints;
            }
            match misfits.iter_mut().find(|(known, _)| known.is_same_cause(&why)) {
                Some((known, count)) => {
                    known.take_in(&why);
                    *count += 1;
                }
                None => misfits.push((why, 1)),
            }
        }
        // Between equals, a fixed order whatever nodes there are.
        misfits.sort_by_key(|(why, count)| (std::cmp::Reverse(*count), why.rank(), why.to_string()));
        Self { nodes: index.hot().len(), misfits }
    }

    /// How many nodes fail for each reason, the most frequent first. The counts add up to all nodes.
    pub fn misfits(&self) -> &[(Misfit, usize)] {
        &self.misfits
    }

    /// Whether both say the same but for amounts and numbers of nodes.
    pub(super) fn same_reasons(&self, other: &Self) -> bool {
        let has = |all: &Self, one: &Misfit| all.misfits.iter().any(|(m, _)| m.is_same_cause(one));
        (self.nodes == 0) == (other.nodes == 0)
            && self.misfits.len() == other.misfits.len()
            && self.misfits.iter().all(|(misfit, _)| has(other, misfit))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no minion has joined yet: start one with `coracle minion --master URL`");
        }
        write!(f, "0/{} minions fit", self.nodes)?;
        for (i, (misfit, count)) in self.misfits.iter().enumerate() {
            write!(f, "{} {count} {misfit}", if i == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}
