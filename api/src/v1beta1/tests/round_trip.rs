//! 2014 → hub → 2014 is the identity, but for the normalisations that the module lists.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Map, Value, json};

use super::{decode, sent};
use crate::{kinds::Kind, objects};

/// An object of the fields that are there.
fn object<const N: usize>(fields: [(&'static str, BoxedStrategy<Option<Value>>); N]) -> BoxedStrategy<Value> {
    let (keys, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    values
        .prop_map(move |values| {
            let fields = keys.iter().zip(values).filter_map(|(key, value)| Some(((*key).to_owned(), value?)));
            Value::Object(fields.collect())
        })
        .boxed()
}

fn some<T: Into<Value> + std::fmt::Debug + 'static>(
    values: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<Value>> {
    values.prop_map(|v| Some(v.into())).boxed()
}

fn maybe<T: Into<Value> + std::fmt::Debug + 'static>(
    values: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<Value>> {
    option::of(values.prop_map(Into::into)).boxed()
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,5}"
}

fn number() -> impl Strategy<Value = i32> {
    1..65536_i32
}

fn labels() -> BoxedStrategy<Value> {
    prop::collection::btree_map(name(), name(), 1..3).prop_map(|m| json!(m)).boxed()
}

fn strings() -> BoxedStrategy<Value> {
    vec("[ -~]{1,6}", 1..3).prop_map(|l| json!(l)).boxed()
}

fn list(items: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    vec(items, 1..3).prop_map(Value::from).boxed()
}

fn port() -> BoxedStrategy<Value> {
    prop_oneof![number().prop_map(Value::from), name().prop_map(Value::from)].boxed()
}

fn yes() -> BoxedStrategy<Option<Value>> {
    maybe(Just(true))
}

fn exec() -> BoxedStrategy<Value> {
    object([("command", some(strings()))])
}

fn http_get() -> BoxedStrategy<Value> {
    object([("path", maybe(name())), ("port", some(port())), ("host", maybe(name()))])
}

fn container() -> BoxedStrategy<Value> {
    let ports = object([
        ("name", maybe(name())),
        ("hostPort", maybe(number())),
        ("containerPort", some(number())),
        ("protocol", some(select(vec!["TCP", "UDP"]))),
        ("hostIP", maybe(name())),
    ]);
    let env = (name(), option::of("[ -~]{1,6}")).prop_map(|(name, value)| {
        let mut env = json!({"name": name, "key": name});
        env.as_object_mut().unwrap().extend(value.map(|v| ("value".to_owned(), json!(v))));
        env
    });
    let mount = (name(), name(), any::<bool>()).prop_map(|(name, path, read_only)| {
        let mut mount = json!({"name": name, "mountPath": path, "path": path});
        mount.as_object_mut().unwrap().extend(read_only.then(|| ("readOnly".to_owned(), json!(true))));
        mount
    });
    let probe = object([
        ("httpGet", maybe(http_get())),
        ("tcpSocket", maybe(object([("port", some(port()))]))),
        ("exec", maybe(exec())),
        ("initialDelaySeconds", maybe(number())),
    ]);
    let hook = || object([("exec", maybe(exec())), ("httpGet", maybe(http_get()))]);
    object([
        ("name", some(name())),
        ("image", some(select(vec!["a", "a:1", "r.io:5000/a", "a:latest"]))),
        ("command", maybe(strings())),
        ("workingDir", maybe(name())),
        ("ports", maybe(list(ports))),
        ("env", maybe(list(env.boxed()))),
        ("memory", maybe(1..1_i64 << 40)),
        ("cpu", maybe(1..100_000_i64)),
        ("volumeMounts", maybe(list(mount.boxed()))),
        ("livenessProbe", maybe(probe)),
        ("lifecycle", maybe(object([("postStart", maybe(hook())), ("preStop", maybe(hook()))]))),
        ("terminationMessagePath", maybe(name())),
        ("privileged", yes()),
        ("imagePullPolicy", some(select(vec!["", "PullAlways", "PullIfNotPresent", "PullNever"]))),
    ])
}

fn volume() -> BoxedStrategy<Value> {
    let disk = object([
        ("pdName", some(name())),
        ("fsType", maybe(name())),
        ("partition", maybe(1..256)),
        ("readOnly", yes()),
    ]);
    let source = prop_oneof![
        name().prop_map(|path| ("hostDir", json!({"path": path}))),
        Just(("emptyDir", json!({}))),
        disk.prop_map(|disk| ("persistentDisk", disk)),
        (name(), "[a-z]{0,3}").prop_map(|(url, rev)| ("gitRepo", json!({"repository": url, "revision": rev}))),
    ];
    (name(), source)
        .prop_map(|(name, (key, value))| {
            let mut source = json!({"hostDir": null, "emptyDir": null, "persistentDisk": null, "gitRepo": null});
            source[key] = value;
            json!({"name": name, "source": source})
        })
        .boxed()
}

fn manifest(version: &'static str) -> BoxedStrategy<Value> {
    let policy = select(vec!["always", "onFailure", "never"]).prop_map(|p| json!({p: {}}));
    object([
        ("version", some(Just(version))),
        ("id", some(Just(""))),
        ("volumes", some(prop_oneof![Just(Value::Null), list(volume())])),
        ("containers", some(prop_oneof![Just(Value::Null), list(container())])),
        ("restartPolicy", some(policy)),
    ])
}

/// The fields in front, and the type's own.
fn of_kind(kind: &'static Kind, own: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let uid = any::<u128>().prop_map(|n| uuid::Uuid::from_u128(n).to_string());
    let meta = object([
        ("id", some(name())),
        ("uid", maybe(uid)),
        (
            "creationTimestamp",
            maybe((0..4_000_000_000_i64).prop_map(|s| jiff::Timestamp::from_second(s).unwrap().to_string())),
        ),
        ("resourceVersion", maybe(1..u64::MAX)),
        ("annotations", maybe(labels())),
    ]);
    (meta, own)
        .prop_map(move |(mut meta, own)| {
            let (kind, namespaced) = (kind.v1beta1_kind.unwrap_or(kind.kind), kind.namespaced);
            let fields = meta.as_object_mut().unwrap();
            fields.extend([("kind".to_owned(), json!(kind)), ("apiVersion".to_owned(), json!("v1beta1"))]);
            fields.extend(namespaced.then(|| ("namespace".to_owned(), json!("default"))));
            if let Value::Object(own) = own {
                fields.extend(own);
            }
            meta
        })
        .boxed()
}

/// What the module says does not survive.
fn normalised(kind: &Kind, mut body: Value) -> Value {
    let fields = body.as_object_mut().unwrap();
    fields.remove("selfLink");
    fields.remove("currentState");
    fields.entry("creationTimestamp").or_insert(Value::Null);
    let manifest = match kind.kind {
        "Pod" => body.pointer_mut("/desiredState/manifest"),
        _ => body.pointer_mut("/desiredState/podTemplate/desiredState/manifest"),
    };
    if let Some(manifest) = manifest.and_then(Value::as_object_mut) {
        manifest.remove("uuid");
        manifest.insert("id".into(), json!(""));
        let containers = manifest.get_mut("containers").and_then(Value::as_array_mut);
        containers.into_iter().flatten().filter_map(Value::as_object_mut).for_each(unspell_pull_policy);
    }
    body
}

fn unspell_pull_policy(container: &mut Map<String, Value>) {
    let implied = if container["image"] == "a:latest" { "PullAlways" } else { "PullIfNotPresent" };
    if container["imagePullPolicy"] == implied {
        container.insert("imagePullPolicy".into(), json!(""));
    }
}

fn check(kind: &'static Kind, body: Value) -> Result<(), TestCaseError> {
    let back = sent(&*decode(kind, &body));
    prop_assert_eq!(normalised(kind, back), normalised(kind, body));
    Ok(())
}

fn pod() -> BoxedStrategy<Value> {
    let state =
        object([("manifest", some(manifest("v1beta1"))), ("status", some(Just("Running"))), ("host", maybe(name()))]);
    let own = object([("labels", maybe(labels())), ("desiredState", some(state)), ("nodeSelector", maybe(labels()))]);
    of_kind(&objects::pod::KIND, own)
}

fn controller() -> BoxedStrategy<Value> {
    let template = object([
        ("desiredState", some(object([("manifest", some(manifest("v1beta2")))]))),
        ("labels", maybe(labels())),
    ]);
    let state =
        object([("replicas", some(0..10_000)), ("replicaSelector", maybe(labels())), ("podTemplate", some(template))]);
    let own = object([("desiredState", some(state)), ("labels", maybe(labels()))]);
    of_kind(&objects::replication_controller::KIND, own)
}

fn service() -> BoxedStrategy<Value> {
    let own = object([
        ("port", some(number())),
        ("protocol", some(select(vec!["TCP", "UDP"]))),
        ("labels", maybe(labels())),
        ("selector", maybe(labels())),
        ("createExternalLoadBalancer", yes()),
        ("publicIPs", maybe(strings())),
        ("containerPort", some(prop_oneof![Just(json!(0)), port()])),
        ("portalIP", maybe(select(vec!["10.0.0.1", "None"]))),
    ]);
    of_kind(&objects::service::KIND, own)
}

fn endpoints() -> BoxedStrategy<Value> {
    let addresses = vec((select(vec!["10.0.0.1", "10.0.0.2", "[fd00::1]"]), number()), 1..4)
        .prop_map(|l| json!(l.into_iter().map(|(ip, port)| format!("{ip}:{port}")).collect::<Vec<_>>()));
    of_kind(&objects::endpoints::KIND, object([("endpoints", maybe(addresses))]))
}

fn minion() -> BoxedStrategy<Value> {
    let capacity =
        object([("cpu", maybe(0..1_000_000_i64)), ("memory", some(0..1_i64 << 50)), ("pods", maybe(0..500))]);
    let own = object([
        ("hostIP", maybe(name())),
        ("resources", some(object([("capacity", some(capacity))]))),
        ("labels", maybe(labels())),
    ]);
    of_kind(&objects::node::KIND, own)
}

fn event() -> BoxedStrategy<Value> {
    let involved = object([
        ("kind", maybe(select(vec!["Pod", "Minion", "Other"]))),
        ("namespace", some(Just("default"))),
        ("name", maybe(name())),
        ("uid", maybe(name())),
        ("apiVersion", maybe(Just("v1beta1"))),
        ("resourceVersion", maybe(name())),
        ("fieldPath", maybe(name())),
    ]);
    let own = object([
        ("involvedObject", some(involved)),
        ("status", maybe(select(vec!["running", "waiting", "Pending"]))),
        ("reason", maybe(select(vec!["Started", "Scheduled", "started"]))),
        ("message", maybe(name())),
        ("source", maybe(name())),
        ("timestamp", some(Just("2026-11-23T05:38:02Z"))),
    ]);
    of_kind(&objects::event::KIND, own)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn pods_survive_the_hub(body in pod()) {
        check(&objects::pod::KIND, body)?;
    }

    #[test]
    fn controllers_survive_the_hub(body in controller()) {
        check(&objects::replication_controller::KIND, body)?;
    }

    #[test]
    fn services_survive_the_hub(body in service()) {
        check(&objects::service::KIND, body)?;
    }

    #[test]
    fn endpoints_survive_the_hub(body in endpoints()) {
        check(&objects::endpoints::KIND, body)?;
    }

    #[test]
    fn minions_survive_the_hub(body in minion()) {
        check(&objects::node::KIND, body)?;
    }

    #[test]
    fn events_survive_the_hub(body in event()) {
        check(&objects::event::KIND, body)?;
    }
}
