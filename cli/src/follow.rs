//! Waiting for pods to change, for commands that decide from full state: a watch tells them when to
//! look again, never what changed.

use std::time::Duration;

use coracle_api::{
    TypedObject,
    client::{ClientError, ListParams, ObjectList, object_path},
    core::Pod,
};

use crate::{session::Session, watch::Watch};

/// Other objects than the watched ones may change what is to be done: looked at this often at least.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Changes that come together are looked at together.
const TOGETHER: Duration = Duration::from_millis(20);

/// Some pods, listed again and again.
pub(crate) struct Pods {
    session: Session,
    namespace: Option<String>,
    params: ListParams,
    watch: Option<Watch>,
}

impl Pods {
    /// The pods of a namespace, or of all, that labels and fields select.
    pub(crate) fn new(session: &Session, namespace: Option<&str>, labels: &str, fields: &str) -> Self {
        let params = ListParams { labels: labels.to_owned(), fields: fields.to_owned() };
        Self { session: session.clone(), namespace: namespace.map(str::to_owned), params, watch: None }
    }

    /// How they are now.
    pub(crate) async fn list(&mut self) -> Result<Vec<Pod>, ClientError> {
        let client = self.session.client();
        let api = match &self.namespace {
            Some(namespace) => client.namespaced::<Pod>(namespace),
            None => client.all::<Pod>(),
        };
        let ObjectList { items, resource_version } = api.list(&self.params).await?;
        if self.watch.is_none() {
            let path = object_path(Pod::row(), self.namespace.as_deref(), None, None);
            let ListParams { labels, fields } = &self.params;
            self.watch = Some(Watch::new(&self.session, &path, labels, fields, &resource_version));
        }
        Ok(items)
    }

    /// Returns when they may have changed, and in a moment anyway.
    pub(crate) async fn changed(&mut self) -> Result<(), ClientError> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        // Cancel-safe, both: a change that is not taken is another one to look at.
        match tokio::time::timeout(LOOK_AGAIN, watch.next()).await {
            Ok(Ok(_)) => while matches!(tokio::time::timeout(TOGETHER, watch.next()).await, Ok(Ok(_))) {},
            // The next list begins another watch.
            Ok(Err(e)) if e.is_expired() => self.watch = None,
            Ok(Err(e)) => return Err(e),
            Err(_) => {}
        }
        Ok(())
    }
}
