//! How a command ends when it does not end well: the sentence for the user and the exit status.
//!
//! Invariant: a closed pipe is success; the reader simply had enough.

use coracle_api::client::ClientError;

/// Why a command stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line or a file on it is wrong: exit 2.
    #[error("{0}")]
    Usage(String),
    /// What was asked was not done: exit 1.
    #[error("{0}")]
    Failed(String),
    /// The master refused or could not be reached: exit 1.
    #[error("{}", client_sentence(.0))]
    Client(#[from] ClientError),
    /// The command carried out elsewhere ended with this status; nothing to add.
    #[error("exit status {0}")]
    Exit(u8),
    /// Nobody reads our output any more.
    #[error("the output was closed")]
    ClosedPipe,
}

impl Failure {
    /// The exit status of the process.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Failed(_) | Failure::Client(_) => 1,
            Failure::Exit(code) => *code,
            Failure::ClosedPipe => 0,
        }
    }

    /// Whether there is a sentence for the user.
    pub(crate) fn has_text(&self) -> bool {
        !matches!(self, Failure::Exit(_) | Failure::ClosedPipe)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Failed(error.to_string()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        error.downcast().unwrap_or_else(|error| Failure::Failed(format!("{error:#}")))
    }
}

/// A client error with its remedy.
pub(crate) fn client_sentence(error: &ClientError) -> String {
    match error {
        ClientError::Connect { .. } => format!("{error} (is the master running? try: coracle up)"),
        ClientError::Unknown { .. } => format!("{error} (look before trying again)"),
        ClientError::Timeout { .. } => format!("{error} (the outcome is unknown: look before trying again)"),
        _ => error.to_string(),
    }
}

/// The outcome of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;
