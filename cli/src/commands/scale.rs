//! `coracle scale`: sets how many replicas are wanted.

use coracle_api::{Kind, client::ClientError, kinds::Subresource};
use http::Method;
use serde_json::Value;

use super::Context;
use crate::{
    args::ScaleArgs,
    failure::{Failure, Outcome},
    output, target,
};

const CONFLICTS_MAX: u32 = 8;

pub(crate) async fn run(context: &Context, args: ScaleArgs) -> Outcome {
    let objects = target::parse_objects(&args.what)?;
    if let Some((kind, _)) = objects.iter().find(|(kind, _)| !kind.has(Subresource::Scale)) {
        return Err(Failure::Usage(format!("a {} has no replicas to scale", kind.singular)));
    }
    for (kind, name) in objects {
        scale(context, kind, &name, args.replicas).await?;
        output::line(&format!("{} scaled", target::display(kind, &name)))?;
    }
    Ok(())
}

async fn scale(context: &Context, kind: &Kind, name: &str, replicas: u32) -> Result<Value, ClientError> {
    let path = target::path(kind, &context.namespace, name);
    let mut tries = 0;
    loop {
        let mut object = context.session.get(&path).await?;
        object["spec"]["replicas"] = replicas.into();
        match context.session.json(Method::PUT, &path, Some(&object)).await {
            Err(e) if e.is_conflict() && tries < CONFLICTS_MAX => tries += 1,
            outcome => return outcome,
        }
    }
}
