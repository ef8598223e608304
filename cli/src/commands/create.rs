//! `coracle create -f`: the objects in files, which must not exist yet.

use http::Method;
use serde_json::Value;

use super::Context;
use crate::{
    args::{FilesArgs, Form},
    documents,
    failure::{Failure, Outcome, client_sentence},
    manifest::Manifest,
    output,
};

pub(crate) async fn run(context: &Context, args: FilesArgs) -> Outcome {
    let documents = documents::read_all(&args.files)?;
    let manifests = documents.into_iter().map(|d| Manifest::new(d, &context.namespace)).collect::<Outcome<Vec<_>>>()?;
    let mut failures = 0;
    for manifest in &manifests {
        match context.session.json(Method::POST, &manifest.collection(), Some(&manifest.object)).await {
            Ok(created) => report(manifest, &created, "created", args.output)?,
            Err(e) => {
                failures += 1;
                output::note(&format!("{}: {}", manifest.origin, client_sentence(&e)));
            }
        }
    }
    if failures > 0 { Err(Failure::Exit(1)) } else { Ok(()) }
}

/// `pod/x created`, or the object in the form asked for.
pub(super) fn report(manifest: &Manifest, object: &Value, verb: &str, form: Option<Form>) -> Outcome {
    match form {
        Some(Form::Json) => output::write(&output::json(object)),
        Some(Form::Yaml) => output::write(&format!("---\n{}", output::yaml(object))),
        Some(Form::Name) => output::line(&manifest.display_of(object)),
        _ => output::line(&format!("{} {verb}", manifest.display_of(object))),
    }
}
