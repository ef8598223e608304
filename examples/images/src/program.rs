//! Which program to be: by the name the binary is called by (the images have links), or by the first argument.

use std::{io, path::PathBuf};

use crate::{
    echo::{self, Protocol},
    guestbook::{self, Role, discovery},
    jenkins::{master, slave},
};

const USAGE: &str = "usage: coracle-example jenkins | jenkins-slave ARGUMENTS | guestbook frontend|leader|follower | \
                     echo [PORT] | echo tcp|udp ADDRESS:PORT";
const JENKINS_HOME: &str = "/var/jenkins_home";
const GUESTBOOK_DATA: &str = "/data";

/// Looks up an environment variable.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A program of this binary with all it needs to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Program {
    /// The Jenkins master, with its data directory.
    Jenkins(PathBuf),
    /// A Jenkins slave.
    JenkinsSlave(slave::Options),
    /// A part of the guestbook.
    Guestbook(Role),
    /// A server that says who it is, on this port.
    Echo(u16),
    /// Its client, with the server's address.
    Ask(Protocol, String),
}

/// Why no program can be run; each text is one sentence for the user.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The command line is wrong.
    Usage(String),
    /// The command line is right and the environment lacks something.
    Environment(String),
}

impl Program {
    /// Reads the whole command line, the program's own name included.
    pub fn parse(words: Vec<String>, environment: &Environment<'_>) -> Result<Self, Refusal> {
        let called_as = words.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let named_by_link = matches!(called_as, "jenkins" | "jenkins-slave" | "guestbook" | "echo");
        let (name, arguments) = match words.get(1..).unwrap_or_default() {
            arguments if named_by_link => (called_as, arguments),
            [name, arguments @ ..] => (name.as_str(), arguments),
            [] => return Err(Refusal::Usage(USAGE.to_owned())),
        };
        match name {
            "jenkins" if arguments.is_empty() => {
                let home = environment("JENKINS_HOME").unwrap_or_else(|| JENKINS_HOME.to_owned());
                Ok(Self::Jenkins(home.into()))
            }
            "jenkins-slave" => Ok(Self::JenkinsSlave(slave::Options::parse(arguments)?)),
            "guestbook" => Ok(Self::Guestbook(role(arguments, environment)?)),
            "echo" => echo(arguments),
            _ => Err(Refusal::Usage(USAGE.to_owned())),
        }
    }

    /// Runs until dropped or until it fails.
    pub async fn run(self) -> io::Result<()> {
        match self {
            Self::Jenkins(home) => master::run(&home).await,
            Self::JenkinsSlave(options) => slave::run(options).await,
            Self::Guestbook(role) => guestbook::run(role).await,
            Self::Echo(port) => echo::serve(port).await,
            Self::Ask(protocol, address) => echo::ask(protocol, &address).await,
        }
    }
}

impl From<slave::OptionsError> for Refusal {
    fn from(error: slave::OptionsError) -> Self {
        match error {
            slave::OptionsError::Usage(_) => Self::Usage(error.to_string()),
            slave::OptionsError::EmptyAddress(_) => Self::Environment(error.to_string()),
        }
    }
}

fn echo(arguments: &[String]) -> Result<Program, Refusal> {
    let usage = || Refusal::Usage(USAGE.to_owned());
    match arguments {
        [] => Ok(Program::Echo(echo::PORT)),
        [port] => port.parse().map(Program::Echo).map_err(|_| usage()),
        [protocol, address] if protocol == "tcp" => Ok(Program::Ask(Protocol::Tcp, address.clone())),
        [protocol, address] if protocol == "udp" => Ok(Program::Ask(Protocol::Udp, address.clone())),
        _ => Err(usage()),
    }
}

fn role(arguments: &[String], environment: &Environment<'_>) -> Result<Role, Refusal> {
    let address = |service| discovery::address(service, environment).map_err(Refusal::Environment);
    match arguments {
        [role] if role == "frontend" => {
            Ok(Role::Frontend { leader: address("redis-master")?, follower: address("redis-slave")? })
        }
        [role] if role == "leader" => Ok(Role::Leader { data: GUESTBOOK_DATA.into() }),
        [role] if role == "follower" => Ok(Role::Follower { leader: address("redis-master")? }),
        _ => Err(Refusal::Usage(USAGE.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str, variables: &[(&str, &str)]) -> Result<Program, Refusal> {
        let words = line.split_whitespace().map(str::to_owned).collect();
        Program::parse(words, &|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_link_and_an_argument_name_the_same_program() {
        let leader = Ok(Program::Guestbook(Role::Leader { data: "/data".into() }));
        assert_eq!(parse("/usr/local/bin/guestbook leader", &[]), leader);
        assert_eq!(parse("coracle-example guestbook leader", &[]), leader);
        assert_eq!(parse("/usr/local/bin/jenkins", &[]), Ok(Program::Jenkins("/var/jenkins_home".into())));
        assert_eq!(parse("echo", &[]), Ok(Program::Echo(8080)));
        assert_eq!(parse("echo udp a:1", &[]), Ok(Program::Ask(Protocol::Udp, "a:1".into())));
        assert_eq!(parse("jenkins", &[("JENKINS_HOME", "/tmp/j")]), Ok(Program::Jenkins("/tmp/j".into())));
    }

    #[test]
    fn wrong_use_and_a_missing_service_are_different_refusals() {
        for line in [
            "",
            "coracle-example",
            "coracle-example redis",
            "jenkins --help",
            "guestbook",
            "guestbook leader now",
            "echo x",
            "echo sctp a:1",
            "jenkins-slave",
        ] {
            assert!(matches!(parse(line, &[]), Err(Refusal::Usage(_))), "{line}");
        }
        for line in ["guestbook frontend", "guestbook follower", "jenkins-slave -master http://: -tunnel :"] {
            assert!(matches!(parse(line, &[]), Err(Refusal::Environment(_))), "{line}");
        }
    }
}
