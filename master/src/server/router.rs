//! What a request asks for: method, path and query in, a [`Route`] out. Pure.
//!
//! The words of a path are grammar (`namespaces/NS/KIND/NAME/SUB`); which kinds and subresources
//! exist is the table's matter.

use coracle_api::{Kind, kinds::Subresource};
use http::Method;

use super::{
    query::{Query, decode},
    slices,
};

/// The API version of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edition {
    /// The hub version.
    V1,
    /// The version of 2014.
    V1beta1,
}

/// What to do with objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    List,
    Watch,
    Get,
    Create,
    Replace,
    Patch,
    Delete,
    DeleteCollection,
    /// A stream in both directions.
    Connect,
}

impl Verb {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Get => "get",
            Verb::Create => "create",
            Verb::Replace => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Connect => "connect",
        }
    }
}

/// A verb on objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) edition: Edition,
    pub(crate) verb: Verb,
    pub(crate) kind: &'static Kind,
    /// From the path in `v1`, from the query in `v1beta1`.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) sub: Option<Subresource>,
}

impl Target {
    /// The namespace, "" for none.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The name, "" for none.
    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Whether the answer goes on for as long as the client likes.
    pub(crate) fn is_long(&self) -> bool {
        matches!(self.verb, Verb::Watch | Verb::Connect) || self.sub == Some(Subresource::Log)
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Index,
    Health,
    Ready,
    Version,
    Metrics,
    /// `/api`
    Versions,
    /// `/apis`
    Groups,
    /// `/api/v1` and `/api/v1beta1`
    Resources(Edition),
    /// `/apis/discovery.k8s.io`
    SlicesGroup,
    /// `/apis/discovery.k8s.io/v1`
    SlicesResources,
    Slices(slices::Asked),
    /// `/openapi/v3`
    Schemas,
    /// `/openapi/v3/api/v1`
    Schema,
    Cluster,
    /// `/coracle/v1/backup`
    Backup,
    /// `/coracle/v1/schedule`
    Schedule,
    Heartbeat(String),
    Tunnel(String),
    Objects(Target),
}

/// Why a request has no route. The edition decides how the answer is worded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unroutable {
    /// There is nothing at this path.
    NotFound(Option<Edition>),
    /// The path exists, the method does not.
    Method(Option<Edition>),
}

/// Finds the route of a request.
pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Result<Route, Unroutable> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let segments = path
        .split('/')
        .filter(|s| !s.is_empty())
        .map(|s| decode(s, false).filter(|s| !s.contains(['/', '\0'])))
        .collect::<Option<Vec<_>>>()
        .ok_or(Unroutable::NotFound(None))?;
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    let get = |route| if *method == Method::GET { Ok(route) } else { Err(Unroutable::Method(None)) };
    match words.as_slice() {
        [] | ["index.html"] => get(Route::Index),
        ["healthz" | "livez", ..] => get(Route::Health),
        ["readyz", ..] => get(Route::Ready),
        ["version"] => get(Route::Version),
        ["metrics"] => get(Route::Metrics),
        ["api"] => get(Route::Versions),
        ["apis"] => get(Route::Groups),
        ["openapi", "v3"] => get(Route::Schemas),
        ["openapi", "v3", "api", "v1"] => get(Route::Schema),
        ["coracle", "v1", "cluster"] => get(Route::Cluster),
        ["coracle", "v1", "backup"] => get(Route::Backup),
        ["coracle", "v1", "schedule"] => match *method {
            Method::POST => Ok(Route::Schedule),
            _ => Err(Unroutable::Method(None)),
        },
        ["coracle", "v1", "nodes", name, "heartbeat"] => match *method {
            Method::PUT => Ok(Route::Heartbeat((*name).to_owned())),
            _ => Err(Unroutable::Method(None)),
        },
        ["coracle", "v1", "nodes", name, "tunnel"] => get(Route::Tunnel((*name).to_owned())),
        ["api", "v1"] => get(Route::Resources(Edition::V1)),
        // Clients look for versions other than v1 among the groups.
        ["api" | "apis", "v1beta1"] => get(Route::Resources(Edition::V1beta1)),
        ["api", "v1", rest @ ..] => current(method, rest, query).map(Route::Objects),
        ["api", "v1beta1", rest @ ..] => legacy(method, rest, query).map(Route::Objects),
        ["apis", slices::GROUP] => get(Route::SlicesGroup),
        ["apis", slices::GROUP, "v1"] => get(Route::SlicesResources),
        ["apis", slices::GROUP, "v1", rest @ ..] => match slices_at(rest) {
            // They can be listed and read.
            Some(asked) if *method == Method::GET && !query.flag("watch") => Ok(Route::Slices(asked)),
            Some(_) => Err(Unroutable::Method(Some(Edition::V1))),
            None => Err(Unroutable::NotFound(Some(Edition::V1))),
        },
        ["apis", group, ..] if *group != "v1beta1" => Err(Unroutable::NotFound(Some(Edition::V1))),
        _ => Err(Unroutable::NotFound(None)),
    }
}

/// `[namespaces/NS/]endpointslices[/NAME]`
fn slices_at(words: &[&str]) -> Option<slices::Asked> {
    let (namespace, words) = match words {
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        all => (None, all),
    };
    match words {
        [slices::PLURAL] => Some(slices::Asked { namespace, name: None }),
        [slices::PLURAL, name] if namespace.is_some() => {
            Some(slices::Asked { namespace, name: Some((*name).to_owned()) })
        }
        _ => None,
    }
}

/// `[watch/][namespaces/NS/]KIND[/NAME[/SUB]]`
fn current(method: &Method, words: &[&str], query: &Query) -> Result<Target, Unroutable> {
    const MISSING: Unroutable = Unroutable::NotFound(Some(Edition::V1));
    let (watched, words) = match words {
        ["watch", rest @ ..] => (true, rest),
        all => (false, all),
    };
    let (namespace, words) = match words {
        // `namespaces/x/status` is a part of the object x, `namespaces/x/pods` is what is inside it.
        ["namespaces", _, third, ..] if Kind::by_plural(third).is_none() => (None, words),
        ["namespaces", namespace, _, ..] => (Some((*namespace).to_owned()), &words[2..]),
        all => (None, all),
    };
    let [plural, rest @ ..] = words else { return Err(MISSING) };
    let kind = Kind::by_plural(plural).ok_or(MISSING)?;
    if namespace.is_some() && !kind.namespaced {
        return Err(MISSING);
    }
    let (name, sub) = match rest {
        [] => (None, None),
        [name] => (Some(*name), None),
        [name, sub] => {
            let sub = kind.subresources.iter().copied().find(|s| s.as_str() == *sub).ok_or(MISSING)?;
            (Some(*name), Some(sub))
        }
        _ => return Err(MISSING),
    };
    if name.is_some() && (!kind.stored || kind.namespaced && namespace.is_none()) {
        return Err(MISSING);
    }
    let watched = watched || query.flag("watch") && sub.is_none();
    let verb = verb_of(method, kind, name.is_some(), sub, watched).ok_or(Unroutable::Method(Some(Edition::V1)))?;
    // A path that lost its namespace on the way must not empty all of them.
    if verb == Verb::DeleteCollection && (!kind.delete_collection || kind.namespaced && namespace.is_none()) {
        return Err(Unroutable::Method(Some(Edition::V1)));
    }
    Ok(Target { edition: Edition::V1, verb, kind, namespace, name: name.map(str::to_owned), sub })
}

fn verb_of(method: &Method, kind: &Kind, named: bool, sub: Option<Subresource>, watched: bool) -> Option<Verb> {
    use Subresource::{Binding, Eviction, Exec, Log, Scale, Status};
    if watched {
        return (*method == Method::GET && kind.stored).then_some(Verb::Watch);
    }
    Some(match (method, sub, named) {
        (&Method::POST, None, false) => Verb::Create,
        (_, None, false) if !kind.stored => return None,
        (&Method::GET, None, false) => Verb::List,
        (&Method::DELETE, None, false) => Verb::DeleteCollection,
        (&Method::GET, None | Some(Status | Scale | Log), true) => Verb::Get,
        (&Method::PUT, None | Some(Status | Scale), true) => Verb::Replace,
        (&Method::PATCH, None | Some(Status | Scale), true) => Verb::Patch,
        (&Method::DELETE, None, true) => Verb::Delete,
        (&Method::POST, Some(Binding | Eviction), true) => Verb::Create,
        (&Method::GET | &Method::POST, Some(Exec), true) => Verb::Connect,
        _ => return None,
    })
}

/// `[watch/]KIND[/NAME]`, the namespace in the query (spec §1.2).
fn legacy(method: &Method, words: &[&str], query: &Query) -> Result<Target, Unroutable> {
    const MISSING: Unroutable = Unroutable::NotFound(Some(Edition::V1beta1));
    const WRONG: Unroutable = Unroutable::Method(Some(Edition::V1beta1));
    let (watched, plural, name) = match words {
        // Extra segments are ignored, as in 0.5.4.
        ["watch", plural, ..] => (true, plural, None),
        [plural] => (false, plural, None),
        [plural, name] => (false, plural, Some((*name).to_owned())),
        _ => return Err(MISSING),
    };
    let kind = Kind::by_v1beta1_plural(plural).ok_or(MISSING)?;
    let verb = match (method, name.is_some()) {
        (&Method::GET, false) if watched && kind.stored => Verb::Watch,
        _ if watched => return Err(if kind.stored { WRONG } else { MISSING }),
        (&Method::POST, false) => Verb::Create,
        (&Method::GET, false) if kind.stored => Verb::List,
        (&Method::GET, true) if kind.stored => Verb::Get,
        (&Method::PUT, true) if kind.stored => Verb::Replace,
        (&Method::DELETE, true) if kind.stored => Verb::Delete,
        _ => return Err(WRONG),
    };
    // List and watch span all namespaces, every other verb means the default one.
    let spans = matches!(verb, Verb::List | Verb::Watch);
    let namespace = match query.get("namespace") {
        _ if !kind.namespaced => None,
        Some(namespace) => Some(namespace.to_owned()),
        None => (!spans).then(|| "default".to_owned()),
    };
    Ok(Target { edition: Edition::V1beta1, verb, kind, namespace, name, sub: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: &str, uri: &str) -> Result<Route, Unroutable> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        parse(&method.parse().unwrap(), path, &Query::parse(query).unwrap())
    }

    /// Writes a route as `edition verb plural ns/name/sub`, or as the error's name.
    fn text(method: &str, uri: &str) -> String {
        match route(method, uri) {
            Ok(Route::Objects(t)) => {
                let sub = t.sub.map(|s| format!("/{}", s.as_str())).unwrap_or_default();
                let namespace = t.namespace.as_deref().unwrap_or("*");
                let name = t.name.as_deref().unwrap_or("*");
                format!("{:?} {} {} {namespace}/{name}{sub}", t.edition, t.verb.as_str(), t.kind.plural)
            }
            Ok(other) => format!("{other:?}"),
            Err(e) => format!("{e:?}"),
        }
    }

    fn check(method: &str, uri: &str, expected: &str) {
        assert_eq!(text(method, uri), expected, "{method} {uri}");
    }

    #[test]
    fn v1_paths_lead_to_verbs_on_kinds() {
        check("GET", "/api/v1/pods", "V1 list pods */*");
        check("GET", "/api/v1/namespaces/a/pods", "V1 list pods a/*");
        check("GET", "/api/v1/namespaces/a/pods?watch=true", "V1 watch pods a/*");
        check("GET", "/api/v1/namespaces/a/pods/x?watch=1", "V1 watch pods a/x");
        check("GET", "/api/v1/watch/pods", "V1 watch pods */*");
        check("GET", "/api/v1/watch/namespaces/a/pods/x", "V1 watch pods a/x");
        check("POST", "/api/v1/namespaces/a/pods", "V1 create pods a/*");
        check("DELETE", "/api/v1/namespaces/a/pods", "V1 deletecollection pods a/*");
        check("GET", "/api/v1/namespaces/a/pods/x", "V1 get pods a/x");
        check("HEAD", "/api/v1/namespaces/a/pods/x", "V1 get pods a/x");
        check("PUT", "/api/v1/namespaces/a/pods/x", "V1 update pods a/x");
        check("PATCH", "/api/v1/namespaces/a/pods/x/status", "V1 patch pods a/x/status");
        check("DELETE", "/api/v1/namespaces/a/pods/x", "V1 delete pods a/x");
        check("POST", "/api/v1/namespaces/a/pods/x/binding", "V1 create pods a/x/binding");
        check("POST", "/api/v1/namespaces/a/pods/x/eviction", "V1 create pods a/x/eviction");
        check("POST", "/api/v1/namespaces/a/bindings", "V1 create bindings a/*");
        check("GET", "/api/v1/namespaces/a/pods/x/log", "V1 get pods a/x/log");
        check("POST", "/api/v1/namespaces/a/pods/x/exec", "V1 connect pods a/x/exec");
        check("GET", "/api/v1/namespaces/a/replicationcontrollers/x/scale", "V1 get replicationcontrollers a/x/scale");
        check("GET", "/api/v1/namespaces", "V1 list namespaces */*");
        check("GET", "/api/v1/namespaces/a", "V1 get namespaces */a");
        check("PUT", "/api/v1/namespaces/a/status", "V1 update namespaces */a/status");
        check("GET", "/api/v1/nodes/n", "V1 get nodes */n");
        check("GET", "/api/v1/namespaces/a%20b/pods/x%2ey", "V1 get pods a b/x.y");
    }

    #[test]
    fn v1_paths_that_do_not_exist_are_not_found() {
        for uri in [
            "/api/v1/bogus",
            "/api/v1/Pods",
            "/api/v1/replicationControllers",
            "/api/v1/pods/x",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/namespaces/a/pods/x/bogus",
            "/api/v1/namespaces/a/pods/x/log/more",
            "/api/v1/namespaces/a/services/x/scale",
            "/api/v1/namespaces/a/bindings/x",
        ] {
            check("GET", uri, "NotFound(Some(V1))");
        }
    }

    #[test]
    fn wrong_methods_are_told_apart_from_wrong_paths() {
        check("PUT", "/api/v1/namespaces/a/pods", "Method(Some(V1))");
        check("POST", "/api/v1/namespaces/a/pods/x", "Method(Some(V1))");
        check("GET", "/api/v1/namespaces/a/bindings", "Method(Some(V1))");
        check("DELETE", "/api/v1/namespaces/a/pods/x/status", "Method(Some(V1))");
        check("OPTIONS", "/api/v1/pods", "Method(Some(V1))");
        check("DELETE", "/api/v1/pods", "Method(Some(V1))");
        check("DELETE", "/api/v1/namespaces", "Method(Some(V1))");
        check("DELETE", "/api/v1/nodes", "V1 deletecollection nodes */*");
        check("POST", "/healthz", "Method(None)");
    }

    #[test]
    fn v1beta1_takes_the_namespace_from_the_query_and_is_case_sensitive() {
        check("GET", "/api/v1beta1/pods", "V1beta1 list pods */*");
        check("GET", "/api/v1beta1/pods?namespace=a", "V1beta1 list pods a/*");
        check("GET", "/api/v1beta1/pods/x", "V1beta1 get pods default/x");
        check("POST", "/api/v1beta1/pods?namespace=a", "V1beta1 create pods a/*");
        check("PUT", "/api/v1beta1/replicationControllers/x", "V1beta1 update replicationcontrollers default/x");
        check("DELETE", "/api/v1beta1/services/x", "V1beta1 delete services default/x");
        check("GET", "/api/v1beta1/minions?namespace=a", "V1beta1 list nodes */*");
        check("GET", "/api/v1beta1/watch/pods/ignored/too", "V1beta1 watch pods */*");
        check("POST", "/api/v1beta1/bindings", "V1beta1 create bindings default/*");
        check("GET", "/api/v1beta1/bindings", "Method(Some(V1beta1))");
        check("PATCH", "/api/v1beta1/pods/x", "Method(Some(V1beta1))");
        for uri in ["replicationcontrollers", "Pods", "nodes", "namespaces", "operations", "operations/1", "pods/x/y"] {
            check("GET", &format!("/api/v1beta1/{uri}"), "NotFound(Some(V1beta1))");
        }
    }

    #[test]
    fn everything_else_is_a_fixed_page() {
        check("GET", "/", "Index");
        check("GET", "/api", "Versions");
        check("GET", "/api/", "Versions");
        check("GET", "/apis", "Groups");
        check("GET", "/api/v1", "Resources(V1)");
        check("GET", "/api/v1beta1", "Resources(V1beta1)");
        check("GET", "/apis/v1beta1", "Resources(V1beta1)");
        check("GET", "/livez", "Health");
        check("GET", "/readyz", "Ready");
        check("GET", "/coracle/v1/cluster", "Cluster");
        check("PUT", "/coracle/v1/nodes/n/heartbeat", "Heartbeat(\"n\")");
        check("POST", "/coracle/v1/schedule", "Schedule");
        check("GET", "/coracle/v1/schedule", "Method(None)");
        check("GET", "/coracle/v1/nodes/n/tunnel", "Tunnel(\"n\")");
        check("GET", "/api/v2", "NotFound(None)");
        check("GET", "/api/v1/namespaces/a%2Fb/pods", "NotFound(None)");
        check("GET", "/%ff", "NotFound(None)");
    }
}
