//! The server side of the binary: a whole cluster, a master, a minion, its store, and the
//! removal of all traces. The verbs in [`crate::commands`] only call it.

mod hollow;
mod pages;
mod process;
mod reset;
mod restore;
mod store;
mod up;

pub(crate) use pages::Veto;
pub(crate) use reset::reset;
pub(crate) use restore::{check, restore};
pub(crate) use up::{master, minion, up};

use crate::output;

/// Says what is done. A reader that went away does not stop a server.
fn say(text: &str) {
    drop(output::line(text));
}
