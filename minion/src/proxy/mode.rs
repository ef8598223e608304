//! Which data plane serves the portals: the kernel's where it can, as it costs least.

use std::{fmt, str::FromStr, time::Duration};

use super::{ProxyConfig, ProxyError, nftables};

/// Tries of the kernel's data plane that a failure which says nothing about it is forgiven, and the pause
/// between them: a host that boots is short of everything.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_secs(2);

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
        ProxyMode::Auto => Some(patiently(|| nftables::probe(config)).await),
        ProxyMode::Nftables | ProxyMode::Userspace => None,
    };
    if let Some(Err(error)) = &tried {
        tracing::warn!(%error, "nftables can't be used: in userspace, services do not see their clients' addresses");
    }
    decide(config.mode, tried)
}

async fn patiently<F: Future<Output = Result<(), ProxyError>>>(mut probe: impl FnMut() -> F) -> Result<(), ProxyError> {
    for _ in 1..TRIES {
        match probe().await {
            Err(error @ (ProxyError::Timeout { .. } | ProxyError::Run(_))) => {
                tracing::warn!(%error, "nftables could not be tried; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            told => return told,
        }
    }
    probe().await
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

    #[tokio::test(start_paused = true)]
    async fn a_try_that_says_nothing_of_the_kernel_is_repeated_and_a_refusal_is_not() {
        let late = || Err(ProxyError::Timeout { what: "a probe table", seconds: 30 });
        let refused = || Err(ProxyError::Refused { what: "a probe table", output: "no".into() });
        for (mut answers, good, left) in [
            (vec![Ok(()), late(), late()], true, 0),
            (vec![Ok(()), late(), late(), late()], false, 1),
            (vec![Ok(()), refused()], false, 1),
            (vec![Ok(()), Ok(())], true, 1),
        ] {
            let told = patiently(|| std::future::ready(answers.pop().unwrap())).await;
            assert_eq!((told.is_ok(), answers.len()), (good, left), "{told:?}");
        }
    }

    #[test]
    fn modes_have_names() {
        assert_eq!("auto".parse(), Ok(ProxyMode::default()));
        assert_eq!("userspace".parse(), Ok(ProxyMode::Userspace));
        assert_eq!("nftables".parse(), Ok(ProxyMode::Nftables));
        assert!("iptables".parse::<ProxyMode>().unwrap_err().contains("auto, nftables or userspace"));
    }
}
