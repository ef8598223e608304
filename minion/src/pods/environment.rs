//! The environment of a container: discovery variables of the services that exist when it
//! starts, then its own variables, which win.

use std::{borrow::Cow, net::IpAddr};

use coracle_api::{
    core::{Container, EnvVar, EnvVarSource, Pod},
    quantity,
};
use indexmap::IndexMap;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{discovery, expansion::expand, naming::uid_of, report::name_of, resources::Resources, services::Services};

/// Why a container can't be configured. A change of the pod or of what it refers to helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// What a container's environment may refer to besides its pod.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// All services.
    pub services: &'a Services,
    /// The pod's address.
    pub pod_ip: Option<IpAddr>,
    /// The node's address.
    pub node_ip: IpAddr,
    /// The node's name.
    pub node: &'a str,
}

/// Names and values, each name once, in the order of first definition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment<'a>(IndexMap<Cow<'a, str>, Cow<'a, str>, foldhash::fast::RandomState>);

impl Environment<'_> {
    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(Cow::as_ref)
    }

    /// `NAME=value`
    pub fn to_lines(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| [name, "=", value].concat()).collect()
    }
}

/// The environment of a container.
pub fn environment<'a>(
    pod: &Pod,
    container: &'a Container,
    around: &Surroundings<'a>,
) -> Result<Environment<'a>, ConfigError> {
    let services = discovery::variables(pod, around.services);
    let mut all = Environment(services.map(|(name, value)| (name.into(), value.into())).collect());
    for source in container.env_from.iter().flatten() {
        let map = source.config_map_ref.as_ref().filter(|r| r.optional != Some(true)).map(|r| ("ConfigMap", &r.name));
        let secret = source.secret_ref.as_ref().filter(|r| r.optional != Some(true)).map(|r| ("Secret", &r.name));
        if let Some((kind, name)) = map.or(secret) {
            return Err(unsupported(&container.name, "envFrom", kind, name));
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, container, variable, &all, around)? {
            all.0.insert(variable.name.as_str().into(), value.into());
        }
    }
    Ok(all)
}

/// `None` for an optional reference to nothing.
fn value_of(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    before: &Environment<'_>,
    around: &Surroundings<'_>,
) -> Result<Option<String>, ConfigError> {
    let Some(EnvVarSource { field_ref, resource_field_ref, config_map_key_ref, secret_key_ref, .. }) =
        &variable.value_from
    else {
        let text = variable.value.as_deref().unwrap_or_default();
        return Ok(Some(expand(text, |name| before.get(name))));
    };
    if let Some(field) = field_ref {
        return field_value(pod, &field.field_path, around).map(Some).ok_or_else(|| {
            ConfigError(format!(
                "env {} of container {} refers to the field {}, which has no value; correct its fieldPath",
                variable.name, container.name, field.field_path
            ))
        });
    }
    if let Some(resource) = resource_field_ref {
        let spec = pod.spec.as_ref();
        let named = resource.container_name.as_deref().unwrap_or(&container.name);
        let of = spec.and_then(|s| s.containers.iter().find(|c| c.name == named)).unwrap_or(container);
        let divisor = resource.divisor.as_ref().map_or("", |q| q.0.as_str());
        return resource_value(of, &resource.resource, divisor).map(Some).ok_or_else(|| {
            ConfigError(format!(
                "env {} of container {} refers to the resource {}: expected requests or limits of cpu or memory",
                variable.name, container.name, resource.resource
            ))
        });
    }
    let map = config_map_key_ref.as_ref().map(|r| ("ConfigMap", &r.name, r.optional));
    let secret = secret_key_ref.as_ref().map(|r| ("Secret", &r.name, r.optional));
    match map.or(secret) {
        Some((kind, name, optional)) if optional != Some(true) => {
            Err(unsupported(&container.name, &format!("env {}", variable.name), kind, name))
        }
        _ => Ok(None),
    }
}

fn unsupported(container: &str, what: &str, kind: &str, name: &str) -> ConfigError {
    ConfigError(format!(
        "{what} of container {container} needs the {kind} {name}, which does not exist in this cluster; \
         give the value in the pod, or mark the reference optional"
    ))
}

/// The value of a field of the pod that containers may refer to.
pub fn field_value(pod: &Pod, path: &str, around: &Surroundings<'_>) -> Option<String> {
    let (namespace, name) = name_of(pod);
    let meta = &pod.metadata;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return None,
        };
        return Some(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
    Some(match path {
        "metadata.name" => name.to_owned(),
        "metadata.namespace" => namespace.to_owned(),
        "metadata.uid" => uid_of(pod).to_owned(),
        "spec.nodeName" => around.node.to_owned(),
        "spec.serviceAccountName" => account.unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => around.node_ip.to_string(),
        "status.podIP" | "status.podIPs" if host_network => around.node_ip.to_string(),
        "status.podIP" | "status.podIPs" => around.pod_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        _ => return None,
    })
}

fn resource_value(container: &Container, resource: &str, divisor: &str) -> Option<String> {
    let held = Resources::of(container);
    let thousandths = match resource {
        "limits.cpu" => held.cpu_limit_milli,
        "requests.cpu" => held.cpu_request_milli,
        "limits.memory" => held.memory_limit.saturating_mul(1000),
        "requests.memory" => held.memory_request.saturating_mul(1000),
        _ => return None,
    };
    let divisor = quantity::milli(&Quantity(if matches!(divisor, "" | "0") { "1" } else { divisor }.to_owned()))?;
    (divisor > 0).then(|| (thousandths / divisor + i64::from(thousandths % divisor != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coracle_api::core::Service;

    use super::*;

    fn pod(json: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
            "spec": {"containers": [json]},
        }))
        .unwrap()
    }

    fn service(namespace: &str, name: &str, ip: &str) -> Arc<Service> {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": [{"port": 80, "protocol": "TCP"}]},
        }))
        .unwrap();
        service.into()
    }

    fn lines(container: serde_json::Value, services: &[Arc<Service>]) -> Result<Vec<String>, String> {
        let pod = pod(container);
        let services = &services.iter().cloned().collect();
        let around =
            Surroundings { services, pod_ip: Some([10, 244, 1, 2].into()), node_ip: [192, 0, 2, 1].into(), node: "n1" };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        environment(&pod, container, &around).map(|e| e.to_lines()).map_err(|e| e.0)
    }

    #[test]
    fn services_of_the_own_namespace_and_the_master_are_announced() {
        let services = [
            service("shop", "db", "10.0.0.9"),
            service("other", "x", "10.0.0.8"),
            service("default", "kubernetes", "10.0.0.1"),
        ];
        let all = lines(serde_json::json!({"name": "c"}), &services).unwrap();
        assert!(all.contains(&"DB_SERVICE_HOST=10.0.0.9".to_owned()), "{all:?}");
        assert!(all.contains(&"KUBERNETES_PORT_80_TCP_ADDR=10.0.0.1".to_owned()), "{all:?}");
        assert!(!all.iter().any(|l| l.starts_with("X_")), "{all:?}");
    }

    #[test]
    fn the_containers_own_variables_win_and_may_refer_to_earlier_ones() {
        let env = serde_json::json!({"name": "c", "env": [
            {"name": "DB_SERVICE_PORT", "value": "1"},
            {"name": "URL", "value": "http://$(DB_SERVICE_HOST):$(DB_SERVICE_PORT)/$(LATER)"},
            {"name": "LATER", "value": "x"},
        ]});
        let all = lines(env, &[service("shop", "db", "10.0.0.9")]).unwrap();
        assert!(all.contains(&"URL=http://10.0.0.9:1/$(LATER)".to_owned()), "{all:?}");
        assert_eq!(all.iter().filter(|l| l.starts_with("DB_SERVICE_PORT=")).count(), 1);
    }

    #[test]
    fn fields_of_the_pod_and_its_resources_can_be_referred_to() {
        let from = |path: &str| serde_json::json!({"fieldRef": {"fieldPath": path}});
        let all = lines(
            serde_json::json!({"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}, "env": [
                {"name": "A", "valueFrom": from("metadata.name")},
                {"name": "B", "valueFrom": from("metadata.labels['app']")},
                {"name": "C", "valueFrom": from("status.podIP")},
                {"name": "D", "valueFrom": from("spec.nodeName")},
                {"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "F", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            ]}),
            &[],
        );
        assert_eq!(all.unwrap(), ["A=web-1", "B=web", "C=10.244.1.2", "D=n1", "E=2", "F=64"]);
    }

    #[test]
    fn a_missing_config_map_is_an_error_unless_optional() {
        let env = |optional: bool| {
            serde_json::json!({"name": "c", "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": optional}}}]})
        };
        assert_eq!(lines(env(true), &[]), Ok(vec![]));
        assert!(lines(env(false), &[]).unwrap_err().contains("ConfigMap m"));
    }
}
