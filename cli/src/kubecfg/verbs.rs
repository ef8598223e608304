//! The verbs: what each asks of the master and what it prints.
//!
//! Invariant: a verb prints only after everything it was asked for is done.

use std::time::Duration;

use coracle_api::client::ClientError;
use serde_json::{Value, json};

use super::{
    body::{self, NamespaceFile, is_dns_label},
    internal,
    print::Printer,
    request::{Master, Reply},
    resource::Resource,
    usage,
};
use crate::{
    failure::client_sentence,
    output,
    rolling::{self, Change, Order},
};

/// What a verb prints, or the text of its fatal line.
pub(crate) type Verdict = Result<String, String>;

/// What the verbs need besides their words.
pub(crate) struct Context {
    pub(crate) master: Master,
    pub(crate) printer: Printer,
    /// `-c`
    pub(crate) source: String,
    /// `-l`
    pub(crate) labels: String,
    /// `-fields`
    pub(crate) fields: String,
    /// `-image`
    pub(crate) image: String,
    /// `-rollback`
    pub(crate) rollback: bool,
    /// `-p`
    pub(crate) ports: String,
    /// `-s`, if a port
    pub(crate) service_port: Option<i64>,
    /// `-u`, if given
    pub(crate) pause: Option<Duration>,
}

/// `Error: <text>`, and the remedy when the master can't be reached.
fn request_error(error: ClientError) -> String {
    match error {
        ClientError::Api(e) => format!("Got request error: {}", e.message),
        other => format!("Got request error: {}", client_sentence(&other)),
    }
}

fn plain_error(error: ClientError) -> String {
    format!("Error: {}", client_sentence(&error))
}

impl Context {
    /// `list`, `get`, `create`, `update`, `delete`, `print`; `None` when the verb is none of them.
    pub(crate) async fn object_verb(&self, verb: &str, words: &[String]) -> Option<Verdict> {
        if !matches!(verb, "list" | "get" | "create" | "update" | "delete" | "print") {
            return None;
        }
        let path = words.first().map(|w| w.trim_matches('/')).filter(|_| words.len() == 1);
        let target = path.and_then(|path| {
            let (resource, id) = path.split_once('/').map_or((path, None), |(r, id)| (r, Some(id)));
            Some((Resource::parse(resource)?, id))
        });
        Some(match (verb, target) {
            ("list", Some((resource, None))) => {
                self.shown(self.master.list(resource, &self.labels, &self.fields).await)
            }
            ("get", Some((resource, Some(id)))) => self.shown(self.master.get(resource, id).await),
            ("delete", Some((resource, Some(id)))) => self.shown(self.master.delete(resource, id).await),
            ("create", Some((resource, None))) => self.create(resource).await,
            ("update", Some((resource, Some(id)))) => self.update(resource, id).await,
            ("print", Some((resource, None))) => self.print(resource).await,
            _ => Err(usage::of_verb(verb)),
        })
    }

    fn shown(&self, reply: Result<Reply, ClientError>) -> Verdict {
        self.printer.print(&reply.map_err(request_error)?)
    }

    async fn create(&self, resource: Resource) -> Verdict {
        let mut out = String::new();
        for document in body::read(&self.source).await? {
            let object = body::as_object(document, resource, &self.source)?;
            out.push_str(&self.shown(self.master.create(resource, &object).await)?);
        }
        Ok(out)
    }

    async fn update(&self, resource: Resource, id: &str) -> Verdict {
        let mut documents = body::read(&self.source).await?;
        if documents.len() != 1 {
            return Err(format!("update needs one object, {} has {}", self.source, documents.len()));
        }
        let mut object = body::as_object(documents.remove(0), resource, &self.source)?;
        let stored = self.master.get(resource, id).await.map_err(request_error)?.object;
        object["resourceVersion"] = stored["resourceVersion"].clone();
        self.shown(self.master.put(resource, id, &object).await)
    }

    async fn print(&self, resource: Resource) -> Verdict {
        let mut out = String::new();
        for document in body::read(&self.source).await? {
            let object = body::as_object(document, resource, &self.source)?;
            out.push_str(&self.printer.print(&Reply { raw: object.to_string(), object })?);
        }
        Ok(out)
    }

    /// `resize`, and `stop` with 0: prints the YAML of the result.
    pub(crate) async fn resize(&self, id: &str, replicas: i64) -> Verdict {
        let set = |rc: &mut Value| rc["desiredState"]["replicas"] = replicas.into();
        let reply = self.master.edit(Resource::ReplicationControllers, id, set).await.map_err(plain_error)?;
        Ok(internal::to_yaml(&reply.object))
    }

    /// `rm`: silent, and only for a controller that wants no replica.
    pub(crate) async fn rm(&self, id: &str) -> Verdict {
        let rc = self.master.get(Resource::ReplicationControllers, id).await.map_err(plain_error)?.object;
        let replicas = rc["desiredState"]["replicas"].as_i64().unwrap_or_default();
        if replicas != 0 {
            return Err(format!("Error: controller has non-zero replicas ({replicas}), please stop it first"));
        }
        self.master.delete(Resource::ReplicationControllers, id).await.map_err(plain_error)?;
        Ok(String::new())
    }

    /// `run`: a replication controller, and a service with `-s`.
    pub(crate) async fn run(&self, image: &str, replicas: i64, name: &str) -> Verdict {
        if self.service_port.is_some() && !is_dns_label(name) {
            return Err(format!("Error: service creation requires an ID which is a DNS label: '{name}'"));
        }
        let controller = run_controller(image, replicas, name, &self.ports)?;
        let created = self.master.create(Resource::ReplicationControllers, &controller).await.map_err(plain_error)?;
        let mut out = internal::to_yaml(&created.object);
        if let Some(port) = self.service_port {
            let service =
                self.master.create(Resource::Services, &run_service(port, name)).await.map_err(plain_error)?;
            out.push_str(&internal::to_yaml(&service.object));
        }
        Ok(out)
    }

    /// `rollingupdate`: silent on stdout, as in 0.5.4; its steps go to stderr.
    pub(crate) async fn rolling_update(&self, id: &str) -> Verdict {
        let change = match (self.rollback, self.image.as_str()) {
            (true, _) => Change::Rollback,
            (false, "") => Change::Renew,
            (false, image) => Change::Image(image.to_owned()),
        };
        let order = Order {
            name: id.to_owned(),
            change,
            min_ready: rolling::MIN_READY,
            timeout: rolling::TIMEOUT,
            pause: self.pause.unwrap_or_default(),
        };
        let tell = |step: &str| {
            output::note(step);
            Ok(())
        };
        let updated = rolling::run(self.master.session(), self.master.namespace(), &order, tell).await;
        updated.map(|()| String::new()).map_err(|failure| format!("Error: {failure}"))
    }
}

/// The controller that `run` creates.
fn run_controller(image: &str, replicas: i64, name: &str, ports: &str) -> Result<Value, String> {
    let mut container = json!({"name": name.to_lowercase(), "image": image});
    let ports = parse_ports(ports)?;
    if !ports.is_empty() {
        container["ports"] = ports.into();
    }
    Ok(json!({
        "kind": "ReplicationController", "apiVersion": "v1beta1", "id": name,
        "desiredState": {
            "replicas": replicas,
            "replicaSelector": {"name": name},
            "podTemplate": {
                "desiredState": {"manifest": {"version": "v1beta2", "containers": [container]}},
                "labels": {"name": name},
            },
        },
        "labels": {"name": name},
    }))
}

fn run_service(port: i64, name: &str) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1beta1", "id": name, "port": port,
        "labels": {"name": name}, "selector": {"name": name},
    })
}

/// `host:container` or `container`, separated by commas.
fn parse_ports(spec: &str) -> Result<Vec<Value>, String> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("Error: -p: '{text}' in '{spec}' is not a port; expected host:container or container")),
    };
    spec.split(',')
        .filter(|p| !p.is_empty())
        .map(|port| match port.split_once(':') {
            Some((host, container)) => Ok(json!({"hostPort": number(host)?, "containerPort": number(container)?})),
            None => Ok(json!({"containerPort": number(port)?})),
        })
        .collect()
}

/// `ns [NAME]`: shows the remembered namespace, or remembers another.
pub(crate) fn namespace(file: &NamespaceFile, words: &[String]) -> Verdict {
    let name = match words {
        [] => file.load()?,
        [name] if is_dns_label(name) => {
            file.save(name)?;
            name.clone()
        }
        [name] => return Err(format!("Error: '{name}' is not a namespace: expected a DNS label such as team-a")),
        _ => return Err(usage::of_verb("ns")),
    };
    Ok(format!("Using namespace {name}\n"))
}

/// A count of replicas on the command line.
pub(crate) fn parse_replicas(word: &str) -> Result<i64, String> {
    match word.parse::<i64>() {
        Ok(n) if n >= 0 => Ok(n),
        _ => Err(format!("Error parsing replicas: '{word}' is not a count")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_makes_a_controller_with_the_name_as_label() {
        let rc = run_controller("nginx", 2, "Web", "8080:80,443").unwrap();
        assert_eq!(rc["desiredState"]["replicaSelector"], json!({"name": "Web"}));
        let container = &rc["desiredState"]["podTemplate"]["desiredState"]["manifest"]["containers"][0];
        assert_eq!(
            container,
            &json!({"name": "web", "image": "nginx",
                "ports": [{"hostPort": 8080, "containerPort": 80}, {"containerPort": 443}]})
        );
        for bad in ["x", "1:2:3", "0", "80:70000"] {
            assert!(parse_ports(bad).is_err(), "{bad}");
        }
    }
}
