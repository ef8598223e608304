//! `coracle delete`: asks for deletion of all, then waits until each is gone.

use std::time::Duration;

use coracle_api::{
    Kind,
    client::{ClientError, encode, object_path},
};
use http::Method;
use serde_json::{Value, json};

use super::Context;
use crate::{
    args::{Cascade, DeleteArgs},
    documents,
    failure::{Failure, Outcome, client_sentence},
    json::{list, text},
    manifest::Manifest,
    output::{self, Progress},
    session::query,
    target,
    watch::{Change, Watch},
};

/// An object to delete.
struct Doomed {
    kind: &'static Kind,
    namespace: String,
    name: String,
}

impl Doomed {
    fn path(&self) -> String {
        target::path(self.kind, &self.namespace, &self.name)
    }

    fn display(&self) -> String {
        format!("{} \"{}\"", self.kind.singular, self.name)
    }
}

pub(crate) async fn run(context: &Context, args: DeleteArgs) -> Outcome {
    let doomed = find(context, &args).await?;
    if doomed.is_empty() {
        output::note("No resources found");
        return Ok(());
    }
    let options = options(&args);
    let mut failures = 0;
    let mut leaving = Vec::new();
    for object in doomed {
        match context.session.json(Method::DELETE, &object.path(), Some(&options)).await {
            Ok(answer) => leaving.push((object, answer)),
            Err(e) if e.is_not_found() && args.ignore_not_found => {}
            Err(e) => {
                failures += 1;
                output::note(&client_sentence(&e));
            }
        }
    }
    let deadline = tokio::time::Instant::now() + args.timeout;
    for (object, answer) in leaving {
        // A Status means gone; an object means that it is stopping first.
        let stopping = text(&answer, "/kind") != "Status";
        if stopping && !args.no_wait && !wait_gone(context, &object, &answer, deadline, args.timeout).await? {
            failures += 1;
            continue;
        }
        output::line(&format!("{} deleted", object.display()))?;
    }
    if failures > 0 { Err(Failure::Exit(1)) } else { Ok(()) }
}

fn options(args: &DeleteArgs) -> Value {
    let policy = match args.cascade {
        Cascade::Background => "Background",
        Cascade::Foreground => "Foreground",
        Cascade::Orphan => "Orphan",
    };
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
    let grace = if args.now { Some(1) } else { args.grace_period };
    if let Some(grace) = grace {
        options["gracePeriodSeconds"] = grace.into();
    }
    options
}

async fn find(context: &Context, args: &DeleteArgs) -> Outcome<Vec<Doomed>> {
    let own = |kind, name: &str| Doomed { kind, namespace: context.namespace.clone(), name: name.to_owned() };
    if !args.files.is_empty() {
        let documents = documents::read_all(&args.files)?;
        let mut doomed = Vec::new();
        for document in documents {
            let manifest = Manifest::new(document, &context.namespace)?;
            let name = manifest.require_name()?.to_owned();
            doomed.push(Doomed { kind: manifest.kind, namespace: manifest.namespace, name });
        }
        return Ok(doomed);
    }
    if args.selector.is_none() && !args.all {
        return Ok(target::parse_objects(&args.what)?.into_iter().map(|(kind, name)| own(kind, &name)).collect());
    }
    let mut doomed = Vec::new();
    for target in target::parse(&args.what)? {
        if !target.names.is_empty() {
            return Err(Failure::Usage("give names, or --selector, or --all; not two of them".to_owned()));
        }
        let path = object_path(target.kind, Some(&context.namespace), None, None);
        let selector = query(&[("labelSelector", args.selector.as_deref().unwrap_or_default())]);
        let found = context.session.get(&format!("{path}{selector}")).await?;
        doomed.extend(list(&found, "/items").iter().map(|o| own(target.kind, text(o, "/metadata/name"))));
    }
    Ok(doomed)
}

/// Waits until the object of this uid is gone; `false` (and a note) when it stays too long.
async fn wait_gone(
    context: &Context,
    object: &Doomed,
    answer: &Value,
    deadline: tokio::time::Instant,
    limit: Duration,
) -> Outcome<bool> {
    let _progress = Progress::new(&format!("{} is stopping ...", object.display()));
    match tokio::time::timeout_at(deadline, gone(context, object, text(answer, "/metadata/uid"))).await {
        Ok(outcome) => outcome.map(|()| true).map_err(Failure::from),
        Err(_) => {
            let (kind, name) = (object.kind.singular, &object.name);
            output::note(&format!(
                "{} is still there after {} s; see: coracle describe {kind} {name}; to remove it without waiting for \
                 its minion: coracle delete {kind} {name} --grace-period 0",
                object.display(),
                limit.as_secs(),
            ));
            Ok(false)
        }
    }
}

async fn gone(context: &Context, object: &Doomed, uid: &str) -> Result<(), ClientError> {
    let collection = object_path(object.kind, Some(&object.namespace), None, None);
    let fields = format!("metadata.name={}", object.name);
    let list_path = format!("{collection}?fieldSelector={}", encode(&fields));
    loop {
        let now = context.session.get(&list_path).await?;
        let same = |o: &Value| uid.is_empty() || text(o, "/metadata/uid") == uid;
        if !list(&now, "/items").iter().any(same) {
            return Ok(());
        }
        let version = text(&now, "/metadata/resourceVersion");
        let mut watch = Watch::new(&context.session, &collection, "", &fields, version);
        loop {
            match watch.next().await {
                Ok((Change::Deleted, gone)) if same(&gone) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.is_expired() => break,
                Err(e) => return Err(e),
            }
        }
    }
}
