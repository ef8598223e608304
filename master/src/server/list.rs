//! Lists: what selectors pick of a snapshot, copied as the bytes that the registry keeps. A list
//! in pages comes from one snapshot, so that no object is missed or shown twice.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use coracle_api::{
    ApiError, Kind,
    error::Reason,
    selector::{FieldSelector, LabelSelector},
};
use http::StatusCode;

use super::{
    Shared,
    answer::{self, Response},
    query::Query,
    router::Target,
    table::Table,
    write,
};
use crate::registry::{Entry, Key, Registry, Selection, Snapshot};

/// Lists up to this size are one body with a length; longer ones go out in parts of this size.
const PART_BYTES: usize = 256 << 10;
/// How long the snapshot of a paged list is kept for its next page.
const PAGE_LIFE: Duration = Duration::from_secs(300);
/// Paged lists under way at once; the oldest gives way, and its reader starts again.
const PAGED_LISTS_MAX: usize = 64;

/// Reads the selectors of a list or watch.
pub(crate) fn selection(target: &Target, query: &Query) -> Result<Selection, ApiError> {
    let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?;
    let fields = query.get("fieldSelector").unwrap_or_default();
    let fields = match &target.name {
        Some(name) => FieldSelector::parse(&format!("metadata.name={name},{fields}"))?,
        None => FieldSelector::parse(fields)?,
    };
    check_fields(target.kind, &fields)?;
    Ok(Selection { namespace: target.namespace.clone(), labels, fields })
}

/// A field that no index knows would match nothing, silently.
pub(crate) fn check_fields(kind: &Kind, fields: &FieldSelector) -> Result<(), ApiError> {
    let known = |field: &&str| ["metadata.name", "metadata.namespace"].contains(field) || kind.fields.contains(field);
    match fields.fields().find(|field| !known(field)) {
        None => Ok(()),
        Some(field) => {
            let mut supported = vec!["metadata.name", "metadata.namespace"];
            supported.extend(kind.fields);
            let message =
                format!("field selector '{field}' is not supported for {}: use {}", kind.plural, supported.join(", "));
            Err(ApiError::bad_request(message))
        }
    }
}

/// Answers a list.
pub(crate) async fn list(
    shared: &Shared,
    target: &Target,
    query: &Query,
    table: Option<Table>,
) -> Result<Response, ApiError> {
    let (kind, selection) = (target.kind, selection(target, query)?);
    check_version(&shared.registry, query).await?;
    shared.pages.forget_old();
    let limit = query.number("limit")?.filter(|n| *n > 0).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let mut page = match query.get("continue") {
        Some(token) => shared.pages.resume(kind, token)?,
        None => Page::first(shared.registry.snapshot(kind)),
    };
    let snapshot = page.snapshot.clone();
    let mut picked = snapshot.select(kind, &selection, page.after.as_ref());
    let entries: Vec<_> = picked.by_ref().take(limit.unwrap_or(usize::MAX)).cloned().collect();
    let version = snapshot.version;
    let mut meta = format!("{{\"resourceVersion\":\"{version}\"");
    if let Some(last) = entries.last().filter(|_| picked.next().is_some()) {
        let is_first = page.after.is_none();
        page.delivered += entries.len();
        page.after = Some(last.key.clone());
        if selection.labels.is_empty() && selection.fields.is_empty() {
            // Counted once for all pages.
            let total = *page.total.get_or_insert_with(|| match &selection.namespace {
                None => snapshot.entries.len(),
                Some(_) => snapshot.select(kind, &selection, None).count(),
            });
            // Writing to a String can't fail.
            let _ = write!(meta, ",\"remainingItemCount\":{}", total.saturating_sub(page.delivered));
        }
        let _ = write!(meta, ",\"continue\":\"{}\"", token(&page));
        shared.pages.keep(kind, page, is_first);
    } else if page.after.is_some() {
        shared.pages.leave(kind, version);
    }
    meta.push('}');
    if let Some(table) = table {
        return Ok(answer::json(StatusCode::OK, table.of(kind, &entries, &meta)));
    }
    let head = format!("{{\"kind\":\"{}List\",\"apiVersion\":\"v1\",\"metadata\":{meta},\"items\":[", kind.kind);
    Ok(body(head, entries))
}

/// A client may ask for data at least as new as it has seen.
async fn check_version(registry: &Registry, query: &Query) -> Result<(), ApiError> {
    let Some(text) = query.get("resourceVersion") else { return Ok(()) };
    let wanted = write::parse_version(text)?;
    // Another master may have told it; this one hears of it soon.
    let reached = registry.reached(wanted, super::watch::CATCH_UP).await;
    let have = registry.version();
    if !reached {
        let message = format!("too large resource version: {wanted}, current: {have}");
        return Err(ApiError { retry_after_s: Some(1), ..ApiError::new(Reason::Timeout, message) });
    }
    if query.get("resourceVersionMatch") == Some("Exact") && wanted != have {
        let message =
            format!("resourceVersion {wanted} is no longer available: only the present {have} is; list again");
        return Err(ApiError::new(Reason::Expired, message));
    }
    Ok(())
}

const TAIL: &[u8] = b"]}\n";

fn body(head: String, entries: Vec<Arc<Entry>>) -> Response {
    let size = head.len() + TAIL.len() + entries.iter().map(|e| e.json.len() + 1).sum::<usize>();
    let mut parts = Parts { head: Some(head), entries, next: 0, done: false };
    if size <= PART_BYTES {
        return answer::json(StatusCode::OK, parts.next_part(size).unwrap_or_default());
    }
    let parts = std::iter::from_fn(move || parts.next_part(PART_BYTES).map(Ok));
    answer::stream("application/json", futures_util::stream::iter(parts))
}

/// A list cut into parts as it is sent: the whole text of a long list never exists.
struct Parts {
    head: Option<String>,
    entries: Vec<Arc<Entry>>,
    next: usize,
    done: bool,
}

impl Parts {
    fn next_part(&mut self, size: usize) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut part = BytesMut::with_capacity(size);
        if let Some(head) = self.head.take() {
            part.put_slice(head.as_bytes());
        }
        while let Some(entry) = self.entries.get(self.next) {
            if !part.is_empty() && part.len() + entry.json.len() + TAIL.len() > size {
                return Some(part.freeze());
            }
            if self.next > 0 {
                part.put_u8(b',');
            }
            part.put_slice(&entry.json);
            self.next += 1;
        }
        part.put_slice(TAIL);
        self.done = true;
        Some(part.freeze())
    }
}

/// A list in pages, at one point.
#[derive(Debug, Clone)]
struct Page {
    snapshot: Snapshot,
    /// The last object delivered.
    after: Option<Key>,
    /// How many were.
    delivered: usize,
    /// How many there are, if they were counted.
    total: Option<usize>,
}

impl Page {
    fn first(snapshot: Snapshot) -> Self {
        Self { snapshot, after: None, delivered: 0, total: None }
    }
}

/// The snapshots of paged lists under way.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    kept: Mutex<VecDeque<Kept>>,
}

#[derive(Debug)]
struct Kept {
    kind: &'static Kind,
    snapshot: Snapshot,
    total: Option<usize>,
    /// Who began with the first page and has not come to the last.
    readers: usize,
    until: Instant,
}

impl Pages {
    /// Keeps the snapshot of a page for the next one; `begins` counts another reader.
    fn keep(&self, kind: &'static Kind, page: Page, begins: bool) {
        let Page { snapshot, total, .. } = page;
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |k: &Kept| k.kind == kind && k.snapshot.version == snapshot.version;
        let readers = kept.iter().find(|k| same(k)).map_or(0, |k| k.readers) + usize::from(begins);
        kept.retain(|k| k.until > now && !same(k));
        while kept.len() >= PAGED_LISTS_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept { kind, snapshot, total, readers, until: now + PAGE_LIFE });
    }

    /// A reader has had the last page. A snapshot keeps all its objects in memory, so it goes with the last reader.
    fn leave(&self, kind: &Kind, version: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain_mut(|page| {
            let left = page.kind == kind && page.snapshot.version == version;
            page.readers = page.readers.saturating_sub(usize::from(left));
            page.readers > 0
        });
    }

    /// Lets go of what no reader came back for. A snapshot keeps all its objects in memory.
    fn forget_old(&self) {
        let now = Instant::now();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).retain(|page| page.until > now);
    }

    fn resume(&self, kind: &Kind, token: &str) -> Result<Page, ApiError> {
        let (version, delivered, after) = parse_token(token).ok_or_else(|| {
            ApiError::bad_request("the continue parameter is not one that this server gave: list from the start")
        })?;
        let now = Instant::now();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.iter().find(|k| k.kind == kind && k.snapshot.version == version && k.until > now);
        let kept = kept.ok_or_else(|| {
            ApiError::new(
                Reason::Expired,
                "the list that this continue parameter belongs to is too old: list from the start",
            )
        })?;
        Ok(Page { snapshot: kept.snapshot.clone(), after: Some(after), delivered, total: kept.total })
    }
}

/// Version, number of objects delivered and the last one's key, in characters that a URL takes.
fn token(page: &Page) -> String {
    let mut text = format!("{:x}.{:x}.", page.snapshot.version, page.delivered);
    if let Some(Key { namespace, name }) = &page.after {
        for byte in format!("{namespace}/{name}").bytes() {
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
}

fn parse_token(token: &str) -> Option<(u64, usize, Key)> {
    let (version, rest) = token.split_once('.')?;
    let (delivered, hex) = rest.split_once('.')?;
    let version = u64::from_str_radix(version, 16).ok()?;
    let delivered = usize::from_str_radix(delivered, 16).ok()?;
    let bytes = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect::<Option<Vec<_>>>()?;
    let key = String::from_utf8(bytes).ok()?;
    let (namespace, name) = key.split_once('/')?;
    Some((version, delivered, Key::new(namespace, name)))
}

#[cfg(test)]
mod tests {
    use coracle_api::{TypedObject, core::Pod};

    use super::*;

    #[test]
    fn a_token_says_where_the_next_page_starts() {
        let key = Key::new("default", "web.1");
        let mut snapshot = Snapshot::default();
        snapshot.version = 77;
        let page = Page { snapshot, after: Some(key.clone()), delivered: 500, total: None };
        assert_eq!(parse_token(&token(&page)), Some((77, 500, key)));
        for bad in ["", "77", "1.61", "x.1.00", "1.x.61", "1.1.zz", "1.1.ff", "1.1.61"] {
            assert_eq!(parse_token(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_snapshot_is_kept_until_its_last_reader_has_had_the_last_page() {
        let (pages, kind) = (Pages::default(), Pod::row());
        let page = || {
            let mut snapshot = Snapshot::default();
            snapshot.version = 7;
            Page { after: Some(Key::new("n", "a")), ..Page::first(snapshot) }
        };
        let is_kept = || pages.resume(kind, &token(&page())).is_ok();
        for begins in [true, true, false] {
            pages.keep(kind, page(), begins);
        }
        for expected in [true, false] {
            pages.leave(kind, 7);
            assert_eq!(is_kept(), expected);
        }
    }

    #[test]
    fn fields_that_no_index_has_are_refused_with_those_that_there_are() {
        let check = |text: &str| check_fields(Pod::row(), &FieldSelector::parse(text).unwrap());
        assert!(check("spec.nodeName=a,metadata.name!=b").is_ok());
        let error = check("spec.bogus=1").unwrap_err();
        assert_eq!(error.code(), 400);
        assert!(error.message.contains("spec.bogus") && error.message.contains("spec.nodeName"), "{}", error.message);
    }
}
