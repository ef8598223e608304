//! The error of the API: a Kubernetes `Status` with reason, code and the fields at fault.
//!
//! Message texts follow spec §1.6; the master tells callers of `v1` the names of today.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use serde::{Deserialize, Serialize};

/// Why a request was refused. The wire form of `Status.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// 400: the request could not be understood.
    BadRequest,
    /// 401: no identity.
    Unauthorized,
    /// 403: the identity may not do this, or the operation is never allowed.
    Forbidden,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 409: an object of that name exists.
    AlreadyExists,
    /// 409: the object changed since it was read.
    Conflict,
    /// 410: the resourceVersion is older than the kept history; list again.
    Expired,
    /// 413
    RequestEntityTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 422: well-formed but against the rules; see the causes.
    Invalid,
    /// 429: slow down and try again.
    TooManyRequests,
    /// 500
    InternalError,
    /// 503: try again later.
    ServiceUnavailable,
    /// 504
    Timeout,
}

impl Reason {
    /// The HTTP status code of this reason.
    pub fn code(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::InternalError => 500,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout => 504,
        }
    }

    /// The reason as it goes on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::BadRequest => "BadRequest",
            Reason::Unauthorized => "Unauthorized",
            Reason::Forbidden => "Forbidden",
            Reason::NotFound => "NotFound",
            Reason::MethodNotAllowed => "MethodNotAllowed",
            Reason::NotAcceptable => "NotAcceptable",
            Reason::AlreadyExists => "AlreadyExists",
            Reason::Conflict => "Conflict",
            Reason::Expired => "Expired",
            Reason::RequestEntityTooLarge => "RequestEntityTooLarge",
            Reason::UnsupportedMediaType => "UnsupportedMediaType",
            Reason::Invalid => "Invalid",
            Reason::TooManyRequests => "TooManyRequests",
            Reason::InternalError => "InternalError",
            Reason::ServiceUnavailable => "ServiceUnavailable",
            Reason::Timeout => "Timeout",
        }
    }

    fn from_wire(reason: &str, code: u16) -> Self {
        const ALL: [Reason; 16] = [
            Reason::BadRequest,
            Reason::Unauthorized,
            Reason::Forbidden,
            Reason::NotFound,
            Reason::MethodNotAllowed,
            Reason::NotAcceptable,
            Reason::AlreadyExists,
            Reason::Conflict,
            Reason::Expired,
            Reason::RequestEntityTooLarge,
            Reason::UnsupportedMediaType,
            Reason::Invalid,
            Reason::TooManyRequests,
            Reason::InternalError,
            Reason::ServiceUnavailable,
            Reason::Timeout,
        ];
        ALL.into_iter()
            .find(|r| r.as_str() == reason)
            .or_else(|| ALL.into_iter().find(|r| r.code() == code))
            .unwrap_or(Reason::InternalError)
    }
}

/// What is wrong with one field. `path` is a JSON path such as `spec.containers[0].image`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// JSON path of the field, in the version the caller used.
    pub path: String,
    /// The class of the fault.
    pub kind: FieldErrorKind,
    /// What is wrong and what would be right, in one clause.
    pub detail: String,
}

/// Classes of field faults; the wire form of `causes[].reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The field must be set.
    Required,
    /// The value is malformed or out of range.
    Invalid,
    /// Two entries of a list claim the same key.
    Duplicate,
    /// The value is not one of the supported ones.
    NotSupported,
    /// The value refers to something that is not there.
    NotFound,
    /// The field may not be set or changed here.
    Forbidden,
    /// The value has the wrong type.
    TypeInvalid,
    /// No such field in this kind.
    Unknown,
}

impl FieldErrorKind {
    /// The cause reason as it goes on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::NotFound => "FieldValueNotFound",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            FieldErrorKind::Unknown => "FieldValueUnknown",
        }
    }

    fn text(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "required value",
            FieldErrorKind::Invalid => "invalid value",
            FieldErrorKind::Duplicate => "duplicate value",
            FieldErrorKind::NotSupported => "unsupported value",
            FieldErrorKind::NotFound => "not found",
            FieldErrorKind::Forbidden => "forbidden",
            FieldErrorKind::TypeInvalid => "wrong type",
            FieldErrorKind::Unknown => "unknown field",
        }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.kind.text())?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// Collects field errors under a path prefix while a validator walks an object.
#[derive(Debug, Default)]
pub struct FieldErrors {
    errors: Vec<FieldError>,
}

impl FieldErrors {
    /// Records one fault.
    pub fn push(&mut self, path: impl Into<String>, kind: FieldErrorKind, detail: impl Into<String>) {
        self.errors.push(FieldError { path: path.into(), kind, detail: detail.into() });
    }

    /// A field that must be set.
    pub fn required(&mut self, path: impl Into<String>, detail: impl Into<String>) {
        self.push(path, FieldErrorKind::Required, detail);
    }

    /// A value that is malformed; the detail shows the value and the rule.
    pub fn invalid(&mut self, path: impl Into<String>, value: impl std::fmt::Display, rule: impl std::fmt::Display) {
        self.push(path, FieldErrorKind::Invalid, format!("'{value}': {rule}"));
    }

    /// Two entries with the same key.
    pub fn duplicate(&mut self, path: impl Into<String>, value: impl std::fmt::Display) {
        self.push(path, FieldErrorKind::Duplicate, format!("'{value}'"));
    }

    /// A value that is none of the supported ones.
    pub fn not_supported(&mut self, path: impl Into<String>, value: impl std::fmt::Display, supported: &[&str]) {
        self.push(path, FieldErrorKind::NotSupported, format!("'{value}': supported values: {}", supported.join(", ")));
    }

    /// A reference to something that is not there.
    pub fn not_found(
        &mut self,
        path: impl Into<String>,
        value: impl std::fmt::Display,
        detail: impl std::fmt::Display,
    ) {
        self.push(path, FieldErrorKind::NotFound, format!("'{value}': {detail}"));
    }

    /// A field that may not be set or changed.
    pub fn forbidden(&mut self, path: impl Into<String>, detail: impl Into<String>) {
        self.push(path, FieldErrorKind::Forbidden, detail);
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The recorded faults, in order.
    pub fn into_vec(self) -> Vec<FieldError> {
        self.errors
    }
}

/// An error as the API reports it. Retry on [`Reason::Conflict`] after reading again, on
/// [`Reason::TooManyRequests`], [`Reason::ServiceUnavailable`] and [`Reason::Timeout`] after a
/// pause, on [`Reason::Expired`] after listing again; on all others the request must change.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Class of the error.
    pub reason: Reason,
    /// A sentence that names the object, the fault and, where there is one, the remedy.
    pub message: String,
    /// Kind of the object, if one is concerned: `pod`, `replicationController`; from an answer of `v1` its resource, `pods`.
    pub kind: Option<String>,
    /// Name of the object, if one is concerned.
    pub name: Option<String>,
    /// The fields at fault, for [`Reason::Invalid`].
    pub causes: Vec<FieldError>,
    /// Seconds after which a retry makes sense.
    pub retry_after_s: Option<i32>,
}

impl ApiError {
    /// An error with a plain message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), kind: None, name: None, causes: Vec::new(), retry_after_s: None }
    }

    /// 400 with a sentence that says what is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 500; the message is shown to the caller, so it must not hold secrets.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(Reason::InternalError, format!("Internal error occurred: {message}"))
    }

    /// 503; retried by clients.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after_s: Some(1), ..Self::new(Reason::ServiceUnavailable, message) }
    }

    /// `pod "x" not found`
    pub fn not_found(kind: &str, name: &str) -> Self {
        Self::new(Reason::NotFound, format!("{kind} \"{name}\" not found")).about(kind, name)
    }

    /// `pod "x" already exists`
    pub fn already_exists(kind: &str, name: &str) -> Self {
        Self::new(Reason::AlreadyExists, format!("{kind} \"{name}\" already exists")).about(kind, name)
    }

    /// `pod "x" cannot be updated: why`
    pub fn conflict(kind: &str, name: &str, why: impl std::fmt::Display) -> Self {
        Self::new(Reason::Conflict, format!("{kind} \"{name}\" cannot be updated: {why}")).about(kind, name)
    }

    /// `pod "x" is invalid: [path: text, path: text]`
    pub fn invalid(kind: &str, name: &str, causes: Vec<FieldError>) -> Self {
        let list = causes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let list = if causes.len() > 1 { format!("[{list}]") } else { list };
        Self { causes, ..Self::new(Reason::Invalid, format!("{kind} \"{name}\" is invalid: {list}")) }.about(kind, name)
    }

    /// Names the object concerned.
    pub fn about(mut self, kind: &str, name: &str) -> Self {
        self.kind = Some(kind.to_owned());
        self.name = Some(name.to_owned());
        self
    }

    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        self.reason.code()
    }

    /// The `v1` wire object.
    pub fn to_status(&self) -> Status {
        let causes: Vec<_> = self
            .causes
            .iter()
            .map(|c| StatusCause {
                reason: Some(c.kind.as_str().to_owned()),
                message: Some(c.to_string()),
                field: Some(c.path.clone()),
            })
            .collect();
        let details = StatusDetails {
            name: self.name.clone(),
            kind: self.kind.clone(),
            causes: (!causes.is_empty()).then_some(causes),
            retry_after_seconds: self.retry_after_s,
            ..Default::default()
        };
        Status {
            status: Some("Failure".into()),
            message: Some(self.message.clone()),
            reason: Some(self.reason.as_str().into()),
            details: (details != StatusDetails::default()).then_some(details),
            code: Some(i32::from(self.code())),
            ..Default::default()
        }
    }

    /// Reads an error back from the wire. `v1beta1` answers call the name `id`; both are read.
    pub fn from_json(code: u16, body: &[u8]) -> Self {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Wire {
            message: String,
            reason: String,
            details: Option<Details>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        struct Details {
            #[serde(alias = "id")]
            name: Option<String>,
            kind: Option<String>,
            retry_after_seconds: Option<i32>,
        }
        let text = || String::from_utf8_lossy(body).trim().chars().take(500).collect::<String>();
        match serde_json::from_slice::<Wire>(body) {
            Ok(wire) if !wire.message.is_empty() || !wire.reason.is_empty() => {
                let reason = Reason::from_wire(&wire.reason, code);
                let details = wire.details.unwrap_or_default();
                let message = if wire.message.is_empty() { reason.as_str().to_owned() } else { wire.message };
                Self {
                    kind: details.kind,
                    name: details.name,
                    retry_after_s: details.retry_after_seconds,
                    ..Self::new(reason, message)
                }
            }
            _ => Self::new(Reason::from_wire("", code), format!("HTTP {code}: {}", text())),
        }
    }
}
