//! `coracle run`: an image in a pod, or in several under a replication controller.

use coracle_api::client::object_path;
use http::Method;
use serde_json::{Value, json};

use super::Context;
use crate::{
    args::RunArgs,
    failure::{Failure, Outcome},
    json::text,
    output, target,
};

pub(crate) async fn run(context: &Context, args: RunArgs) -> Outcome {
    let object = object(&args)?;
    let kind = target::kind_named(text(&object, "/kind"))?;
    let path = object_path(kind, Some(&context.namespace), None, None);
    let created = context.session.json(Method::POST, &path, Some(&object)).await?;
    output::line(&format!("{} created", target::display(kind, text(&created, "/metadata/name"))))
}

/// The pod, or the controller with `--replicas`.
fn object(args: &RunArgs) -> Outcome<Value> {
    let labels = match &args.labels {
        Some(labels) => pairs(labels.split(','), "--labels")?,
        None => json!({"run": args.name}),
    };
    let mut container = json!({"name": args.name, "image": args.image});
    if !args.args.is_empty() {
        container["args"] = json!(args.args);
    }
    if let Some(port) = args.port {
        container["ports"] = json!([{"containerPort": port}]);
    }
    let env = pairs(args.env.iter().map(String::as_str), "--env")?;
    let env: Vec<_> = env.as_object().into_iter().flatten().map(|(k, v)| json!({"name": k, "value": v})).collect();
    if !env.is_empty() {
        container["env"] = env.into();
    }
    let spec = json!({"containers": [container], "restartPolicy": args.restart});
    let metadata = json!({"name": args.name, "labels": labels});
    match args.replicas {
        None => Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})),
        Some(_) if args.restart != "Always" => {
            Err(Failure::Usage(format!("--replicas keeps pods running; it can't have --restart {}", args.restart)))
        }
        Some(replicas) => Ok(json!({
            "apiVersion": "v1", "kind": "ReplicationController", "metadata": metadata,
            "spec": {"replicas": replicas, "selector": labels, "template": {"metadata": {"labels": labels}, "spec": spec}},
        })),
    }
}

/// A map of `NAME=VALUE` words.
fn pairs<'a>(words: impl Iterator<Item = &'a str>, option: &str) -> Outcome<Value> {
    let mut map = serde_json::Map::new();
    for word in words.filter(|w| !w.is_empty()) {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => map.insert(key.to_owned(), value.into()),
            _ => return Err(Failure::Usage(format!("{option}: '{word}' is not NAME=VALUE"))),
        };
    }
    Ok(Value::Object(map))
}
