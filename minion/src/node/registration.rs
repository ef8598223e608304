//! The Node object: created or adopted at start, its status kept true to the machine.
//!
//! Conditions are the master's alone; everything written here leaves them as they are.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr, time::Duration};

use coracle_api::{
    StringMap,
    client::{Api, Change, Client, ClientError, ListParams, Reflector},
    core::{Node, NodeAddress, NodeSpec, NodeStatus},
    meta::ObjectMeta,
};
use ipnet::Ipv4Net;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Backoff, facts::NodeFacts};

/// Lost races with other writers of the Node before giving up.
const ATTEMPTS: usize = 10;
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// Keeps the Node object of this minion.
#[derive(Debug, Clone)]
pub struct Registration {
    api: Api<Node>,
    facts: NodeFacts,
}

impl Registration {
    /// A registration of what `facts` describe.
    pub fn new(client: &Client, facts: NodeFacts) -> Self {
        Self { api: client.all(), facts }
    }

    /// The node's description.
    pub fn facts(&self) -> &NodeFacts {
        &self.facts
    }

    /// Creates the Node, or brings the labels and status of the one that exists up to date. A new
    /// Node asks for `pod_cidr`, which a minion names when it already runs pods in it.
    ///
    /// Idempotent. Errors are worth a retry when they are transient.
    pub async fn ensure(&self, pod_cidr: Option<Ipv4Net>) -> Result<Node, ClientError> {
        let mut outcome = self.attempt(pod_cidr).await;
        for _ in 1..ATTEMPTS {
            match &outcome {
                // Someone wrote in between, or removed it: look again.
                Err(e) if e.is_conflict() || e.is_already_exists() || e.is_not_found() => {
                    outcome = self.attempt(pod_cidr).await;
                }
                _ => break,
            }
        }
        outcome
    }

    async fn attempt(&self, pod_cidr: Option<Ipv4Net>) -> Result<Node, ClientError> {
        let name = &self.facts.name;
        let mut node = match self.limited(self.api.get_opt(name)).await? {
            Some(node) => node,
            None => self.limited(self.api.create(&new_node(&self.facts, pod_cidr))).await?,
        };
        if let Some(labelled) = with_labels(&node, &self.facts) {
            node = self.limited(self.api.update(name, &labelled)).await?;
        }
        match with_status(&node, &self.facts) {
            Some(current) => self.limited(self.api.update_status(name, &current)).await,
            None => Ok(node),
        }
    }

    /// Waits until the master has given this node its pod network. Makes the Node anew when somebody
    /// deletes it meanwhile. Never gives up; drop it to stop.
    pub async fn pod_cidr(&self) -> Ipv4Net {
        let fields = format!("metadata.name={}", self.facts.name);
        let mut reflector = Reflector::new(self.api.clone(), ListParams { fields, ..Default::default() });
        loop {
            let nodes = match reflector.next().await {
                Change::Replaced(nodes) => nodes,
                Change::Applied(node) => vec![node],
                Change::Deleted(_) => Vec::new(),
                Change::Interrupted(error) => {
                    tracing::debug!(%error, "waiting for the master");
                    continue;
                }
            };
            if let Some(cidr) = nodes.iter().find_map(|node| pod_cidr_of(node)) {
                return cidr;
            }
            let mut backoff = Backoff::new();
            while nodes.is_empty()
                && let Err(error) = self.ensure(None).await
            {
                tracing::debug!(%error, "the node can't be made anew yet");
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }

    async fn limited<T>(&self, call: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        tokio::time::timeout(CALL_LIMIT, call).await.unwrap_or_else(|_| {
            Err(ClientError::Timeout {
                server: "its address".into(),
                path: format!("node {}", self.facts.name),
                seconds: CALL_LIMIT.as_secs(),
            })
        })
    }
}

/// The pod network given to a node.
pub fn pod_cidr_of(node: &Node) -> Option<Ipv4Net> {
    Ipv4Net::from_str(node.spec.as_ref()?.pod_cidr.as_deref()?).ok()
}

fn labels(facts: &NodeFacts) -> StringMap {
    [
        ("kubernetes.io/hostname", facts.name.as_str()),
        ("kubernetes.io/os", facts.system.operating_system.as_str()),
        ("kubernetes.io/arch", facts.system.architecture.as_str()),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}

fn new_node(facts: &NodeFacts, pod_cidr: Option<Ipv4Net>) -> Node {
    let pod_cidr = pod_cidr.map(|c| c.to_string());
    Node {
        metadata: ObjectMeta { name: Some(facts.name.clone()), labels: Some(labels(facts)), ..Default::default() },
        spec: Some(NodeSpec { pod_cidrs: pod_cidr.clone().map(|c| vec![c]), pod_cidr, ..Default::default() }),
        status: None,
    }
}

/// The node with this machine's labels, or `None` if it has them.
fn with_labels(node: &Node, facts: &NodeFacts) -> Option<Node> {
    let mut node = node.clone();
    let current = node.metadata.labels.get_or_insert_default();
    let before = current.clone();
    current.extend(labels(facts));
    (*current != before).then_some(node)
}

/// The node with this machine's status, or `None` if it has it.
fn with_status(node: &Node, facts: &NodeFacts) -> Option<Node> {
    let before = node.status.clone().unwrap_or_default();
    let capacity = capacity(facts);
    let status = NodeStatus {
        addresses: Some(addresses(&facts.name, facts.address)),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        node_info: Some(facts.system.clone()),
        ..before.clone()
    };
    (status != before).then(|| Node { status: Some(status), ..node.clone() })
}

fn addresses(name: &str, address: IpAddr) -> Vec<NodeAddress> {
    let entry = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    vec![entry("InternalIP", address.to_string()), entry("Hostname", name.to_owned())]
}

fn capacity(facts: &NodeFacts) -> BTreeMap<String, Quantity> {
    let cpu = match facts.cpu_milli {
        whole if whole % 1000 == 0 => (whole / 1000).to_string(),
        part => format!("{part}m"),
    };
    let amounts =
        [("cpu", cpu), ("memory", format!("{}Ki", facts.memory_bytes / 1024)), ("pods", facts.pods_max.to_string())];
    amounts.map(|(resource, amount)| (resource.to_owned(), Quantity(amount))).into()
}

#[cfg(test)]
mod tests {
    use coracle_api::core::NodeCondition;

    use super::*;

    fn facts() -> NodeFacts {
        NodeFacts {
            name: "m1".into(),
            address: "192.0.2.7".parse().unwrap(),
            cpu_milli: 2000,
            memory_bytes: 8 << 30,
            pods_max: 110,
            system: coracle_api::core::NodeSystemInfo {
                architecture: "amd64".into(),
                operating_system: "linux".into(),
                ..Default::default()
            },
        }
    }

    #[test]
    fn a_new_node_names_the_machine_and_asks_for_the_network_it_already_uses() {
        let node = new_node(&facts(), Some("10.244.3.0/24".parse().unwrap()));
        let labels = node.metadata.labels.as_ref().unwrap();
        assert_eq!(labels["kubernetes.io/hostname"], "m1");
        assert_eq!(labels["kubernetes.io/arch"], "amd64");
        assert_eq!(pod_cidr_of(&node), Some("10.244.3.0/24".parse().unwrap()));
        assert_eq!(pod_cidr_of(&new_node(&facts(), None)), None);
    }

    #[test]
    fn the_status_is_replaced_but_the_masters_conditions_are_kept() {
        let ready = NodeCondition { type_: "Ready".into(), status: "True".into(), ..Default::default() };
        let mut node = new_node(&facts(), None);
        node.status = Some(NodeStatus { conditions: Some(vec![ready.clone()]), ..Default::default() });
        let updated = with_status(&node, &facts()).expect("it lacked all facts");
        let status = updated.status.clone().unwrap();
        assert_eq!(status.conditions, Some(vec![ready]));
        assert_eq!(status.capacity.as_ref().unwrap()["memory"].0, "8388608Ki");
        assert_eq!(status.capacity.unwrap()["cpu"].0, "2");
        assert_eq!(status.addresses.unwrap()[0].address, "192.0.2.7");
        assert_eq!(with_status(&updated, &facts()), None, "nothing is written twice");
    }

    #[test]
    fn labels_of_the_user_stay() {
        let mut node = new_node(&facts(), None);
        assert_eq!(with_labels(&node, &facts()), None);
        node.metadata.labels = Some([("disk".to_owned(), "ssd".to_owned())].into());
        let labelled = with_labels(&node, &facts()).unwrap().metadata.labels.unwrap();
        assert_eq!((labelled.len(), labelled["disk"].as_str()), (4, "ssd"));
    }
}
