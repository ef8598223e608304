//! `coracle apply -f`: makes the cluster's objects equal to those in files.
//!
//! What was applied is kept in an annotation, so that the next apply knows what the user removed.

use coracle_api::client::ClientError;
use http::Method;
use serde_json::Value;

use super::{Context, create::report};
use crate::{
    args::FilesArgs,
    documents,
    failure::{Failure, Outcome, client_sentence},
    manifest::Manifest,
    merge::three_way,
    output,
};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// A write that met a concurrent change is merged again with the fresh object.
const CONFLICTS_MAX: u32 = 8;

pub(crate) async fn run(context: &Context, args: FilesArgs) -> Outcome {
    let documents = documents::read_all(&args.files)?;
    let mut manifests = Vec::new();
    for document in documents {
        let manifest = Manifest::new(document, &context.namespace)?;
        manifest.require_name()?;
        manifests.push(manifest);
    }
    let mut failures = 0;
    for manifest in &manifests {
        match apply(context, manifest).await {
            Ok((object, verb)) => report(manifest, &object, verb, args.output)?,
            Err(e) => {
                failures += 1;
                output::note(&format!("{}: {}", manifest.origin, client_sentence(&e)));
            }
        }
    }
    if failures > 0 { Err(Failure::Exit(1)) } else { Ok(()) }
}

async fn apply(context: &Context, manifest: &Manifest) -> Result<(Value, &'static str), ClientError> {
    let wanted = with_record(manifest);
    let path = manifest.path_of(manifest.name());
    let mut tries = 0;
    loop {
        let outcome = match context.session.get_opt(&path).await? {
            None => {
                let created = context.session.json(Method::POST, &manifest.collection(), Some(&wanted)).await;
                created.map(|object| (object, "created"))
            }
            Some(live) => update(context, manifest, &path, &wanted, live).await,
        };
        match outcome {
            Err(e) if (e.is_conflict() || e.is_already_exists()) && tries < CONFLICTS_MAX => tries += 1,
            outcome => return outcome,
        }
    }
}

async fn update(
    context: &Context,
    manifest: &Manifest,
    path: &str,
    wanted: &Value,
    live: Value,
) -> Result<(Value, &'static str), ClientError> {
    let last = manifest.annotation(&live, LAST_APPLIED).and_then(|text| serde_json::from_str(text).ok());
    let merged = three_way(&last.unwrap_or(Value::Null), wanted, &live);
    if merged == live {
        return Ok((live, "unchanged"));
    }
    let stored = context.session.json(Method::PUT, path, Some(&merged)).await?;
    let same = manifest.resource_version(&stored) == manifest.resource_version(&live);
    Ok((stored, if same { "unchanged" } else { "configured" }))
}

/// The object with the record of itself, as kubectl writes it.
fn with_record(manifest: &Manifest) -> Value {
    let mut plain = manifest.object.clone();
    // kubectl records an empty map where there are no annotations; both clients then agree.
    if let Some(map) = manifest.annotations_mut(&mut plain).as_object_mut() {
        map.remove(LAST_APPLIED);
    }
    let record = format!("{plain}\n");
    let mut wanted = plain;
    manifest.annotations_mut(&mut wanted)[LAST_APPLIED] = record.into();
    wanted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::documents::Document;

    #[test]
    fn the_record_is_the_object_without_itself() {
        let value = json!({"kind": "Pod", "apiVersion": "v1beta1", "id": "a", "annotations": {LAST_APPLIED: "old"}});
        let manifest = Manifest::new(Document { origin: "f".into(), value }, "default").unwrap();
        let wanted = with_record(&manifest);
        let record: Value = serde_json::from_str(manifest.annotation(&wanted, LAST_APPLIED).unwrap()).unwrap();
        assert_eq!(record, json!({"kind": "Pod", "apiVersion": "v1beta1", "id": "a", "annotations": {}}));
    }
}
