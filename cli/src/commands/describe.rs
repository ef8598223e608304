//! `coracle describe`: one object in detail, its events, and what is wrong with it.

use coracle_api::{
    Kind, TypedObject,
    client::{ListParams, encode, object_path},
    core::{Endpoints, Event, Node, Pod, ReplicationController, Service},
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Context;
use crate::{
    args::DescribeArgs,
    describe,
    diagnose::{Diagnosis, diagnose, diagnose_controller, diagnose_node, diagnose_service},
    failure::Outcome,
    json::{list, text},
    output::{self, columns},
    session::{protocol, query},
    target,
};

pub(crate) async fn run(context: &Context, args: DescribeArgs) -> Outcome {
    let mut texts = Vec::new();
    for (kind, name) in target::parse_objects(&args.what)? {
        let object = context.session.get(&target::path(kind, &context.namespace, &name)).await?;
        let mut events = events(context, kind, &name).await?;
        events.sort_by_key(columns::last_seen);
        let endpoints = match kind == Service::row() {
            true => context.session.get_opt(&target::path(Endpoints::row(), &context.namespace, &name)).await?,
            false => None,
        };
        let diagnosis = examine(context, kind, &object, &events, endpoints.as_ref()).await?;
        texts.push(describe::describe(
            kind,
            &object,
            &events,
            endpoints.as_ref(),
            diagnosis.as_ref(),
            Timestamp::now(),
        ));
    }
    output::write(&texts.join("\n\n"))
}

/// Events about one object. Those of a node may stand in any namespace.
async fn events(context: &Context, kind: &Kind, name: &str) -> Outcome<Vec<Value>> {
    let namespace = kind.namespaced.then_some(context.namespace.as_str());
    let fields = format!("involvedObject.kind={},involvedObject.name={name}", kind.kind);
    let path = object_path(Event::row(), namespace, None, None);
    let found = context.session.get(&format!("{path}{}", query(&[("fieldSelector", &fields)]))).await?;
    Ok(list(&found, "/items").to_vec())
}

/// Fetches what the rules for this kind look at, and applies them.
async fn examine(
    context: &Context,
    kind: &Kind,
    object: &Value,
    events: &[Value],
    endpoints: Option<&Value>,
) -> Outcome<Option<Diagnosis>> {
    Ok(match kind.kind {
        "Pod" => {
            let events: Vec<Event> = typed_all(events)?;
            let (nodes, services) = (all::<Node>(context).await?, all::<Service>(context).await?);
            diagnose(&typed::<Pod>(object)?, &events, &nodes, &services)
        }
        "Node" => diagnose_node(&typed::<Node>(object)?),
        "Service" => {
            let endpoints = endpoints.map(typed::<Endpoints>).transpose()?;
            diagnose_service(&typed::<Service>(object)?, &all::<Pod>(context).await?, endpoints.as_ref())
        }
        "ReplicationController" => {
            let (pods, nodes) = (all::<Pod>(context).await?, all::<Node>(context).await?);
            let events = all::<Event>(context).await?;
            diagnose_controller(&typed::<ReplicationController>(object)?, &pods, &events, &nodes)
        }
        _ => None,
    })
}

/// All objects of a kind in the namespace.
async fn all<T: TypedObject>(context: &Context) -> Outcome<Vec<T>> {
    let client = context.session.client();
    let api = if T::row().namespaced { client.namespaced::<T>(&context.namespace) } else { client.all::<T>() };
    Ok(api.list(&ListParams::default()).await?.items)
}

fn typed<T: DeserializeOwned>(value: &Value) -> Outcome<T> {
    let what = encode(text(value, "/metadata/name"));
    Ok(serde_json::from_value(value.clone()).map_err(|e| protocol(&what, e))?)
}

fn typed_all(values: &[Value]) -> Outcome<Vec<Event>> {
    values
        .iter()
        .map(|value| {
            // Items of a list come without kind and version.
            let mut value = value.clone();
            value["apiVersion"] = "v1".into();
            value["kind"] = "Event".into();
            typed(&value)
        })
        .collect()
}
