//! What a failed request means: whether it was done, and who can mend it.

use std::{error::Error as _, time::Duration};

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

use crate::store::StoreError;

/// Why there is no answer. Displayed as cause and remedy, without the subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// Not done. Another member, or this one later, may do it.
    #[error("{0}")]
    Unreached(String),
    /// Done or not: nobody knows.
    #[error("{0}")]
    Silent(String),
    /// Not done, and it won't be before someone has mended it.
    #[error("{0}")]
    Refused(String),
    /// The history that was asked for is gone.
    #[error("the history that was asked for is compacted")]
    Compacted,
    /// The lease is gone.
    #[error("the lease has expired")]
    Expired,
    /// An answer does not fit.
    #[error("the answer is too large")]
    Oversize,
    /// A value makes no sense.
    #[error("the value of {key} was not written by a master: delete it, or restore etcd from a snapshot")]
    Foreign {
        /// The key in etcd.
        key: String,
    },
}

/// What etcd says, what it means, and what to do.
const REFUSALS: &[(&str, &str)] = &[
    (
        "database space exceeded",
        "its database is full: compact and defragment it, disarm the alarm (etcdctl alarm disarm), or raise \
         --quota-backend-bytes",
    ),
    ("corrupt", "it raised an alarm of corruption: replace the member that etcdctl alarm list names"),
    ("request is too large", "it was started with a lower --max-request-bytes: raise it to 1572864, the default"),
    ("too many operations", "it was started with a lower --max-txn-ops: raise it to 128, the default"),
    ("permission denied", "the user may not read and write under the prefix: grant its role that (etcdctl role)"),
    ("user name is empty", "it asks for a user: name one, and its password"),
    ("invalid user ID or password", "it does not know the user, or the password is wrong"),
    ("authentication is not enabled", "it knows no users: name none, or enable authentication (etcdctl auth enable)"),
    ("invalid auth token", "it does not accept its own token any more: restart the master"),
];

/// Said before anything is proposed to the members.
const UNREACHED: &[(&str, &str)] = &[
    ("no leader", "its members have no leader: is a majority of them up, and do they reach each other?"),
    ("too many requests", "it is overloaded"),
    ("raft proposal dropped", "its members are choosing a leader"),
    ("leader changed", "its members are choosing a leader"),
    ("not capable", "it is starting"),
];

impl Fault {
    pub(super) fn of(error: Error) -> Self {
        match error {
            Error::GRpcStatus(status) => Self::of_status(&status),
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
                Self::Refused(error.to_string())
            }
            // The client's own word for an answer without time to live.
            Error::LeaseKeepAliveError(said) if said.contains("not found") => Self::Expired,
            error => Self::Silent(error.to_string()),
        }
    }

    fn of_status(status: &Status) -> Self {
        let said = status.message();
        let known =
            |list: &[(&str, &str)]| list.iter().find(|(part, _)| said.contains(part)).map(|(_, m)| (*m).to_owned());
        if said.contains("required revision has been compacted") {
            return Self::Compacted;
        }
        if said.contains("requested lease not found") {
            return Self::Expired;
        }
        if let Some(connect) = connect_error(status) {
            return Self::Unreached(format!("it can't be reached ({connect}): is it up, and is the address right?"));
        }
        if let Some(meaning) = known(REFUSALS) {
            return Self::Refused(meaning);
        }
        if let Some(meaning) = known(UNREACHED) {
            return Self::Unreached(meaning);
        }
        match status.code() {
            Code::OutOfRange => Self::Oversize,
            Code::InvalidArgument | Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated => {
                Self::Refused(said.to_owned())
            }
            _ => Self::Silent(format!("it broke off ({}): is a majority of its members up?", innermost(status))),
        }
    }

    /// Nothing came back for this long.
    pub(super) fn no_answer(time: Duration) -> Self {
        Self::Silent(format!("no answer for {time:?}: is a majority of its members up?"))
    }

    /// Whether another member may know more.
    pub(super) fn is_members(&self) -> bool {
        matches!(self, Self::Unreached(_) | Self::Silent(_))
    }

    /// As the outcome of a write to this store.
    pub(super) fn into_store_error(self, store: &str) -> StoreError {
        let (store, cause) = (store.to_owned(), self.to_string());
        match self {
            Self::Silent(_) => StoreError::Unavailable { store, cause },
            Self::Foreign { key } => StoreError::Damaged {
                store,
                place: key,
                cause: "the value was not written by a master: delete it, or restore etcd from a snapshot".to_owned(),
            },
            _ => StoreError::Unwritable { store, cause },
        }
    }
}

/// The text of the failure to connect, if there was no connection to send anything over.
fn connect_error(status: &Status) -> Option<String> {
    let mut source = status.source();
    while let Some(error) = source {
        if error.downcast_ref::<ConnectError>().is_some() {
            return Some(innermost(error));
        }
        source = error.source();
    }
    None
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_has_a_meaning() {
        let check = |status: Status, expected: fn(&Fault) -> bool| {
            let fault = Fault::of(Error::GRpcStatus(status));
            assert!(expected(&fault), "{fault:?}");
        };
        let refused = |f: &Fault| matches!(f, Fault::Refused(_));
        let unreached = |f: &Fault| matches!(f, Fault::Unreached(_));
        check(Status::resource_exhausted("etcdserver: mvcc: database space exceeded"), refused);
        check(Status::permission_denied("etcdserver: permission denied"), refused);
        check(Status::unavailable("etcdserver: no leader"), unreached);
        check(Status::out_of_range("etcdserver: mvcc: required revision has been compacted"), |f| {
            *f == Fault::Compacted
        });
        // Proposed, and then nobody knows.
        check(Status::unavailable("etcdserver: request timed out"), |f| matches!(f, Fault::Silent(_)));
        check(Status::unavailable("etcdserver: request timed out, possibly due to previous leader failure"), |f| {
            matches!(f, Fault::Silent(_))
        });
        check(Status::unknown("h2 protocol error"), |f| matches!(f, Fault::Silent(_)));
    }
}
