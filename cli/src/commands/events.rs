//! `coracle events`: what happened, the newest last.

use coracle_api::{Kind, TypedObject, client::object_path, core::Event};
use jiff::Timestamp;
use serde_json::Value;

use super::Context;
use crate::{
    args::EventsArgs,
    failure::{Failure, Outcome},
    json::{list, text},
    output::{self, columns, table::Table},
    session::query,
    target,
    watch::Watch,
};

pub(crate) async fn run(context: &Context, args: EventsArgs) -> Outcome {
    let kind = Event::row();
    let fields = match &args.about {
        Some(about) => about_selector(about)?,
        None => String::new(),
    };
    let namespace = (!args.all_namespaces).then_some(context.namespace.as_str());
    let path = object_path(kind, namespace, None, None);
    let mut header = columns::header(kind, false);
    if args.all_namespaces {
        header.insert(0, "NAMESPACE");
    }
    let mut table = Table::new(&header);
    loop {
        let found = context.session.get(&format!("{path}{}", query(&[("fieldSelector", &fields)]))).await?;
        let mut events: Vec<&Value> = list(&found, "/items").iter().collect();
        events.sort_by_key(|e| columns::last_seen(e));
        if events.is_empty() && !args.watch {
            output::note("No events found");
            return Ok(());
        }
        let rows: Vec<_> = events.into_iter().map(|e| row(kind, e, args.all_namespaces)).collect();
        output::write(&table.render(&rows))?;
        if !args.watch {
            return Ok(());
        }
        let mut watch = Watch::new(&context.session, &path, "", &fields, text(&found, "/metadata/resourceVersion"));
        loop {
            match watch.next().await {
                Ok((_, event)) => output::write(&table.render(&[row(kind, &event, args.all_namespaces)]))?,
                Err(e) if e.is_expired() => break,
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn row(kind: &Kind, event: &Value, with_namespace: bool) -> Vec<String> {
    let mut cells = columns::row(kind, event, false, Timestamp::now());
    if with_namespace {
        cells.insert(0, text(event, "/metadata/namespace").to_owned());
    }
    cells
}

/// The field selector for `KIND/NAME`.
fn about_selector(about: &str) -> Outcome<String> {
    match target::parse_objects(&[about.to_owned()])?.as_slice() {
        [(kind, name)] => Ok(format!("involvedObject.kind={},involvedObject.name={name}", kind.kind)),
        _ => Err(Failure::Usage(format!("--for wants KIND/NAME, not '{about}'"))),
    }
}
