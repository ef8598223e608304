//! Actions on a running container: liveness probes and lifecycle hooks.

use serde::{Deserialize, Serialize};

use super::wire::{IntOrString, is_zero, narrow, non_empty, non_zero};
use crate::{FieldErrors, core};

/// The port of a lifecycle hook that names none, as in 0.5.4.
const HOOK_PORT: i64 = 80;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LivenessProbe {
    #[serde(skip_serializing_if = "is_zero")]
    http_get: Option<HttpGet>,
    #[serde(skip_serializing_if = "is_zero")]
    tcp_socket: Option<TcpSocket>,
    #[serde(skip_serializing_if = "is_zero")]
    exec: Option<Exec>,
    #[serde(skip_serializing_if = "is_zero")]
    initial_delay_seconds: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Lifecycle {
    #[serde(skip_serializing_if = "is_zero")]
    post_start: Option<Handler>,
    #[serde(skip_serializing_if = "is_zero")]
    pre_stop: Option<Handler>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Handler {
    #[serde(skip_serializing_if = "is_zero")]
    exec: Option<Exec>,
    #[serde(skip_serializing_if = "is_zero")]
    http_get: Option<HttpGet>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct HttpGet {
    #[serde(skip_serializing_if = "is_zero")]
    path: String,
    port: IntOrString,
    #[serde(skip_serializing_if = "is_zero")]
    host: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct TcpSocket {
    port: IntOrString,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Exec {
    #[serde(skip_serializing_if = "is_zero")]
    command: Vec<String>,
}

impl HttpGet {
    fn from_hub(hub: &core::HTTPGetAction) -> Self {
        Self {
            path: hub.path.clone().unwrap_or_default(),
            port: IntOrString::from_hub(&hub.port),
            host: hub.host.clone().unwrap_or_default(),
        }
    }

    fn into_hub(self, at: &str, errors: &mut FieldErrors) -> core::HTTPGetAction {
        core::HTTPGetAction {
            path: non_empty(self.path),
            port: self.port.into_hub(format!("{at}.httpGet.port"), errors),
            host: non_empty(self.host),
            ..Default::default()
        }
    }
}

impl Exec {
    fn from_hub(hub: &core::ExecAction) -> Self {
        Self { command: hub.command.clone().unwrap_or_default() }
    }

    fn into_hub(self) -> core::ExecAction {
        core::ExecAction { command: non_zero(self.command) }
    }
}

impl LivenessProbe {
    pub(super) fn from_hub(hub: &core::Probe) -> Self {
        Self {
            http_get: hub.http_get.as_ref().map(HttpGet::from_hub),
            tcp_socket: hub.tcp_socket.as_ref().map(|t| TcpSocket { port: IntOrString::from_hub(&t.port) }),
            exec: hub.exec.as_ref().map(Exec::from_hub),
            initial_delay_seconds: hub.initial_delay_seconds.unwrap_or_default().into(),
        }
    }

    pub(super) fn into_hub(self, at: &str, errors: &mut FieldErrors) -> core::Probe {
        let delay = narrow(self.initial_delay_seconds, format!("{at}.initialDelaySeconds"), errors);
        core::Probe {
            http_get: self.http_get.map(|h| h.into_hub(at, errors)),
            tcp_socket: self.tcp_socket.map(|t| core::TCPSocketAction {
                port: t.port.into_hub(format!("{at}.tcpSocket.port"), errors),
                host: None,
            }),
            exec: self.exec.map(Exec::into_hub),
            initial_delay_seconds: non_zero(delay),
            ..Default::default()
        }
    }
}

impl Handler {
    fn from_hub(hub: &core::LifecycleHandler) -> Self {
        Self { exec: hub.exec.as_ref().map(Exec::from_hub), http_get: hub.http_get.as_ref().map(HttpGet::from_hub) }
    }

    fn into_hub(self, at: &str, errors: &mut FieldErrors) -> core::LifecycleHandler {
        let with_port = |mut get: HttpGet| {
            if get.port.is_unset() {
                get.port = IntOrString::Int(HOOK_PORT);
            }
            get
        };
        core::LifecycleHandler {
            exec: self.exec.map(Exec::into_hub),
            http_get: self.http_get.map(|h| with_port(h).into_hub(at, errors)),
            ..Default::default()
        }
    }
}

impl Lifecycle {
    pub(super) fn from_hub(hub: &core::Lifecycle) -> Self {
        Self {
            post_start: hub.post_start.as_ref().map(Handler::from_hub),
            pre_stop: hub.pre_stop.as_ref().map(Handler::from_hub),
        }
    }

    pub(super) fn into_hub(self, at: &str, errors: &mut FieldErrors) -> core::Lifecycle {
        core::Lifecycle {
            post_start: self.post_start.map(|h| h.into_hub(&format!("{at}.postStart"), errors)),
            pre_stop: self.pre_stop.map(|h| h.into_hub(&format!("{at}.preStop"), errors)),
            stop_signal: None,
        }
    }
}
