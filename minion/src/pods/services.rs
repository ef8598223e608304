//! The services that pods are told of. One follower keeps them for all who start containers, thousands of
//! simulated minions in a process included; a change costs them nothing.

use std::{collections::BTreeMap, sync::Arc};

use coracle_api::{StringMap, client::Change, core::Service, objects::service::environment, selector};
use tokio::sync::{mpsc, watch};

/// The services as last known; `None` until they were listed.
pub type ServicesSeen = watch::Receiver<Option<Services>>;

/// What matters of a service.
#[derive(Debug)]
struct Known {
    /// The variables that tell of it.
    variables: Box<[(String, String)]>,
    /// Whom it sends clients to.
    selector: Option<StringMap>,
}

/// The services of a namespace, by name.
type Namespace = BTreeMap<String, Arc<Known>>;

/// All services, by namespace. Copies are cheap and never change.
#[derive(Debug, Clone, Default)]
pub struct Services(Arc<BTreeMap<String, Arc<Namespace>>>);

impl Services {
    /// The services of a namespace, by name, each with the variables that tell of it.
    pub fn of(&self, namespace: &str) -> impl Iterator<Item = (&str, &[(String, String)])> {
        self.known(namespace).map(|(name, service)| (name.as_str(), &*service.variables))
    }

    /// Whether any service of a namespace selects pods with these labels.
    pub fn select(&self, namespace: &str, labels: Option<&StringMap>) -> bool {
        self.known(namespace).any(|(_, service)| selector::selects(service.selector.as_ref(), labels))
    }

    fn known(&self, namespace: &str) -> impl Iterator<Item = (&String, &Arc<Known>)> {
        self.0.get(namespace).into_iter().flat_map(|services| services.iter())
    }

    fn insert(&mut self, service: &Service) {
        let (namespace, name) = key(service);
        let namespace = Arc::make_mut(&mut self.0).entry(namespace.to_owned()).or_default();
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
        let known = Known { variables: environment(service).into(), selector };
        Arc::make_mut(namespace).insert(name.to_owned(), Arc::new(known));
    }

    fn remove(&mut self, service: &Service) {
        let (namespace, name) = key(service);
        let all = Arc::make_mut(&mut self.0);
        let Some(services) = all.get_mut(namespace) else { return };
        Arc::make_mut(services).remove(name);
        if services.is_empty() {
            all.remove(namespace);
        }
    }
}

impl FromIterator<Arc<Service>> for Services {
    fn from_iter<I: IntoIterator<Item = Arc<Service>>>(services: I) -> Self {
        let mut all = Self::default();
        services.into_iter().for_each(|service| all.insert(&service));
        all
    }
}

fn key(service: &Service) -> (&str, &str) {
    let meta = &service.metadata;
    (meta.namespace.as_deref().unwrap_or("default"), meta.name.as_deref().unwrap_or_default())
}

/// Keeps `seen` what `changes` say, until their sender is gone.
pub async fn follow(mut changes: mpsc::Receiver<Change<Service>>, seen: watch::Sender<Option<Services>>) {
    while let Some(change) = changes.recv().await {
        match change {
            Change::Replaced(services) => drop(seen.send_replace(Some(services.into_iter().collect()))),
            Change::Applied(service) => seen.send_modify(|seen| seen.get_or_insert_default().insert(&service)),
            Change::Deleted(service) => seen.send_modify(|seen| seen.get_or_insert_default().remove(&service)),
            Change::Interrupted(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str) -> Service {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": namespace}})).unwrap()
    }

    #[test]
    fn a_service_selects_by_labels_in_its_own_namespace() {
        let with = |name: &str, spec: serde_json::Value| -> Arc<Service> {
            serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec}))
                .unwrap()
        };
        let selector = serde_json::json!({"selector": {"app": "web"}});
        let services: Services =
            [with("x", selector), with("nobody", serde_json::json!({"selector": {}}))].into_iter().collect();
        let labels =
            |app: &str| StringMap::from([("app".to_owned(), app.to_owned()), ("v".to_owned(), "1".to_owned())]);
        assert!(services.select("a", Some(&labels("web"))));
        assert!(!services.select("a", Some(&labels("other"))) && !services.select("b", Some(&labels("web"))));
        assert!(!services.select("a", None));
    }

    #[tokio::test]
    async fn what_was_seen_is_what_the_changes_say() {
        let (changes, queue) = mpsc::channel(8);
        let seen = watch::Sender::new(None);
        let mut receiver = seen.subscribe();
        let names = |seen: &Option<Services>| {
            let all = seen
                .as_ref()
                .map(|seen| ["a", "b"].map(|ns| seen.of(ns).map(|(n, _)| n.to_owned()).collect::<Vec<_>>()));
            all.map(|all| all.concat().join(" "))
        };
        let following = tokio::spawn(follow(queue, seen));
        assert_eq!(names(&receiver.borrow()), None);
        for (change, expected) in [
            (Change::replaced(vec![service("a", "x"), service("b", "y")]), "x y"),
            (Change::applied(service("a", "z")), "x z y"),
            (Change::deleted(service("b", "y")), "x z"),
            (Change::replaced(vec![service("b", "x")]), "x"),
        ] {
            changes.send(change).await.unwrap();
            receiver.changed().await.unwrap();
            assert_eq!(names(&receiver.borrow_and_update()).as_deref(), Some(expected));
        }
        drop(changes);
        following.await.unwrap();
    }
}
