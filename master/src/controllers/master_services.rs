//! The services that stand for the master itself, as in 2014: `kubernetes` and `kubernetes-ro`.
//!
//! They exist so that every pod gets their variables. Their endpoints are the masters that are
//! alive and that other hosts reach. A master that listens on loopback is none of them; without any
//! the services refuse at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use coracle_api::{
    ApiError, IntOrString, Object, TypedObject,
    core::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service, ServicePort, ServiceSpec},
    error::Reason,
    meta::ObjectMeta,
};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{changes, endpoints::MANAGED_BY};
use crate::{
    admission::{Admission, retry_choices},
    coordination::Announcements,
    liveness,
    registry::{Key, Registry},
};

/// On the endpoints that this loop made.
const MANAGER: &str = "master";
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Name and port; the selector matches no pod.
const SERVICES: [(&str, i32); 2] = [("kubernetes", 443), ("kubernetes-ro", 80)];

/// Creates those that are missing, so that they are there before the first pod.
pub(crate) async fn ensure(registry: &Registry, admission: &Admission, now: Timestamp) -> Result<(), ApiError> {
    for (name, port) in SERVICES {
        if registry.get(Service::row(), "default", name).is_some() {
            continue;
        }
        let created = retry_choices(async || {
            let mut service: Box<dyn Object> = Box::new(service(name, port, registry.new_id(), now));
            service.set_defaults();
            service.prepare_create();
            admission.admit(registry, &mut *service, None)?;
            registry.create(service).await
        });
        match created.await {
            Err(error) if error.reason != Reason::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn service(name: &str, port: i32, uid: uuid::Uuid, now: Timestamp) -> Service {
    let selector = [("component", "apiserver"), ("provider", "kubernetes")];
    Service {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            uid: Some(uid.to_string()),
            creation_timestamp: Some(now.into()),
            ..Default::default()
        },
        spec: Some(ServiceSpec {
            selector: Some(selector.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            ports: Some(vec![ServicePort {
                port,
                protocol: Some("TCP".into()),
                target_port: Some(IntOrString::Int(port)),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        status: None,
    }
}

/// Keeps the endpoints of both services.
#[derive(Debug)]
pub(crate) struct MasterEndpoints {
    pub(crate) registry: Registry,
    pub(crate) announcements: watch::Receiver<Announcements>,
    /// Where this master can be reached, which it need not announce when it is alone.
    pub(crate) own: Option<SocketAddr>,
}

impl MasterEndpoints {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut changes = changes(self.registry.clone(), Endpoints::row()).boxed();
        let concerned = |name: &str| SERVICES.iter().any(|(service, _)| *service == name);
        let mut retry = None;
        let mut look = true;
        loop {
            if look {
                let subsets = plan_subsets(&self.masters());
                let mut failed = false;
                for (name, _) in SERVICES {
                    if let Err(error) = self.reconcile(name, &subsets).await {
                        tracing::debug!(name, %error, "the endpoints can't be written; tried again");
                        failed = true;
                    }
                }
                retry = failed.then(|| tokio::time::Instant::now() + RETRY);
            }
            // All arms are cancel-safe: `changes` keeps what it has not yielded, the rest are waits.
            look = tokio::select! {
                () = stop.cancelled() => return,
                Some(changed) = changes.next() => {
                    let ours = |key: &Key| key.namespace == "default" && concerned(&key.name);
                    changed.anew || changed.items.iter().any(|item| ours(&item.entry.key))
                }
                Ok(()) = self.announcements.changed() => true,
                () = super::due(retry) => true,
            };
        }
    }

    fn masters(&mut self) -> BTreeSet<SocketAddr> {
        let mut masters = liveness::addresses(&self.announcements.borrow_and_update());
        masters.extend(self.own);
        masters
    }

    async fn reconcile(&self, name: &str, subsets: &[EndpointSubset]) -> Result<(), ApiError> {
        let wanted = (!subsets.is_empty()).then(|| subsets.to_vec());
        match self.registry.get_typed::<Endpoints>("default", name) {
            // A user's own.
            Some(current)
                if current.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_none_or(|by| by != MANAGER) => {}
            Some(current) if current.subsets == wanted => {}
            Some(_) => {
                let set = |endpoints: &mut Endpoints| {
                    endpoints.subsets.clone_from(&wanted);
                    Ok(true)
                };
                self.registry.modify("default", name, set).await?;
            }
            None if wanted.is_none() => {}
            None => {
                let metadata = ObjectMeta {
                    name: Some(name.into()),
                    namespace: Some("default".into()),
                    labels: Some([(MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
                    uid: Some(self.registry.new_id().to_string()),
                    creation_timestamp: Some(self.registry.now().into()),
                    ..Default::default()
                };
                self.registry.create(Box::new(Endpoints { metadata, subsets: wanted })).await?;
            }
        }
        Ok(())
    }
}

/// The masters by their ports. Order follows addresses, so equal inputs give equal endpoints.
fn plan_subsets(masters: &BTreeSet<SocketAddr>) -> Vec<EndpointSubset> {
    let mut ports: BTreeMap<u16, Vec<EndpointAddress>> = BTreeMap::new();
    for master in masters {
        let address = EndpointAddress { ip: master.ip().to_canonical().to_string(), ..Default::default() };
        ports.entry(master.port()).or_default().push(address);
    }
    let subset = |(port, addresses): (u16, _)| EndpointSubset {
        addresses: Some(addresses),
        ports: Some(vec![EndpointPort { port: port.into(), protocol: Some("TCP".into()), ..Default::default() }]),
        ..Default::default()
    };
    ports.into_iter().map(subset).collect()
}
