//! The services that pods are told of. One follower keeps them for all who start containers, thousands of
//! simulated minions in a process included; a change costs them nothing.

use std::{collections::BTreeMap, sync::Arc};

use coracle_api::{client::Change, core::Service, objects::service::environment};
use tokio::sync::{mpsc, watch};

/// The services as last known; `None` until they were listed.
pub type ServicesSeen = watch::Receiver<Option<Services>>;

/// Of each service of a namespace, by name, the variables that tell of it.
type Namespace = BTreeMap<String, Arc<[(String, String)]>>;

/// All services, by namespace. Copies are cheap and never change.
#[derive(Debug, Clone, Default)]
pub struct Services(Arc<BTreeMap<String, Arc<Namespace>>>);

impl Services {
    /// The services of a namespace, by name, each with the variables that tell of it.
    pub fn of(&self, namespace: &str) -> impl Iterator<Item = (&str, &[(String, String)])> {
        self.0.get(namespace).into_iter().flat_map(|services| services.iter()).map(|(name, s)| (name.as_str(), &**s))
    }

    fn insert(&mut self, service: &Service) {
        let (namespace, name) = key(service);
        let namespace = Arc::make_mut(&mut self.0).entry(namespace.to_owned()).or_default();
        Arc::make_mut(namespace).insert(name.to_owned(), environment(service).into());
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
