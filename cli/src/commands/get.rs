//! `coracle get`: objects in a table, or as they are.

use coracle_api::{Kind, client::object_path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Context;
use crate::{
    args::{Form, GetArgs},
    failure::{Failure, Outcome, client_sentence},
    json::{list, text},
    output::{self, columns, table::Table},
    session::query,
    target::{self, Target},
    watch::{Change, Watch},
};

/// What was found of one kind.
struct Found {
    kind: &'static Kind,
    objects: Vec<Value>,
    version: String,
}

pub(crate) async fn run(context: &Context, args: GetArgs) -> Outcome {
    let targets = target::parse(&args.what)?;
    if args.watch && (targets.len() != 1 || targets[0].names.len() > 1) {
        return Err(Failure::Usage("--watch follows one kind, or one object".to_owned()));
    }
    let mut missing = 0;
    let mut found = Vec::new();
    for target in &targets {
        found.push(fetch(context, &args, target, &mut missing).await?);
    }
    let view = View { args: &args, prefixed: targets.len() > 1, single: is_single(&targets) };
    view.show(&found, &context.namespace, missing)?;
    if missing > 0 {
        return Err(Failure::Exit(1));
    }
    if args.watch { follow(context, &view, &targets[0], found.remove(0)).await } else { Ok(()) }
}

fn is_single(targets: &[Target]) -> bool {
    matches!(targets, [target] if target.names.len() == 1)
}

async fn fetch(context: &Context, args: &GetArgs, target: &Target, missing: &mut usize) -> Outcome<Found> {
    let kind = target.kind;
    let mut found = Found { kind, objects: Vec::new(), version: String::new() };
    if target.names.is_empty() {
        let selectors = query(&[("labelSelector", &args.selector), ("fieldSelector", &args.field_selector)]);
        let mut answer = context.session.get(&format!("{}{selectors}", collection(context, args, kind))).await?;
        found.version = text(&answer, "/metadata/resourceVersion").to_owned();
        if let Some(Value::Array(items)) = answer.get_mut("items").map(Value::take) {
            found.objects = items;
        }
        for object in &mut found.objects {
            object["apiVersion"] = "v1".into();
            object["kind"] = kind.kind.into();
        }
    }
    for name in &target.names {
        match context.session.get(&target::path(kind, &context.namespace, name)).await {
            Ok(object) => {
                found.version = text(&object, "/metadata/resourceVersion").to_owned();
                found.objects.push(object);
            }
            Err(e) if e.is_not_found() => {
                *missing += 1;
                output::note(&client_sentence(&e));
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}

fn collection(context: &Context, args: &GetArgs, kind: &Kind) -> String {
    let namespace = (!args.all_namespaces).then_some(context.namespace.as_str());
    object_path(kind, namespace, None, None)
}

/// How objects are shown.
struct View<'a> {
    args: &'a GetArgs,
    /// Names carry their kind.
    prefixed: bool,
    /// One object was asked for by name.
    single: bool,
}

impl View<'_> {
    fn show(&self, found: &[Found], namespace: &str, missing: usize) -> Outcome {
        let all = || found.iter().flat_map(|f| &f.objects);
        match self.args.output {
            Some(Form::Json) => output::write(&output::json(&self.document(all().cloned().collect()))),
            Some(Form::Yaml) => output::write(&output::yaml(&self.document(all().cloned().collect()))),
            Some(Form::Name) => output::write(&found.iter().map(names).collect::<String>()),
            _ if all().next().is_none() => {
                if missing == 0 && !self.args.watch {
                    output::note(&nothing_found(found, self.args.all_namespaces, namespace));
                }
                Ok(())
            }
            _ => {
                let filled = found.iter().filter(|f| !f.objects.is_empty());
                let tables: Vec<_> = filled.map(|f| self.rows(&mut self.table(f.kind), f.kind, &f.objects)).collect();
                output::write(&tables.join("\n"))
            }
        }
    }

    fn document(&self, mut objects: Vec<Value>) -> Value {
        match objects.len() {
            1 if self.single => objects.remove(0),
            _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects}),
        }
    }

    fn wide(&self) -> bool {
        self.args.output == Some(Form::Wide)
    }

    fn shows_namespace(&self, kind: &Kind) -> bool {
        self.args.all_namespaces && kind.namespaced
    }

    fn table(&self, kind: &Kind) -> Table {
        let mut header = columns::header(kind, self.wide());
        if self.shows_namespace(kind) {
            header.insert(0, "NAMESPACE");
        }
        if self.args.no_headers { Table::headless(header.len()) } else { Table::new(&header) }
    }

    fn rows(&self, table: &mut Table, kind: &Kind, objects: &[Value]) -> String {
        let now = Timestamp::now();
        let mut objects: Vec<&Value> = objects.iter().collect();
        if kind.kind == "Event" {
            objects.sort_by_key(|e| columns::last_seen(e));
        }
        let rows: Vec<_> = objects
            .into_iter()
            .map(|object| {
                let mut cells = columns::row(kind, object, self.wide(), now);
                if self.prefixed && kind.kind != "Event" {
                    cells[0] = target::display(kind, &cells[0]);
                }
                if self.shows_namespace(kind) {
                    cells.insert(0, text(object, "/metadata/namespace").to_owned());
                }
                cells
            })
            .collect();
        table.render(&rows)
    }

    /// One changed object of a watch.
    fn change(&self, table: &mut Table, kind: &'static Kind, object: Value) -> Outcome {
        match self.args.output {
            Some(Form::Json) => output::write(&output::json(&object)),
            Some(Form::Yaml) => output::write(&format!("---\n{}", output::yaml(&object))),
            Some(Form::Name) => output::line(&target::display(kind, text(&object, "/metadata/name"))),
            _ => output::write(&self.rows(table, kind, &[object])),
        }
    }
}

fn names(found: &Found) -> String {
    let name = |o: &Value| target::display(found.kind, text(o, "/metadata/name")) + "\n";
    found.objects.iter().map(name).collect()
}

fn nothing_found(found: &[Found], all_namespaces: bool, namespace: &str) -> String {
    if all_namespaces || found.iter().all(|f| !f.kind.namespaced) {
        "No resources found".to_owned()
    } else {
        format!("No resources found in {namespace} namespace.")
    }
}

async fn follow(context: &Context, view: &View<'_>, target: &Target, found: Found) -> Outcome {
    let kind = target.kind;
    let fields = match target.names.first() {
        Some(name) => format!("metadata.name={name}"),
        None => view.args.field_selector.clone(),
    };
    let mut table = view.table(kind);
    if !found.objects.is_empty() {
        // The first rows and the header are out already; only their widths are wanted.
        view.rows(&mut table, kind, &found.objects);
    }
    let path = collection(context, view.args, kind);
    let mut version = found.version;
    loop {
        let mut watch = Watch::new(&context.session, &path, &view.args.selector, &fields, &version);
        loop {
            match watch.next().await {
                Ok((Change::Added | Change::Modified | Change::Deleted, object)) => {
                    view.change(&mut table, kind, object)?;
                }
                Err(e) if e.is_expired() => break,
                Err(e) => return Err(e.into()),
            }
        }
        // The history is gone: start from a fresh list.
        let answer = context.session.get(&path).await?;
        version = text(&answer, "/metadata/resourceVersion").to_owned();
        for object in list(&answer, "/items") {
            view.change(&mut table, kind, object.clone())?;
        }
    }
}
