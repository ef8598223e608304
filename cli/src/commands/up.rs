//! `coracle up`: master and minion in one process.

use crate::{
    args::ServerArgs,
    failure::{Failure, Outcome},
};

pub(crate) async fn run(args: ServerArgs) -> Outcome {
    Err(Failure::Failed(format!("this build holds the client only: {args:?}")))
}
