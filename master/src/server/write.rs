//! Create, replace and patch: what the server adds to an object on its way into the registry.
//!
//! Both API versions write through here. Time and ids are drawn here; the rules about what they go
//! into are the api crate's and [`crate::admission`]'s.

use bytes::Bytes;
use coracle_api::{
    ApiError, Kind, Object,
    error::{FieldErrors, Reason},
};
use serde_json::Value;

use super::{Shared, decode, decode::Strictness, patch::Patch, query::Query, router::Target};
use crate::registry::{self, Entry, Expected};

/// Attempts of a write that may be repeated when the object changes meanwhile.
const ATTEMPTS: usize = 16;
/// Attempts to create under a generated name, or with something chosen, that is free.
const CREATE_ATTEMPTS: usize = 8;
/// What generated names end in: no vowels, so no words; no digits that look like letters.
const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME_SUFFIX: usize = 5;
/// Longest name that leaves room for the suffix in a DNS label.
const NAME_BASE_MAX: usize = 63 - NAME_SUFFIX;

/// How a write is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteOptions {
    /// Check everything, store nothing.
    pub(crate) dry_run: bool,
    /// What to do about unknown fields.
    pub(crate) strictness: Strictness,
}

impl WriteOptions {
    /// Reads `dryRun` and `fieldValidation`.
    pub(crate) fn of(query: &Query) -> Result<Self, ApiError> {
        let dry_run = match query.get("dryRun") {
            None => false,
            Some("All") => true,
            Some(other) => {
                return Err(ApiError::bad_request(format!("dryRun='{other}' is not supported: use All")));
            }
        };
        Ok(Self { dry_run, strictness: Strictness::of(query)? })
    }
}

/// Which part of an object a write replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status only.
    Status,
}

/// A write that was done, or would have been.
#[derive(Debug)]
pub(crate) struct Written {
    /// The object as it is now, `v1` JSON.
    pub(crate) json: Bytes,
    /// What its author should hear.
    pub(crate) warnings: Vec<String>,
}

/// Stores a new object in the namespace that the request names, if any.
pub(crate) async fn create(
    shared: &Shared,
    mut object: Box<dyn Object>,
    namespace: Option<&str>,
    dry_run: bool,
) -> Result<Written, ApiError> {
    let kind = object.kind();
    settle_namespace(&mut *object, namespace)?;
    let meta = object.meta_mut();
    if meta.resource_version.as_deref().is_some_and(|v| !v.is_empty()) {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    // What only the server may say.
    meta.creation_timestamp = Some(shared.registry.now_s().into());
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.managed_fields = None;
    meta.self_link = None;
    meta.resource_version = None;
    // Kinds with a status tell by the generation which spec it is about.
    meta.generation = kind.has(coracle_api::kinds::Subresource::Status).then_some(1);
    let base = meta.generate_name.clone().filter(|_| meta.name.as_deref().is_none_or(str::is_empty));
    if base.is_none() && object.name().is_empty() {
        let mut errors = FieldErrors::default();
        errors.required("metadata.name", "name or generateName is required");
        return Err(ApiError::invalid(kind.error_name, "", errors.into_vec()));
    }
    object.prepare_create();
    object.set_defaults();
    let mut last = None;
    // Only what is chosen here can be chosen anew.
    let attempts = if base.is_some() || kind.claims { CREATE_ATTEMPTS } else { 1 };
    let mut given = Some(object);
    for left in (0..attempts).rev() {
        let next = if left > 0 { given.as_ref().map(|object| object.clone_box()) } else { None };
        let Some(mut object) = std::mem::replace(&mut given, next) else { break };
        let uid = shared.registry.new_id();
        object.meta_mut().uid = Some(uid.to_string());
        if let Some(base) = &base {
            object.meta_mut().name = Some(generated_name(base, shared.registry.new_id().as_u128()));
        }
        shared.admission.admit(&shared.registry, &mut *object, None)?;
        object.validate()?;
        let warnings = object.warnings();
        if dry_run {
            if shared.registry.get(kind, object.namespace(), object.name()).is_some() {
                return Err(ApiError::already_exists(kind.error_name, object.name()));
            }
            return Ok(Written { json: object.to_json().into(), warnings });
        }
        match shared.registry.create(object).await {
            Ok(entry) => return Ok(Written { json: entry.json.clone(), warnings }),
            Err(e) if base.is_some() && e.reason == Reason::AlreadyExists => {
                last = Some(ApiError::already_exists(kind.error_name, base.as_deref().unwrap_or_default()));
            }
            // Another object took what was chosen for this one; the next choice knows of it.
            Err(e) if e.reason == Reason::Conflict => last = Some(e),
            Err(e) => return Err(e),
        }
    }
    Err(last.unwrap_or_else(|| ApiError::already_exists(kind.error_name, "")))
}

/// Replaces an object or its status: compare-and-set when the body has a resourceVersion, else
/// whatever is there now.
pub(crate) async fn replace(
    shared: &Shared,
    mut object: Box<dyn Object>,
    target: &Target,
    part: Part,
    dry_run: bool,
) -> Result<Written, ApiError> {
    settle_name(&mut *object, target)?;
    let version = take_version(&mut *object)?;
    let mut attempt = 0;
    loop {
        let current = find(shared, target.kind, target.namespace(), target.name())?;
        let result = match part {
            // Nothing but the status is taken from it, so it may be used again.
            Part::Status => replace_once(shared, &mut *object, &current, version, part, dry_run).await,
            Part::Main => replace_once(shared, &mut *object.clone_box(), &current, version, part, dry_run).await,
        };
        attempt += 1;
        match result {
            Err(e) if e.reason == Reason::Conflict && version.is_none() && attempt < ATTEMPTS => {
                same_object(&*object, &current)?;
            }
            other => return other,
        }
    }
}

/// Patches an object or its status.
pub(crate) async fn patch(
    shared: &Shared,
    patch: &Patch,
    target: &Target,
    part: Part,
    options: WriteOptions,
) -> Result<Written, ApiError> {
    let mut attempt = 0;
    loop {
        let current = find(shared, target.kind, target.namespace(), target.name())?;
        let document: Value = serde_json::from_slice(&current.json).map_err(ApiError::internal)?;
        let patched = patch.apply(target.kind.error_name, target.name(), document)?;
        let decode::Decoded { mut object, mut warnings } =
            decode::from_value(target.kind, &patched, options.strictness)?;
        settle_name(&mut *object, target)?;
        // Only a patch that names another version than the one it was applied to is conditional.
        let version = take_version(&mut *object)?;
        let conditional = version.is_some_and(|v| v != current.version);
        let version = version.or(Some(current.version));
        let result = replace_once(shared, &mut *object, &current, version, part, options.dry_run).await;
        attempt += 1;
        match result {
            Err(e) if e.reason == Reason::Conflict && !conditional && attempt < ATTEMPTS => {
                // A fault that a fresh read does not heal is the caller's.
                let now = find(shared, target.kind, target.namespace(), target.name())?;
                if now.version == current.version {
                    return Err(e);
                }
            }
            Ok(mut written) => {
                warnings.append(&mut written.warnings);
                return Ok(Written { warnings, ..written });
            }
            Err(e) => return Err(e),
        }
    }
}

async fn replace_once(
    shared: &Shared,
    object: &mut dyn Object,
    current: &Entry,
    version: Option<u64>,
    part: Part,
    dry_run: bool,
) -> Result<Written, ApiError> {
    same_object(object, current)?;
    let mut warnings = Vec::new();
    let object = match part {
        Part::Status => registry::Written::with_status(current, object)?,
        Part::Main => {
            let old = current.decode().ok_or_else(|| ApiError::internal("a stored object does not decode"))?;
            keep_metadata(object, &*old);
            object.prepare_update(&*old);
            object.set_defaults();
            shared.admission.admit(&shared.registry, object, Some(&*old))?;
            object.validate_update(&*old)?;
            if object.spec_changed(&*old) {
                let generation = old.meta().generation.unwrap_or(1) + 1;
                object.meta_mut().generation = Some(generation);
            }
            warnings = object.warnings();
            registry::Written::from(object)
        }
    };
    let expected = Expected::Version(version.unwrap_or(current.version));
    if expected == Expected::Version(current.version) {
        if object.is_in(current) {
            return Ok(Written { json: current.json.clone(), warnings });
        }
        if dry_run {
            return Ok(Written { json: current.json_of_update(object.json()), warnings });
        }
    }
    let entry = shared.registry.update_written(object, expected).await?;
    Ok(Written { json: entry.json.clone(), warnings })
}

/// The stored object, or 404.
pub(crate) fn find(
    shared: &Shared,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
) -> Result<std::sync::Arc<Entry>, ApiError> {
    shared.registry.get(kind, namespace, name).ok_or_else(|| ApiError::not_found(kind.error_name, name))
}

/// A uid in a body means that very object.
fn same_object(object: &dyn Object, current: &Entry) -> Result<(), ApiError> {
    match object.meta().uid.as_deref() {
        Some(uid) if !uid.is_empty() && uid != current.uid() => {
            let why = format!("precondition failed: uid is {}, not {uid}", current.uid());
            Err(ApiError::conflict(current.kind.error_name, &current.key.name, why))
        }
        _ => Ok(()),
    }
}

/// Carries over the metadata that no writer may change.
fn keep_metadata(object: &mut dyn Object, old: &dyn Object) {
    let (meta, old) = (object.meta_mut(), old.meta());
    meta.uid.clone_from(&old.uid);
    meta.creation_timestamp.clone_from(&old.creation_timestamp);
    meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    meta.generation = old.generation;
    meta.generate_name.clone_from(&old.generate_name);
    meta.managed_fields = None;
    meta.self_link = None;
}

/// Takes the resourceVersion out of a body; `None` when it has none.
fn take_version(object: &mut dyn Object) -> Result<Option<u64>, ApiError> {
    match object.meta_mut().resource_version.take().as_deref() {
        None | Some("" | "0") => Ok(None),
        Some(text) => parse_version(text).map(Some),
    }
}

/// Reads a resourceVersion.
pub(crate) fn parse_version(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!("resourceVersion '{text}' is not one: use the value of an earlier answer"))
    })
}

/// The name of the body must be that of the path; an absent one is filled in.
fn settle_name(object: &mut dyn Object, target: &Target) -> Result<(), ApiError> {
    let name = object.name();
    if !name.is_empty() && name != target.name() {
        let message = format!(
            "the name of the object ({name}) does not match the name on the URL ({}): they must be equal",
            target.name()
        );
        return Err(ApiError::bad_request(message));
    }
    object.meta_mut().name = Some(target.name().to_owned());
    settle_namespace(object, target.namespace.as_deref())
}

/// The namespace of the body must be that of the request; an absent one is filled in.
fn settle_namespace(object: &mut dyn Object, namespace: Option<&str>) -> Result<(), ApiError> {
    if !object.kind().namespaced {
        object.meta_mut().namespace = None;
        return Ok(());
    }
    let own = object.namespace();
    if let Some(namespace) = namespace
        && !own.is_empty()
        && own != namespace
    {
        let message = format!(
            "the namespace of the provided object ({own}) does not match the namespace sent on the request ({namespace})"
        );
        return Err(ApiError::bad_request(message));
    }
    if own.is_empty() {
        object.meta_mut().namespace = Some(namespace.unwrap_or("default").to_owned());
    }
    Ok(())
}

/// `base` and five characters drawn from `random`.
fn generated_name(base: &str, mut random: u128) -> String {
    let cut = base.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|end| *end <= NAME_BASE_MAX).last();
    let mut name = base[..cut.unwrap_or(0)].to_owned();
    for _ in 0..NAME_SUFFIX {
        let n = NAME_ALPHABET.len() as u128;
        name.push(NAME_ALPHABET[(random % n) as usize] as char);
        random /= n;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_keep_the_base_and_fit_a_label() {
        let name = generated_name("web-", 0x1234_5678_9abc_def0);
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_ne!(name, generated_name("web-", 0x1234_5678_9abc_deff));
        assert_eq!(generated_name(&"é".repeat(60), 1).len(), 63);
        assert_eq!(generated_name(&"x".repeat(300), 1).len(), 63);
    }
}
