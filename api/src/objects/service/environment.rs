//! The variables by which containers find a service: its host and port, and the forms that a
//! Docker link has (spec §5). The order is part of the contract.

use crate::core::{Service, ServicePort};

/// The variables of one service, in order. None without a portal. They name the service's ports,
/// never those of its pods; the first port is the one in `SERVICE_PORT` and `PORT`.
///
/// ```
/// # use coracle_api::{core::Service, objects::service::environment};
/// let json = r#"{"metadata": {"name": "jenkins-slave"},
///     "spec": {"clusterIP": "10.0.248.40", "ports": [{"port": 50000, "protocol": "TCP"}]}}"#;
/// let service: Service = serde_json::from_str(json).unwrap();
/// let all = environment(&service);
/// assert_eq!(all[0], ("JENKINS_SLAVE_SERVICE_HOST".into(), "10.0.248.40".into()));
/// assert_eq!(all[2], ("JENKINS_SLAVE_PORT".into(), "tcp://10.0.248.40:50000".into()));
/// ```
pub fn environment(service: &Service) -> Vec<(String, String)> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let (Some(host), Some(first)) = (super::portal_ip(service), ports.first()) else { return Vec::new() };
    let prefix = mangle(service.metadata.name.as_deref().unwrap_or_default());
    let mut all = vec![
        (format!("{prefix}_SERVICE_HOST"), host.to_string()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            all.push((format!("{prefix}_SERVICE_PORT_{}", mangle(name)), port.port.to_string()));
        }
    }
    let url = |port: &ServicePort| format!("{}://{host}:{}", protocol(port), port.port);
    all.push((format!("{prefix}_PORT"), url(first)));
    for port in ports {
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol(port).to_ascii_uppercase());
        all.push((link.clone(), url(port)));
        all.push((format!("{link}_PROTO"), protocol(port)));
        all.push((format!("{link}_PORT"), port.port.to_string()));
        all.push((format!("{link}_ADDR"), host.to_string()));
    }
    all
}

fn protocol(port: &ServicePort) -> String {
    port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP").to_ascii_lowercase()
}

/// The form of a name in variables: upper case, with `_` for `-` and for what names no variable.
fn mangle(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn lines(name: &str, spec: Value) -> Vec<String> {
        let service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        environment(&service).into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn one_port_gives_the_variables_of_the_article_in_their_order() {
        let spec = json!({"clusterIP": "10.0.248.40", "ports": [{"port": 50000, "protocol": "TCP", "targetPort": 1}]});
        let expected = "JENKINS_SLAVE_SERVICE_HOST=10.0.248.40
JENKINS_SLAVE_SERVICE_PORT=50000
JENKINS_SLAVE_PORT=tcp://10.0.248.40:50000
JENKINS_SLAVE_PORT_50000_TCP=tcp://10.0.248.40:50000
JENKINS_SLAVE_PORT_50000_TCP_PROTO=tcp
JENKINS_SLAVE_PORT_50000_TCP_PORT=50000
JENKINS_SLAVE_PORT_50000_TCP_ADDR=10.0.248.40";
        assert_eq!(lines("jenkins-slave", spec).join("\n"), expected);
    }

    #[test]
    fn named_ports_have_their_own_variable_and_all_ports_a_link() {
        let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]);
        let all = lines("kube-dns", json!({"clusterIP": "10.0.0.10", "ports": ports}));
        assert_eq!(
            all[1..5],
            [
                "KUBE_DNS_SERVICE_PORT=53",
                "KUBE_DNS_SERVICE_PORT_DNS=53",
                "KUBE_DNS_SERVICE_PORT_DNS_TCP=53",
                "KUBE_DNS_PORT=udp://10.0.0.10:53",
            ]
        );
        assert!(all.contains(&"KUBE_DNS_PORT_53_UDP_PROTO=udp".to_owned()));
        assert!(all.contains(&"KUBE_DNS_PORT_53_TCP=tcp://10.0.0.10:53".to_owned()));
    }

    #[test]
    fn a_service_without_a_portal_has_no_variables() {
        assert!(lines("a", json!({"clusterIP": "None", "ports": [{"port": 1}]})).is_empty());
        assert!(lines("a", json!({"ports": [{"port": 1}]})).is_empty());
        assert!(lines("a", json!({"clusterIP": "10.0.0.1"})).is_empty());
    }

    proptest! {
        #[test]
        fn every_valid_name_makes_variables_that_a_shell_can_read(
            name in "[a-z]([-a-z0-9]{0,20}[a-z0-9])?", port_name in "[a-z0-9]([-a-z0-9]{0,10}[a-z])?", port in 1..65536,
        ) {
            let ports = json!([{"name": port_name, "port": port, "protocol": "TCP"}]);
            for line in lines(&name, json!({"clusterIP": "10.0.0.1", "ports": ports})) {
                let (variable, _) = line.split_once('=').unwrap();
                prop_assert!(variable.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'), "{}", line);
                prop_assert!(variable.starts_with(|c: char| c.is_ascii_uppercase()));
                prop_assert!(variable.starts_with(&name.to_ascii_uppercase().replace('-', "_")));
            }
        }
    }
}
