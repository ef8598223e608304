//! The user: creates, resizes and deletes, over a network that fails, and believes what it is told.

use bytes::Bytes;
use coracle_api::{
    Kind, TypedObject,
    client::{Client, ClientError, encode, object_path},
    core::{Namespace, Pod, ReplicationController, Service},
};
use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    gate::Gate,
    network::{MASTER, Network},
    note,
    random::Random,
    world::{Told, Wish, World},
};

/// Its place in the network.
pub const NUMBER: usize = 90;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
const NAMESPACES: [&str; 2] = ["default", "side"];
/// Replicas of a controller at most.
const REPLICAS_MAX: usize = 5;

/// See the module.
#[derive(Debug)]
pub struct User {
    client: Client,
    world: World,
    random: Random,
}

impl User {
    /// A user with a connection of its own.
    pub fn new(seed: u64, world: World, network: &Network) -> Result<Self, ClientError> {
        let client = Client::with_dial(&format!("http://{MASTER}"), network.dialer(NUMBER, Gate::default()))?;
        Ok(Self { client, world, random: Random::new(seed, "user") })
    }

    /// Goes on until dropped.
    pub async fn run(mut self) {
        // Something to begin with.
        for _ in 0..self.random.range(2, 4) {
            self.create_controller().await;
        }
        self.create_service().await;
        loop {
            let hurry = self.random.one_in(4);
            let pause = if hurry { self.random.millis(0, 200) } else { self.random.millis(500, 4000) };
            tokio::time::sleep(pause).await;
            self.act().await;
        }
    }

    async fn act(&mut self) {
        match self.random.below(20) {
            0..=2 => self.create_controller().await,
            3..=7 => self.resize().await,
            8 => self.delete_controller().await,
            9..=11 => self.create_pod().await,
            12 | 13 => self.delete_pod().await,
            14 | 15 => self.create_service().await,
            16 => self.delete_service().await,
            17 => self.delete_node().await,
            18 => self.create_namespace().await,
            _ => self.delete_namespace().await,
        }
    }

    fn namespace(&mut self) -> &'static str {
        let at = if self.random.one_in(4) { 1 } else { 0 };
        NAMESPACES[at]
    }

    async fn create_controller(&mut self) {
        let (namespace, number) = (self.namespace(), self.random.below(3));
        let (name, replicas) = (format!("rc-{number}"), self.random.range(0, REPLICAS_MAX - 1));
        let labels = json!({"app": name});
        let spec = self.pod_spec();
        let template = json!({"metadata": {"labels": labels}, "spec": spec});
        let spec = json!({"replicas": replicas, "selector": labels, "template": template});
        self.create(ReplicationController::row(), namespace, &name, json!({"spec": spec})).await;
    }

    fn pod_spec(&mut self) -> Value {
        let (cpu, containers) = (self.random.range(1, 3) * 50, if self.random.one_in(4) { 2 } else { 1 });
        // One in a few crashes by itself now and then.
        let lives = self.random.range(20, 90);
        let command = if self.random.one_in(5) { format!("sleep {lives}") } else { "serve".to_owned() };
        let container = |n: usize| {
            json!({"name": format!("c{n}"), "image": "img", "command": ["sh", "-c", command],
                "imagePullPolicy": "IfNotPresent", "ports": [{"containerPort": 80 + n}],
                "resources": {"requests": {"cpu": format!("{cpu}m")}}})
        };
        let grace = self.random.range(0, 5);
        json!({"terminationGracePeriodSeconds": grace, "containers": (0..containers).map(container).collect::<Vec<_>>()})
    }

    async fn create_pod(&mut self) {
        let (namespace, name) = (self.namespace(), format!("bare-{}", self.random.below(4)));
        let spec = self.pod_spec();
        self.create(Pod::row(), namespace, &name, json!({"metadata": {"labels": {"kind": "bare"}}, "spec": spec}))
            .await;
    }

    async fn create_service(&mut self) {
        let (namespace, number) = (self.namespace(), self.random.below(3));
        let selector = json!({"app": format!("rc-{number}")});
        let spec = json!({"selector": selector, "ports": [{"port": 80, "targetPort": 80}]});
        self.create(Service::row(), namespace, &format!("svc-{number}"), json!({"spec": spec})).await;
    }

    async fn create_namespace(&mut self) {
        self.create(Namespace::row(), "", NAMESPACES[1], json!({})).await;
    }

    async fn create(&mut self, kind: &'static Kind, namespace: &str, name: &str, mut object: Value) {
        object["apiVersion"] = "v1".into();
        object["kind"] = kind.kind.into();
        object["metadata"]["name"] = name.into();
        let path = object_path(kind, Some(namespace), None, None);
        self.ask(kind, namespace, name, Wish::Create, Method::POST, &path, Some(object)).await;
    }

    async fn delete(&mut self, kind: &'static Kind, key: &str, options: Value) {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let path = object_path(kind, Some(namespace), Some(name), None);
        self.ask(kind, namespace, name, Wish::Delete, Method::DELETE, &path, Some(options)).await;
    }

    async fn resize(&mut self) {
        let known: Vec<String> = self.world.state().controllers.keys().cloned().collect();
        let Some(key) = self.random.pick(&known).cloned() else { return };
        let (namespace, name) = key.split_once('/').unwrap_or(("", &key));
        let api = self.client.namespaced::<ReplicationController>(namespace);
        let Ok(Ok(mut controller)) = timeout(PATIENCE, api.get(name)).await else { return };
        let replicas = i32::try_from(self.random.range(0, REPLICAS_MAX)).unwrap_or_default();
        let Some(spec) = controller.spec.as_mut() else { return };
        if spec.replicas == Some(replicas) {
            return;
        }
        spec.replicas = Some(replicas);
        let path = object_path(ReplicationController::row(), Some(namespace), Some(name), None);
        let body = serde_json::to_value(&controller).unwrap_or_default();
        let kind = ReplicationController::row();
        self.ask(kind, namespace, name, Wish::Resize(replicas), Method::PUT, &path, Some(body)).await;
    }

    async fn delete_controller(&mut self) {
        let known: Vec<String> = self.world.state().controllers.keys().cloned().collect();
        let Some(key) = self.random.pick(&known).cloned() else { return };
        let policies = [None, Some("Background"), Some("Orphan"), Some("Foreground")];
        let policy = policies[self.random.below(policies.len())];
        self.delete(ReplicationController::row(), &key, json!({ "propagationPolicy": policy })).await;
    }

    async fn delete_pod(&mut self) {
        let known: Vec<String> = self.world.state().pods.keys().cloned().collect();
        let Some(key) = self.random.pick(&known).cloned() else { return };
        let grace = [None, Some(0), Some(1)][self.random.below(3)];
        self.delete(Pod::row(), &key, json!({ "gracePeriodSeconds": grace })).await;
    }

    async fn delete_service(&mut self) {
        let known: Vec<String> = self.world.state().services.keys().filter(|s| s.contains("/svc-")).cloned().collect();
        let Some(key) = self.random.pick(&known).cloned() else { return };
        self.delete(Service::row(), &key, json!({})).await;
    }

    async fn delete_namespace(&mut self) {
        if self.random.one_in(3) {
            self.delete(Namespace::row(), NAMESPACES[1], json!({})).await;
        }
    }

    async fn delete_node(&mut self) {
        let known: Vec<String> = self.world.state().nodes.keys().cloned().collect();
        let Some(name) = self.random.pick(&known).cloned() else { return };
        note!(self.world.trace, "user   deletes node {name}");
        let path = format!("/api/v1/nodes/{}", encode(&name));
        drop(timeout(PATIENCE, self.client.transport().json(Method::DELETE, &path, None)).await);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    async fn ask(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        wish: Wish,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) {
        let key = format!("{}/{namespace}/{name}", kind.plural);
        let order = self.world.order(&key, wish);
        let body = body.map(|body| Bytes::from(body.to_string()));
        let answer = timeout(PATIENCE, self.client.transport().json(method, path, body)).await;
        self.world.answered(order, told(answer.ok()));
    }
}

fn told(answer: Option<Result<Bytes, ClientError>>) -> Told {
    match answer {
        Some(Ok(_)) => Told::Done,
        Some(Err(ClientError::Api(error))) if error.code() < 500 || error.message.contains("was not stored") => {
            Told::Refused
        }
        _ => Told::Unknown,
    }
}
