//! `coracle reset`: takes everything of a cluster off this host.

use crate::{
    args::ResetArgs,
    failure::{Failure, Outcome},
};

pub(crate) async fn run(args: ResetArgs) -> Outcome {
    Err(Failure::Failed(format!("this build holds the client only: {args:?}")))
}
