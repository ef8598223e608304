//! The services that stand for the master itself, as in 2014: `kubernetes` and `kubernetes-ro`.
//!
//! They exist so that every pod gets their variables. They have endpoints only when the master
//! listens where pods can reach it; while it listens on loopback they refuse at once.

use coracle_api::{
    ApiError, IntOrString, Object, TypedObject,
    core::{Service, ServicePort, ServiceSpec},
    error::Reason,
    meta::ObjectMeta,
};
use jiff::Timestamp;

use crate::{
    admission::{Admission, retry_choices},
    registry::Registry,
};

/// Name and port; the selector matches no pod.
const SERVICES: [(&str, i32); 2] = [("kubernetes", 443), ("kubernetes-ro", 80)];

/// Creates those that are missing, so that they are there before the first pod.
pub(crate) async fn ensure(registry: &Registry, admission: &Admission, now: Timestamp) -> Result<(), ApiError> {
    for (name, port) in SERVICES {
        if registry.get(Service::row(), "default", name).is_some() {
            continue;
        }
        let created = retry_choices(async || {
            let mut service: Box<dyn Object> = Box::new(service(name, port, uuid::Uuid::new_v4(), now));
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
