//! Why a call failed, and what may be done about it.

use crate::error::{ApiError, Reason};

/// A master that gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreached {
    /// Its address.
    pub server: String,
    /// The last cause.
    pub cause: String,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The master answered with an error.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No connection; retry, or check the address.
    #[error("cannot reach the master at {server}: {cause}")]
    Connect {
        /// The address tried.
        server: String,
        /// The innermost cause, such as "Connection refused".
        cause: String,
    },
    /// None of several masters answers; retry, or check the addresses.
    #[error(
        "none of the {} masters answers ({}): start one of them, or name others with --master or KUBERNETES_MASTER",
        .0.len(),
        causes(.0)
    )]
    NoMaster(Vec<Unreached>),
    /// No answer in time; the outcome of a write is unknown.
    #[error("the master at {server} did not answer {path} within {seconds} s")]
    Timeout {
        /// The address.
        server: String,
        /// The request path.
        path: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A request that must not be done twice left, and no answer came: look before trying again.
    #[error("the master at {server} did not answer {request}: {cause}; it is not known whether it was done")]
    Unknown {
        /// The address.
        server: String,
        /// Method and path.
        request: String,
        /// What happened instead of an answer.
        cause: String,
    },
    /// The connection broke or the answer was not understood.
    #[error("talking to the master about {path}: {cause}")]
    Protocol {
        /// The request path.
        path: String,
        /// What went wrong.
        cause: String,
    },
    /// The configured address is not one.
    #[error("'{0}' is not the address of a master: expected http://HOST:PORT, or several with commas between")]
    Address(String),
}

fn causes(unreached: &[Unreached]) -> String {
    let each: Vec<_> = unreached.iter().map(|u| format!("{}: {}", u.server, u.cause)).collect();
    each.join("; ")
}

impl ClientError {
    pub(super) fn protocol(path: &str, cause: impl std::fmt::Display) -> Self {
        Self::Protocol { path: path.to_owned(), cause: cause.to_string() }
    }

    /// The API error, if the master answered with one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            ClientError::Api(e) => Some(e),
            _ => None,
        }
    }

    fn has_reason(&self, reason: Reason) -> bool {
        self.api().is_some_and(|e| e.reason == reason)
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.has_reason(Reason::NotFound)
    }

    /// The object changed since it was read: read again and retry.
    pub fn is_conflict(&self) -> bool {
        self.has_reason(Reason::Conflict)
    }

    /// The server takes no more of this now.
    pub fn is_too_many_requests(&self) -> bool {
        self.has_reason(Reason::TooManyRequests)
    }

    /// The object exists already.
    pub fn is_already_exists(&self) -> bool {
        self.has_reason(Reason::AlreadyExists)
    }

    /// The watch position is too old: list again.
    pub fn is_expired(&self) -> bool {
        self.has_reason(Reason::Expired)
    }

    /// This master has not heard of the version asked for, which another one told: try again
    /// shortly.
    pub fn is_early(&self) -> bool {
        self.has_reason(Reason::Timeout)
    }

    /// Whether the same request may succeed later without being changed.
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Api(e) => matches!(
                e.reason,
                Reason::TooManyRequests | Reason::ServiceUnavailable | Reason::Timeout | Reason::InternalError
            ),
            ClientError::Address(_) => false,
            _ => true,
        }
    }
}
