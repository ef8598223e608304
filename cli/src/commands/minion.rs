//! `coracle minion`: the node agent.

use crate::{
    args::MinionArgs,
    failure::{Failure, Outcome},
};

pub(crate) async fn run(args: MinionArgs, master: String) -> Outcome {
    Err(Failure::Failed(format!("this build holds the client only: {master} {args:?}")))
}
