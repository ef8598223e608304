//! What the master remembers, and its text form; no I/O here.
//!
//! The form is one fact per line: a header, `instance <uuid>`, `boots <n>`, and `build <number> <unix time> <slave> <host name>`
//! for each build, oldest first.

use std::fmt;

use crate::jenkins::name::Name;

const HEADER: &str = "coracle-jenkins 1";
/// Older builds are forgotten; their numbers are not used again.
const BUILDS_MAX: usize = 1000;

/// A build that has run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Build {
    /// Counts up from 1 for the life of the data directory.
    pub(super) number: u64,
    pub(super) unix_seconds: u64,
    pub(super) slave: Name,
    pub(super) hostname: Name,
}

/// Everything in the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct History {
    /// Made up once, when the data directory was empty.
    pub(super) instance: String,
    /// How many times a master has started with this data directory.
    pub(super) boots: u64,
    pub(super) builds: Vec<Build>,
}

impl History {
    /// The history of an empty data directory.
    pub(super) fn new(instance: String) -> Self {
        Self { instance, boots: 0, builds: Vec::new() }
    }

    /// Adds a build and gives it the next number.
    pub(super) fn add(&mut self, slave: Name, hostname: Name, unix_seconds: u64) -> Build {
        let number = self.builds.last().map_or(1, |last| last.number + 1);
        let build = Build { number, unix_seconds, slave, hostname };
        self.builds.push(build.clone());
        let surplus = self.builds.len().saturating_sub(BUILDS_MAX);
        self.builds.drain(..surplus);
        build
    }

    /// Reads the text form; the error is the number of the first line that is not understood.
    pub(super) fn parse(text: &str) -> Result<Self, usize> {
        let lines: Vec<&str> = text.lines().collect();
        let (Some(&HEADER), Some(instance), Some(boots)) = (lines.first(), lines.get(1), lines.get(2)) else {
            return Err(1);
        };
        let instance = instance.strip_prefix("instance ").ok_or(2_usize)?.to_owned();
        let boots = boots.strip_prefix("boots ").and_then(|n| n.parse().ok()).ok_or(3_usize)?;
        let builds = lines.iter().enumerate().skip(3).map(|(index, line)| parse_build(line).ok_or(index + 1));
        Ok(Self { instance, boots, builds: builds.collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\ninstance {}\nboots {}", self.instance, self.boots)?;
        for Build { number, unix_seconds, slave, hostname } in &self.builds {
            writeln!(f, "build {number} {unix_seconds} {slave} {hostname}")?;
        }
        Ok(())
    }
}

fn parse_build(line: &str) -> Option<Build> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["build", number, unix_seconds, slave, hostname] = words[..] else { return None };
    Some(Build {
        number: number.parse().ok()?,
        unix_seconds: unix_seconds.parse().ok()?,
        slave: Name::parse(slave)?,
        hostname: Name::parse(hostname)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn the_text_form_reads_back() {
        let mut history = History::new("6f1c".into());
        assert_eq!(History::parse(&history.to_string()), Ok(history.clone()));
        history.boots = 3;
        history.add(name("slave-1"), name("host-1"), 1_764_000_000);
        history.add(name("slave-2"), name("host-2"), 1_764_000_001);
        assert_eq!(History::parse(&history.to_string()), Ok(history));
    }

    #[test]
    fn an_unknown_line_is_named_by_its_number() {
        let check = |text: &str, line| assert_eq!(History::parse(text), Err(line), "{text:?}");
        check("", 1);
        check("something else\n", 1);
        check("coracle-jenkins 1\nboots 1\nboots 1\n", 2);
        check("coracle-jenkins 1\ninstance a\nboots x\n", 3);
        check("coracle-jenkins 1\ninstance a\nboots 1\nbuild 1 2 s h\nbuild 2 3 s\n", 5);
    }

    #[test]
    fn forgetting_old_builds_does_not_reuse_their_numbers() {
        let mut history = History::new("6f1c".into());
        for _ in 0..BUILDS_MAX + 5 {
            history.add(name("s"), name("h"), 0);
        }
        let numbers = (history.builds.first().map(|b| b.number), history.builds.last().map(|b| b.number));
        assert_eq!(numbers, (Some(6), Some(BUILDS_MAX as u64 + 5)));
    }
}
