//! Where a probe or hook is sent: hosts and ports, by number or by the name of a containerPort.

use std::net::IpAddr;

use coracle_api::{
    IntOrString,
    core::{Container, GRPCAction},
};

use super::Question;

/// The container that a probe or hook is for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its spec, for named ports.
    pub container: &'a Container,
    /// The pod's address: the default host.
    pub ip: IpAddr,
}

impl Target<'_> {
    /// The host asked for, or the pod.
    pub(super) fn host(&self, host: Option<&str>) -> String {
        host.filter(|h| !h.is_empty()).map_or_else(|| self.ip.to_string(), str::to_owned)
    }

    /// The number of a port.
    pub(super) fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let name = match port {
            IntOrString::Int(number) => {
                let valid = u16::try_from(*number).ok().filter(|p| *p > 0);
                return valid.ok_or_else(|| format!("{number} is not a port: expected 1 to 65535"));
            }
            IntOrString::String(name) => name,
        };
        if let Ok(number) = name.parse::<u16>() {
            return Ok(number);
        }
        let ports = self.container.ports.iter().flatten();
        let named =
            ports.filter(|p| p.name.as_deref() == Some(name)).find_map(|p| u16::try_from(p.container_port).ok());
        named.ok_or_else(|| format!("container {} has no port named {name}; add it to its ports", self.container.name))
    }

    pub(super) fn tcp(&self, host: Option<&str>, port: &IntOrString) -> Result<Question, String> {
        Ok(Question::Tcp { host: self.host(host), port: self.port(port)? })
    }

    pub(super) fn grpc(&self, action: &GRPCAction) -> Result<Question, String> {
        let port = self.port(&IntOrString::Int(action.port))?;
        Ok(Question::Grpc { host: self.host(None), port, service: action.service.clone().unwrap_or_default() })
    }
}
