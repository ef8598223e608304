//! Deletion: the options of the request, and what the answer says.

use coracle_api::ApiError;
use http::StatusCode;
use serde::Deserialize;

use super::{
    Shared,
    answer::{self, Response},
    list,
    query::Query,
    router::Target,
    write,
};
use crate::admission::{self, Propagation, Removal, Removed};

/// The body of a DELETE. Unknown fields are ignored, as everywhere in options.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DeleteOptions {
    kind: Option<String>,
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

/// A deletion as asked for.
#[derive(Debug, Default)]
pub(crate) struct Order {
    removal: Removal,
    dry_run: bool,
}

impl Order {
    /// Reads the options from the body and the query, where the body wins.
    pub(crate) fn parse(body: &[u8], query: &Query) -> Result<Self, ApiError> {
        let bad = |e: &dyn std::fmt::Display| ApiError::bad_request(format!("the body is not DeleteOptions: {e}"));
        let options: DeleteOptions = match body.iter().find(|b| !b.is_ascii_whitespace()) {
            None => DeleteOptions::default(),
            Some(b'{') => serde_json::from_slice(body).map_err(|e| bad(&e))?,
            Some(_) => return Err(bad(&"it is not a JSON object")),
        };
        if let Some(kind) = options.kind.as_deref().filter(|k| !["", "DeleteOptions"].contains(k)) {
            return Err(bad(&format!("its kind is {kind}")));
        }
        let from_query = query.number("gracePeriodSeconds")?.map(|s| i64::try_from(s).unwrap_or(i64::MAX));
        let grace_s = options.grace_period_seconds.or(from_query);
        if grace_s.is_some_and(|s| !(0..=i64::from(i32::MAX)).contains(&s)) {
            return Err(ApiError::bad_request("gracePeriodSeconds must be between 0 and 2147483647"));
        }
        let policy = options.propagation_policy.as_deref().or(query.get("propagationPolicy")).unwrap_or_default();
        let propagation = match policy {
            "" => None,
            "Orphan" => Some(Propagation::Orphan),
            "Background" => Some(Propagation::Background),
            "Foreground" => Some(Propagation::Foreground),
            _ => {
                let message =
                    format!("propagationPolicy '{policy}' is not supported: use Orphan, Background or Foreground");
                return Err(ApiError::bad_request(message));
            }
        };
        let dry_run = match options.dry_run.as_deref() {
            None | Some([]) => query.get("dryRun").map(str::to_owned),
            Some([first, ..]) => Some(first.clone()),
        };
        if dry_run.as_deref().is_some_and(|v| v != "All") {
            return Err(ApiError::bad_request("the only supported value of dryRun is All"));
        }
        let preconditions = options.preconditions.unwrap_or_default();
        let version = preconditions.resource_version.as_deref().map(write::parse_version).transpose()?;
        let uid = preconditions.uid.filter(|uid| !uid.is_empty());
        Ok(Self { removal: Removal { grace_s, uid, version, propagation }, dry_run: dry_run.is_some() })
    }

    pub(crate) fn removal(&self) -> &Removal {
        &self.removal
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

/// Deletes one object.
pub(crate) async fn delete(shared: &Shared, target: &Target, order: &Order) -> Result<Response, ApiError> {
    let current = write::find(shared, target.kind, target.namespace(), target.name())?;
    if order.dry_run {
        return Ok(answer::json(StatusCode::OK, current.json.clone()));
    }
    let removed = remove(shared, target, order).await?;
    Ok(match &removed {
        Removed::Ending(entry) => answer::json(StatusCode::OK, entry.json.clone()),
        Removed::Gone(entry) => answer::success(StatusCode::OK, target.kind.plural, target.name(), entry.uid()),
    })
}

/// Deletes one object and says what came of it.
pub(crate) async fn remove(shared: &Shared, target: &Target, order: &Order) -> Result<Removed, ApiError> {
    let now = shared.registry.now_s();
    admission::remove(&shared.registry, target.kind, target.namespace(), target.name(), &order.removal, now).await
}

/// Deletes what the selectors pick.
pub(crate) async fn delete_collection(
    shared: &Shared,
    target: &Target,
    query: &Query,
    order: &Order,
) -> Result<Response, ApiError> {
    let selection = list::selection(target, query)?;
    let snapshot = shared.registry.snapshot(target.kind);
    let entries: Vec<_> = snapshot.select(target.kind, &selection, None).cloned().collect();
    if !order.dry_run {
        admission::remove_each(&shared.registry, entries, &order.removal).await?;
    }
    Ok(answer::success(StatusCode::OK, target.kind.plural, "", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str, query: &str) -> Result<Order, ApiError> {
        Order::parse(body.as_bytes(), &Query::parse(query).unwrap())
    }

    #[test]
    fn options_come_from_the_body_or_the_query() {
        let order = parse("", "gracePeriodSeconds=0").unwrap();
        assert_eq!(order.removal.grace_s, Some(0));
        let body = r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":5,"propagationPolicy":"Background",
            "preconditions":{"uid":"u","resourceVersion":"7"},"dryRun":["All"]}"#;
        let order = parse(body, "gracePeriodSeconds=0").unwrap();
        assert_eq!((order.removal.grace_s, order.removal.propagation), (Some(5), Some(Propagation::Background)));
        assert_eq!(parse("", "propagationPolicy=Orphan").unwrap().removal.propagation, Some(Propagation::Orphan));
        assert_eq!(parse("", "").unwrap().removal.propagation, None);
        assert_eq!((order.removal.uid.as_deref(), order.removal.version, order.dry_run), (Some("u"), Some(7), true));
    }

    #[test]
    fn faulty_options_are_refused() {
        for (body, query) in [
            ("{", ""),
            ("[]", ""),
            (r#"{"kind":"Pod"}"#, ""),
            (r#"{"gracePeriodSeconds":-1}"#, ""),
            (r#"{"propagationPolicy":"Sometimes"}"#, ""),
            (r#"{"preconditions":{"resourceVersion":"x"}}"#, ""),
            ("", "gracePeriodSeconds=soon"),
            ("", "dryRun=Some"),
        ] {
            assert_eq!(parse(body, query).unwrap_err().code(), 400, "{body} {query}");
        }
    }
}
