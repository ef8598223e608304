//! The typed client: every other part of the project meets the master through it.
//!
//! [`Client`] and [`Api`] speak of objects, [`Reflector`] keeps a cache of them, [`Transport`] finds
//! a master that answers (`round`: which; `link`: how; [`Dial`]: over what), [`ClientError`] says why none did.

mod dial;
mod failure;
mod link;
mod reflector;
mod round;
mod transport;
mod watch;
mod wire;

pub use dial::{Dial, Duplex};
pub use failure::{ClientError, Unreached};
pub use reflector::{Change, Reflector};
pub use transport::{Patience, Transport};
pub use watch::{WatchEvent, WatchStream};
pub use wire::{Received, Wire};

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    kinds::{Kind, Subresource, TypedObject, decode_typed},
    meta::ListMeta,
};

/// What to list or watch.
#[derive(Debug, Clone, Default)]
pub struct ListParams {
    /// Label selector text; empty for all.
    pub labels: String,
    /// Field selector text; empty for all.
    pub fields: String,
}

/// A list and the version it is consistent with.
#[derive(Debug)]
pub struct ObjectList<T> {
    /// The objects, in the server's order (by namespace and name).
    pub items: Vec<T>,
    /// A valid start for a watch.
    pub resource_version: String,
}

/// A client of one cluster.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
}

impl Client {
    /// A client of the masters at `servers`: `http://host:port`, `host:port` or `host`, several with
    /// commas between. Connects on first use. Errors only when the text holds no address.
    pub fn new(servers: &str) -> Result<Self, ClientError> {
        Self::with_patience(servers, Patience::default())
    }

    /// [`Client::new`] with other waiting times.
    pub fn with_patience(servers: &str, patience: Patience) -> Result<Self, ClientError> {
        Ok(Self { transport: Transport::new(servers, patience, None)? })
    }

    /// [`Client::new`] whose requests go over connections that `dial` makes.
    pub fn with_dial(servers: &str, dial: Arc<dyn Dial>) -> Result<Self, ClientError> {
        Ok(Self { transport: Transport::new(servers, Patience::default(), Some(dial))? })
    }

    /// The bare HTTP side, for paths that are not objects.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Objects of one kind in one namespace.
    pub fn namespaced<T: Received>(&self, namespace: &str) -> Api<T> {
        Api {
            transport: self.transport.clone(),
            namespace: Some(namespace.to_owned()),
            marker: std::marker::PhantomData,
        }
    }

    /// Objects of one kind in all namespaces, or of a kind without namespaces.
    pub fn all<T: Received>(&self) -> Api<T> {
        Api { transport: self.transport.clone(), namespace: None, marker: std::marker::PhantomData }
    }
}

/// `v1` path of a kind's collection, or of one object in it.
pub fn object_path(kind: &Kind, namespace: Option<&str>, name: Option<&str>, sub: Option<Subresource>) -> String {
    let mut path = String::from("/api/v1/");
    if let (true, Some(ns)) = (kind.namespaced, namespace) {
        path.push_str("namespaces/");
        path.push_str(&encode(ns));
        path.push('/');
    }
    path.push_str(kind.plural);
    if let Some(name) = name {
        path.push('/');
        path.push_str(&encode(name));
    }
    if let Some(sub) = sub {
        path.push('/');
        path.push_str(sub.as_str());
    }
    path
}

/// Percent-encodes a path segment or query value.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(b as char),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// Access to the objects of one kind.
#[derive(Debug)]
pub struct Api<T> {
    transport: Transport,
    namespace: Option<String>,
    marker: std::marker::PhantomData<fn() -> T>,
}

impl<T> Clone for Api<T> {
    fn clone(&self) -> Self {
        Self { transport: self.transport.clone(), namespace: self.namespace.clone(), marker: std::marker::PhantomData }
    }
}

impl<T: Received> Api<T> {
    fn path(&self, name: Option<&str>, sub: Option<Subresource>) -> String {
        object_path(T::row(), self.namespace.as_deref(), name, sub)
    }

    /// Lists objects.
    pub async fn list(&self, params: &ListParams) -> Result<ObjectList<T>, ClientError> {
        self.list_since(params, "").await
    }

    /// A list no older than `version`, if that is not empty. A master that has not heard of it yet
    /// answers with an error that [`ClientError::is_early`].
    async fn list_since(&self, params: &ListParams, version: &str) -> Result<ObjectList<T>, ClientError> {
        #[derive(Deserialize)]
        struct List<'a> {
            metadata: ListMeta,
            #[serde(borrow)]
            items: Option<Vec<&'a RawValue>>,
        }
        let path = format!("{}{}", self.path(None, None), query(params, &[("resourceVersion", version)]));
        let bytes = self.transport.json(Method::GET, &path, None).await?;
        let list: List<'_> = serde_json::from_slice(&bytes).map_err(|e| ClientError::protocol(&path, e))?;
        let items = list.items.unwrap_or_default().into_iter().map(|item| T::receive(item.get().as_bytes()));
        Ok(ObjectList {
            items: items.collect::<Result<_, _>>()?,
            resource_version: list.metadata.resource_version.unwrap_or_default(),
        })
    }

    /// Watches for changes after `resource_version`.
    pub async fn watch(&self, params: &ListParams, resource_version: &str) -> Result<WatchStream<T>, ClientError> {
        let extra = [("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", resource_version)];
        let path = format!("{}{}", self.path(None, None), query(params, &extra));
        let (response, master) = self.transport.open_at(Method::GET, &path, None).await?;
        Ok(WatchStream::new(response.into_body(), master))
    }
}

impl<T: TypedObject> Api<T> {
    async fn send(&self, method: Method, path: &str, body: Option<&T>) -> Result<T, ClientError> {
        let body = body.map(|b| Bytes::from(crate::kinds::Object::to_json(b)));
        let bytes = self.transport.json(method, path, body).await?;
        Ok(decode_typed(&bytes)?)
    }

    /// Reads one object.
    pub async fn get(&self, name: &str) -> Result<T, ClientError> {
        self.send(Method::GET, &self.path(Some(name), None), None).await
    }

    /// Reads one object, or `None` where there is none.
    pub async fn get_opt(&self, name: &str) -> Result<Option<T>, ClientError> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Creates an object.
    pub async fn create(&self, object: &T) -> Result<T, ClientError> {
        self.send(Method::POST, &self.path(None, None), Some(object)).await
    }

    /// Replaces an object; compare-and-set when it carries a resourceVersion.
    pub async fn update(&self, name: &str, object: &T) -> Result<T, ClientError> {
        self.send(Method::PUT, &self.path(Some(name), None), Some(object)).await
    }

    /// Replaces the status; compare-and-set when the object carries a resourceVersion.
    pub async fn update_status(&self, name: &str, object: &T) -> Result<T, ClientError> {
        self.send(Method::PUT, &self.path(Some(name), Some(Subresource::Status)), Some(object)).await
    }

    /// [`Api::update_status`] with the latest winning, for a caller who has the status written out already and knows
    /// what the answer will be. `uid` guards against a namesake.
    pub async fn write_status(&self, name: &str, uid: Option<&str>, status: &RawValue) -> Result<(), ClientError> {
        let metadata = Identity { name, namespace: self.namespace.as_deref(), uid };
        let body = StatusOf { api_version: "v1", kind: T::row().kind, metadata, status };
        // Of text alone, it always can be written out.
        let body = Bytes::from(serde_json::to_vec(&body).unwrap_or_default());
        let path = self.path(Some(name), Some(Subresource::Status)) + "?fieldValidation=Ignore";
        self.transport.json(Method::PUT, &path, Some(body)).await.map(drop)
    }

    /// Asks for deletion. `grace_s` of 0 removes at once; `uid` guards against a namesake.
    pub async fn delete(&self, name: &str, grace_s: Option<i64>, uid: Option<&str>) -> Result<(), ClientError> {
        let mut options = serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(grace) = grace_s {
            options["gracePeriodSeconds"] = grace.into();
        }
        if let Some(uid) = uid {
            options["preconditions"] = serde_json::json!({ "uid": uid });
        }
        let body = Bytes::from(options.to_string());
        self.transport.json(Method::DELETE, &self.path(Some(name), None), Some(body)).await.map(drop)
    }
}

/// An object of which only the status is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusOf<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Identity<'a>,
    status: &'a RawValue,
}

#[derive(Serialize)]
struct Identity<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
}

fn query(params: &ListParams, extra: &[(&str, &str)]) -> String {
    let all = [("labelSelector", params.labels.as_str()), ("fieldSelector", params.fields.as_str())];
    let pairs: Vec<_> =
        all.iter().chain(extra).filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={}", encode(v))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}
