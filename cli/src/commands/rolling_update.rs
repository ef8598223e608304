//! `coracle rollingupdate`: see [`crate::rolling`].

use super::Context;
use crate::{
    args::RollingUpdateArgs,
    failure::{Failure, Outcome},
    output,
    rolling::{self, Change, Order},
    target::kind_named,
};

pub(crate) async fn run(context: &Context, args: RollingUpdateArgs) -> Outcome {
    let name = match args.controller.split_once('/') {
        None => args.controller,
        Some((kind, name)) if kind_named(kind)?.kind == "ReplicationController" => name.to_owned(),
        Some(_) => {
            let text = format!("'{}' is not a replication controller; write rc/NAME", args.controller);
            return Err(Failure::Usage(text));
        }
    };
    let change = match (args.image, args.rollback) {
        (_, true) => Change::Rollback,
        (Some(image), _) => Change::Image(image),
        (None, false) => Change::Renew,
    };
    let order = Order { name, change, min_ready: args.min_ready, timeout: args.timeout, pause: args.pause };
    rolling::run(&context.session, &context.namespace, &order, output::line).await
}
