//! Which data plane serves the portals: the kernel's where it can, as it costs least.

use std::{fmt, str::FromStr};

use super::{ProxyConfig, ProxyError, nftables};

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyMode {
    /// nftables where it can be used, else userspace.
    #[default]
    Auto,
    /// nftables, and errors where it can't be used.
    Nftables,
    /// Userspace.
    Userspace,
}

impl FromStr for ProxyMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "nftables" => Ok(Self::Nftables),
            "userspace" => Ok(Self::Userspace),
            _ => Err("expected auto, nftables or userspace".into()),
        }
    }
}

/// A data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plane {
    Nftables,
    Userspace,
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Plane::Nftables => "nftables",
            Plane::Userspace => "userspace",
        })
    }
}

/// A data plane and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) plane: Plane,
    pub(super) reason: String,
}

/// Chooses a data plane, after a try where the operator leaves it open.
pub(super) async fn choose(config: &ProxyConfig) -> Choice {
    let tried = match config.mode {
        ProxyMode::Auto => Some(nftables::probe(config).await),
        ProxyMode::Nftables | ProxyMode::Userspace => None,
    };
    decide(config.mode, tried)
}

fn decide(mode: ProxyMode, tried: Option<Result<(), ProxyError>>) -> Choice {
    let (plane, reason) = match (mode, tried) {
        (ProxyMode::Nftables, _) => (Plane::Nftables, "as configured".to_owned()),
        (ProxyMode::Userspace, _) => (Plane::Userspace, "as configured".to_owned()),
        (ProxyMode::Auto, Some(Err(error))) => (Plane::Userspace, format!("nftables can't be used: {error}")),
        (ProxyMode::Auto, _) => (Plane::Nftables, "the kernel takes its rules".to_owned()),
    };
    Choice { plane, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_open_choice_depends_on_what_the_host_can_do() {
        let check = |mode, tried, plane, reason: &str| {
            let choice = decide(mode, tried);
            assert_eq!(choice.plane, plane);
            assert!(choice.reason.starts_with(reason), "{choice:?}");
        };
        check(ProxyMode::Auto, Some(Ok(())), Plane::Nftables, "the kernel takes");
        check(ProxyMode::Auto, Some(Err(ProxyError::Missing)), Plane::Userspace, "nftables can't be used: nft was not");
        check(ProxyMode::Nftables, None, Plane::Nftables, "as configured");
        check(ProxyMode::Userspace, None, Plane::Userspace, "as configured");
    }

    #[test]
    fn modes_have_names() {
        assert_eq!("auto".parse(), Ok(ProxyMode::default()));
        assert_eq!("userspace".parse(), Ok(ProxyMode::Userspace));
        assert_eq!("nftables".parse(), Ok(ProxyMode::Nftables));
        assert!("iptables".parse::<ProxyMode>().unwrap_err().contains("auto, nftables or userspace"));
    }
}
