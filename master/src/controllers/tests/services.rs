//! Endpoints follow their services and pods.

use coracle_api::core::{Endpoints, Service};

use super::*;
use crate::deletion;

#[tokio::test]
async fn endpoints_follow_ready_pods() {
    let world = World::new().await;
    world.node("n1").await;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 8888, "targetPort": 80}]});
    world.create::<Service>(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})).await;
    world.rc("web", 1).await;
    let name = world
        .until("a pod is placed", |w| w.pods().into_iter().find(|(_, p)| p.node.is_some()).map(|(name, _)| name))
        .await;
    let ready = |w: &World| {
        let endpoints = w.registry.get_typed::<Endpoints>("default", "web")?;
        let subsets = endpoints.subsets.unwrap_or_default();
        Some(subsets.iter().flat_map(|s| s.addresses.iter().flatten()).map(|a| a.ip.clone()).collect::<Vec<_>>())
    };
    world.run_pod(&name, "10.244.0.9").await;
    world.until("the pod is an endpoint", |w| (ready(w)? == ["10.244.0.9"]).then_some(())).await;
    deletion::delete_pod(&world.registry, "default", &name, None, jiff::Timestamp::now()).await.unwrap();
    world.until("a pod on its way out is none", |w| ready(w)?.is_empty().then_some(())).await;
    world.registry.delete(Service::row(), "default", "web", Expected::Any).await.unwrap();
    world.until("no service, no endpoints", |w| ready(w).is_none().then_some(())).await;
}

#[tokio::test]
async fn endpoints_left_over_from_a_service_are_removed_and_those_of_a_user_stay() {
    let world = World::new().await;
    let labels = json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller"});
    world.create::<Endpoints>(json!({"metadata": {"name": "mine", "namespace": "default"}})).await;
    world.create::<Endpoints>(json!({"metadata": {"name": "old", "namespace": "default", "labels": labels}})).await;
    let there = |w: &World, name: &str| w.registry.get(Endpoints::row(), "default", name).is_some();
    world.until("the old ones go", |w| (!there(w, "old")).then_some(())).await;
    assert!(there(&world, "mine"));
}

/// The master listens on loopback, where no pod reaches it.
#[tokio::test]
async fn the_services_of_the_master_lead_nowhere() {
    let world = World::new().await;
    world.node("n1").await;
    // The last one shows that endpoints were made.
    for name in ["kubernetes", "kubernetes-ro", "web"] {
        let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 443}]});
        world.create::<Service>(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).await;
    }
    world.rc("web", 1).await;
    let name = world.until("a pod", |w| w.pods().first().map(|(name, _)| name.clone())).await;
    world.run_pod(&name, "10.244.0.9").await;
    let subsets = |w: &World, name: &str| w.registry.get_typed::<Endpoints>("default", name)?.subsets;
    world.until("the other has endpoints", |w| subsets(w, "web").filter(|s| !s.is_empty())).await;
    assert_eq!((subsets(&world, "kubernetes"), subsets(&world, "kubernetes-ro")), (None, None));
}

#[tokio::test]
async fn the_services_of_a_master_that_others_reach_lead_to_it() {
    let world = World::with("10.244.0.0/16", Some("192.0.2.10:8080".parse().unwrap())).await;
    let found = |w: &World, name: &str| {
        let subset = w.registry.get_typed::<Endpoints>("default", name)?.subsets?.pop()?;
        Some((subset.addresses?.pop()?.ip, subset.ports?.pop()?.port))
    };
    let expected = || Some(("192.0.2.10".to_owned(), 8080));
    for name in ["kubernetes", "kubernetes-ro"] {
        world.until("the endpoints are there", |w| (found(w, name) == expected()).then_some(())).await;
        world.registry.delete(Endpoints::row(), "default", name, Expected::Any).await.unwrap();
        world.until("they are there again", |w| (found(w, name) == expected()).then_some(())).await;
        let clear = |endpoints: &mut Endpoints| {
            endpoints.subsets = None;
            Ok(true)
        };
        world.registry.modify("default", name, clear).await.unwrap();
        world.until("they are right again", |w| (found(w, name) == expected()).then_some(())).await;
    }
}
