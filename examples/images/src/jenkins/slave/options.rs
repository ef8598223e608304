//! The slave's command line, as the article's manifest spells it.

use std::fmt;

use crate::jenkins::protocol::parse_executors;

const USAGE: &str =
    "usage: jenkins-slave -master http://HOST:PORT -tunnel HOST:PORT [-username NAME] [-password WORD] [-executors N]";

/// Where the master is. The user name and the password are accepted and not used: the stand-in has no accounts.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// `host:port` of the master's HTTP service.
    pub master: String,
    /// `host:port` of the master's service for slaves.
    pub tunnel: String,
    /// How many builds to run at a time.
    pub executors: u8,
}

/// What is wrong with a command line.
#[derive(Debug, PartialEq, Eq)]
pub enum OptionsError {
    /// It is not one of this program; the text names the part that is wrong.
    Usage(String),
    /// The named flag has an address without host or port.
    EmptyAddress(&'static str),
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => write!(f, "{text}; {USAGE}"),
            Self::EmptyAddress(flag) => write!(
                f,
                "{flag} has no host or no port: the variables it is made from are empty. Create the services jenkins and \
                 jenkins-slave before the slaves, so that their containers start with these variables"
            ),
        }
    }
}

impl Options {
    /// Reads the arguments after the program's name.
    pub fn parse(arguments: &[String]) -> Result<Self, OptionsError> {
        let (mut master, mut tunnel, mut executors) = (None, None, 1);
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            let value = rest.next().ok_or_else(|| OptionsError::Usage(format!("{flag} needs a value")))?;
            match flag.as_str() {
                "-master" => master = Some(master_address(value)?),
                "-tunnel" => tunnel = Some(address("-tunnel", value)?),
                "-username" | "-password" => {}
                "-executors" => {
                    executors = parse_executors(value)
                        .ok_or_else(|| OptionsError::Usage(format!("-executors {value} is not between 1 and 64")))?;
                }
                _ => return Err(OptionsError::Usage(format!("unknown argument {flag}"))),
            }
        }
        let missing = |flag: &str| OptionsError::Usage(format!("{flag} is missing"));
        Ok(Self {
            master: master.ok_or_else(|| missing("-master"))?,
            tunnel: tunnel.ok_or_else(|| missing("-tunnel"))?,
            executors,
        })
    }
}

fn master_address(url: &str) -> Result<String, OptionsError> {
    let authority = url
        .strip_prefix("http://")
        .ok_or_else(|| OptionsError::Usage(format!("-master {url} does not start with http://")))?;
    address("-master", authority.trim_end_matches('/'))
}

fn address(flag: &'static str, text: &str) -> Result<String, OptionsError> {
    match text.rsplit_once(':') {
        Some(("", _) | (_, "")) => Err(OptionsError::EmptyAddress(flag)),
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err(OptionsError::Usage(format!("{flag} {text} is not HOST:PORT"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, OptionsError> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn the_articles_command_line_is_understood() {
        let line = "-master http://10.0.188.133:8888 -tunnel 10.0.248.40:50000 -username jenkins -password jenkins -executors 1";
        let expected = Options { master: "10.0.188.133:8888".into(), tunnel: "10.0.248.40:50000".into(), executors: 1 };
        assert_eq!(parse(line), Ok(expected));
    }

    #[test]
    fn empty_variables_are_told_apart_from_wrong_use() {
        let empty = |line: &str, flag| assert_eq!(parse(line), Err(OptionsError::EmptyAddress(flag)), "{line}");
        empty("-master http://: -tunnel : -username jenkins -password jenkins -executors 1", "-master");
        empty("-master http://10.0.0.1:8888 -tunnel :50000", "-tunnel");
        empty("-master http://10.0.0.1:8888 -tunnel 10.0.0.2:", "-tunnel");
    }

    #[test]
    fn wrong_use_is_refused() {
        let lines = [
            "",
            "-master",
            "-master http://a:1",
            "-master ftp://a:1 -tunnel b:2",
            "-master http://a -tunnel b:2",
            "-master http://a:1 -tunnel b:99999",
            "-master http://a:1 -tunnel b:2 -executors 0",
            "-master http://a:1 -tunnel b:2 -verbose yes",
        ];
        for line in lines {
            assert!(matches!(parse(line), Err(OptionsError::Usage(_))), "{line}");
        }
    }
}
