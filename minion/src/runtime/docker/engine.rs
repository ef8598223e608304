//! The connection to one Docker engine: where it is, whether it will do, and the time limit on
//! every call.

use std::{future::Future, time::Duration};

use bollard::{API_DEFAULT_VERSION, Docker};

use super::errors;
use crate::runtime::RuntimeError;

/// The oldest Docker API that has all that is used here (engine 20.10).
const API_MIN: (u32, u32) = (1, 41);
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Reading something the engine has in memory.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(10);
/// Changing something; a loaded engine needs seconds to start or remove a container.
pub(super) const CHANGE_LIMIT: Duration = Duration::from_secs(120);
/// The client's own limit on response headers, beyond every limit set here.
const CLIENT_LIMIT_S: u64 = 86_400;

/// A Docker engine that answered and is recent enough. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    socket: String,
    arch: String,
    version: String,
}

impl Engine {
    /// Connects to the engine at `socket` (a path or `unix://` URL; by default `DOCKER_HOST`, then
    /// `/var/run/docker.sock`).
    ///
    /// Fails when nothing answers there, and when the engine is older than 20.10.
    pub async fn connect(socket: Option<&str>) -> Result<Self, RuntimeError> {
        let host = std::env::var("DOCKER_HOST").ok();
        let socket = socket_path(socket, host.as_deref())?;
        let docker = Docker::connect_with_unix(&socket, CLIENT_LIMIT_S, API_DEFAULT_VERSION)
            .map_err(|e| errors::from_client(&socket, e))?;
        let mut engine = Self { docker, socket, arch: String::new(), version: String::new() };
        let version = engine.read("asking for the version of", "the engine", engine.docker.version()).await?;
        let api = version.api_version.unwrap_or_default();
        engine.version = version.version.unwrap_or_default();
        if api_number(&api) < API_MIN {
            return Err(RuntimeError::Refused(format!(
                "the Docker engine at {} has API {api} (version {}); Coracle needs API {}.{}, Docker 20.10 or newer",
                engine.socket, engine.version, API_MIN.0, API_MIN.1
            )));
        }
        engine.arch = version.arch.unwrap_or_default();
        Ok(engine)
    }

    /// The client, for the parts that manage networks.
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// Path of its socket.
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// Its architecture in Go's words: `amd64`, `arm64`.
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// Its version, such as `20.10.24`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What the engine says about its host.
    pub async fn info(&self) -> Result<bollard::models::SystemInfo, RuntimeError> {
        self.read("asking for the facts of", "the engine", self.docker.info()).await
    }

    /// Whether the engine answers.
    pub async fn ping(&self) -> Result<(), RuntimeError> {
        self.read("asking for a sign of", "the engine", self.docker.ping()).await.map(drop)
    }

    /// Runs a call of the client that reads something.
    pub(crate) async fn read<T>(
        &self,
        verb: &str,
        object: &str,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, RuntimeError> {
        self.call(verb, object, READ_LIMIT, call).await
    }

    /// Runs a call of the client that changes something.
    pub(crate) async fn change<T>(
        &self,
        verb: &str,
        object: &str,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, RuntimeError> {
        self.call(verb, object, CHANGE_LIMIT, call).await
    }

    /// Runs one call of the client under `limit`. `verb` and `object` name it when it takes longer.
    pub(crate) async fn call<T>(
        &self,
        verb: &str,
        object: &str,
        limit: Duration,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, RuntimeError> {
        match tokio::time::timeout(limit, call).await {
            Ok(result) => result.map_err(|e| errors::from_client(&self.socket, e)),
            Err(_) => Err(RuntimeError::Timeout { what: format!("{verb} {object}"), seconds: limit.as_secs() }),
        }
    }
}

/// The path of the socket: what is configured, else `DOCKER_HOST`, else the default.
fn socket_path(configured: Option<&str>, docker_host: Option<&str>) -> Result<String, RuntimeError> {
    let text = [configured, docker_host].into_iter().flatten().find(|t| !t.is_empty()).unwrap_or(DEFAULT_SOCKET);
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    Err(RuntimeError::Refused(format!(
        "'{text}' is not a Docker engine that a minion can use: expected unix:///path/to/docker.sock of the engine on \
         this host (from --docker or DOCKER_HOST)"
    )))
}

/// The numbers of an API version such as `1.41`; what is none counts as 0.
pub(crate) fn api_number(api: &str) -> (u32, u32) {
    let mut parts = api.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_socket_wins_over_the_environment_and_that_over_the_default() {
        let check = |configured, host, expected: &str| {
            assert_eq!(socket_path(configured, host).unwrap(), expected);
        };
        check(None, None, "/var/run/docker.sock");
        check(None, Some(""), "/var/run/docker.sock");
        check(None, Some("unix:///run/x.sock"), "/run/x.sock");
        check(Some("/run/y.sock"), Some("unix:///run/x.sock"), "/run/y.sock");
    }

    #[test]
    fn a_remote_engine_is_refused_with_the_remedy() {
        let error = socket_path(None, Some("tcp://192.0.2.1:2375")).unwrap_err().to_string();
        assert!(error.contains("unix:///path/to/docker.sock"), "{error}");
    }

    #[test]
    fn api_versions_compare_as_numbers() {
        for (api, suffices) in
            [("1.41", true), ("1.9", false), ("1.40", false), ("1.51", true), ("2.0", true), ("", false)]
        {
            assert_eq!(api_number(api) >= API_MIN, suffices, "{api}");
        }
    }
}
