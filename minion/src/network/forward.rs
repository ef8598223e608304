//! Lets packets for pods through Docker's packet filter.
//!
//! The engine drops what is forwarded to a bridge of its own from anywhere but that bridge, and
//! offers the chain `DOCKER-USER`, which it passes first and never empties, for exceptions. Ours:
//! from pods and nodes of the cluster, and what the service proxy has sent to a pod.
//!
//! Uses the `iptables` tool, which the engine itself needs, because rules of the `nft` tool in a chain
//! of `iptables` would make the chain unreadable to it.

use std::{io, process::Stdio, time::Duration};

use ipnet::Ipv4Net;
use tokio::process::Command;

use super::NetworkError;

const CHAIN: &str = "DOCKER-USER";
/// The tool waits for its lock so many seconds.
const LOCK_SECONDS: &str = "5";
const LIMIT: Duration = Duration::from_secs(10);

/// Which packets are let through to `bridge`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exceptions {
    pub(super) bridge: String,
    pub(super) pods_cidr: Ipv4Net,
}

impl Exceptions {
    /// The rules as `iptables -S` prints them, without the leading `-A DOCKER-USER `.
    fn rules(&self) -> [String; 2] {
        let Self { bridge, pods_cidr } = self;
        let mark = format!("-m comment --comment {bridge}");
        [
            format!("-s {pods_cidr} -o {bridge} {mark} -j ACCEPT"),
            format!("-o {bridge} -m conntrack --ctstate DNAT {mark} -j ACCEPT"),
        ]
    }

    /// Makes the rules exist where the engine has its chain. Where it has none (it filters nothing,
    /// or in another way) there is nothing to except from.
    pub(super) async fn ensure(&self) -> Result<(), NetworkError> {
        let Some(listing) = list().await? else { return Ok(()) };
        for rule in missing(&self.rules(), &listing) {
            tracing::debug!(rule, "letting packets for pods through the engine's filter");
            iptables(&format!("-I {CHAIN} {rule}")).await?;
        }
        Ok(())
    }
}

/// Removes every exception for `bridge`.
pub(super) async fn remove(bridge: &str) -> Result<(), NetworkError> {
    let listing = list().await?.unwrap_or_default();
    for rule in marked(bridge, &listing) {
        iptables(&format!("-D {CHAIN} {rule}")).await?;
    }
    Ok(())
}

fn rules_of(listing: &str) -> impl Iterator<Item = &str> {
    listing.lines().filter_map(|line| line.trim().strip_prefix("-A ")?.strip_prefix(CHAIN)).map(str::trim)
}

/// Which of the rules a listing lacks. A rule behind the chain's end never acts, so it counts as
/// lacking.
fn missing<'a>(rules: &'a [String], listing: &str) -> Vec<&'a str> {
    let acting: Vec<_> = rules_of(listing).take_while(|rule| *rule != "-j RETURN").collect();
    rules.iter().map(String::as_str).filter(|rule| !acting.contains(rule)).collect()
}

fn marked<'a>(bridge: &str, listing: &'a str) -> Vec<&'a str> {
    let mark = format!("--comment {bridge}");
    rules_of(listing).filter(|rule| rule.contains(&format!("{mark} "))).collect()
}

/// The rules of the engine's chain; `None` where there is no chain or no tool.
async fn list() -> Result<Option<String>, NetworkError> {
    match run(&["-S", CHAIN]).await {
        Ok((true, listing)) => Ok(Some(listing)),
        Ok((false, words)) if is_absence(&words) => Ok(None),
        Ok((false, output)) => Err(NetworkError::Filter { rule: format!("-S {CHAIN}"), output }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NetworkError::Filter { rule: format!("-S {CHAIN}"), output: error.to_string() }),
    }
}

/// Whether the tool says that there is no such chain or table. Anything else, such as a lock that
/// someone holds, says nothing about the rules.
fn is_absence(words: &str) -> bool {
    let signs = ["No chain/target/match by that name", "do you need to insmod?", "Protocol not supported"];
    signs.iter().any(|sign| words.contains(sign))
}

async fn iptables(line: &str) -> Result<(), NetworkError> {
    let words: Vec<_> = line.split(' ').collect();
    let refused = |output| NetworkError::Filter { rule: line.to_owned(), output };
    match run(&words).await {
        Ok((true, _)) => Ok(()),
        Ok((false, output)) => Err(refused(output)),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// Whether it succeeded, and what it said.
async fn run(arguments: &[&str]) -> io::Result<(bool, String)> {
    let mut command = Command::new("iptables");
    command.args(["-w", LOCK_SECONDS]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no end within {} s", LIMIT.as_secs()));
    let output = tokio::time::timeout(LIMIT, command.output()).await.map_err(late)??;
    let said = if output.status.success() { output.stdout } else { output.stderr };
    Ok((output.status.success(), String::from_utf8_lossy(&said).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exceptions() -> Exceptions {
        Exceptions { bridge: "cor-0a1b2c3d".into(), pods_cidr: "10.244.0.0/16".parse().unwrap() }
    }

    #[test]
    fn rules_that_are_there_and_act_are_left_alone() {
        let rules = exceptions().rules();
        let check = |listing: &str, expected: &[&str]| assert_eq!(missing(&rules, listing), expected, "{listing}");
        let all: String = rules.iter().map(|rule| format!("-A DOCKER-USER {rule}\n")).collect();
        check(&format!("-N DOCKER-USER\n{all}-A DOCKER-USER -j RETURN\n"), &[]);
        check(&format!("-N DOCKER-USER\n-A DOCKER-USER -j RETURN\n{all}"), &[&rules[0], &rules[1]]);
        check(&format!("-N DOCKER-USER\n-A DOCKER-USER {}\n", rules[1]), &[&rules[0]]);
        check("-N DOCKER-USER\n", &[&rules[0], &rules[1]]);
    }

    #[test]
    fn only_a_missing_chain_or_table_means_that_there_are_no_rules() {
        for words in [
            "iptables: No chain/target/match by that name.",
            "iptables v1.8.9 (legacy): can't initialize iptables table `filter': Table does not exist (do you need to insmod?)",
            "iptables/1.8.7 Failed to initialize nft: Protocol not supported",
        ] {
            assert!(is_absence(words), "{words}");
        }
        for words in [
            "Another app is currently holding the xtables lock; still 4s 0us time ahead to have a chance to grab the lock...",
            "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)",
            "iptables v1.8.7 (nf_tables): chain `DOCKER-USER' in table `filter' is incompatible, use 'nft' tool.",
            "",
        ] {
            assert!(!is_absence(words), "{words}");
        }
    }

    #[test]
    fn only_the_rules_of_one_bridge_are_removed() {
        let other = Exceptions { bridge: "cor-0a1b2c3dd".into(), ..exceptions() };
        let lines = exceptions().rules().into_iter().chain(other.rules()).map(|r| format!("-A DOCKER-USER {r}\n"));
        let listing: String = lines.chain(["-A DOCKER-USER -s 192.0.2.1/32 -j DROP\n".to_owned()]).collect();
        assert_eq!(marked("cor-0a1b2c3d", &listing), exceptions().rules());
    }
}
