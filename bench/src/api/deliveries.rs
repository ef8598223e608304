//! What one watcher checks: every change of every writer, once, in order, under rising versions.

use anyhow::{Context, Result, ensure};

use super::scan;

/// A change that was the next one of its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Who made it.
    pub(crate) writer: usize,
    /// Which one of his it is, from 1.
    pub(crate) number: u64,
}

/// What a watcher has seen.
#[derive(Debug)]
pub(crate) struct Watcher {
    version: u64,
    /// The last number of each writer.
    last: Vec<u64>,
}

impl Watcher {
    /// One that has seen nothing.
    pub(crate) fn new(writers: usize) -> Self {
        Self { version: 0, last: vec![0; writers] }
    }

    /// Takes a line of the watch. An error when it is not what must come next.
    pub(crate) fn take(&mut self, line: &[u8]) -> Result<Expected> {
        let text = || String::from_utf8_lossy(&line[..line.len().min(300)]).into_owned();
        ensure!(line.starts_with(b"{\"type\":\"MODIFIED\""), "not a change: {}", text());
        let version = scan::version(line).with_context(|| format!("no version: {}", text()))?;
        let (writer, number) = scan::sequence(line).with_context(|| format!("no sequence: {}", text()))?;
        ensure!(version > self.version, "version {version} came after {}", self.version);
        let last = self.last.get_mut(writer).with_context(|| format!("an unknown writer: {}", text()))?;
        ensure!(number == *last + 1, "change {number} of writer {writer} came after {last}");
        (self.version, *last) = (version, number);
        Ok(Expected { writer, number })
    }
}

/// Cuts what arrives into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The beginning of a line whose end has not arrived.
    partial: Vec<u8>,
}

impl Lines {
    /// Takes a part and hands on each line that it ends.
    pub(crate) fn push(&mut self, mut part: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(end) = memchr::memchr(b'\n', part) {
            if self.partial.is_empty() {
                each(&part[..end]);
            } else {
                self.partial.extend_from_slice(&part[..end]);
                each(&self.partial);
                self.partial.clear();
            }
            part = &part[end + 1..];
        }
        self.partial.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(version: u64, seq: &str) -> String {
        format!(
            r#"{{"type":"MODIFIED","object":{{"metadata":{{"resourceVersion":"{version}","labels":{{"seq":"{seq}"}}}}}}}}"#
        )
    }

    #[test]
    fn what_comes_in_order_is_taken() {
        let mut watcher = Watcher::new(2);
        for (version, seq) in [(5, "0-1"), (6, "1-1"), (9, "0-2")] {
            assert!(watcher.take(line(version, seq).as_bytes()).is_ok(), "{seq}");
        }
    }

    #[test]
    fn lost_doubled_and_disordered_changes_are_noticed() {
        let refused = |next: &str| {
            let mut watcher = Watcher::new(2);
            watcher.take(line(5, "0-1").as_bytes()).unwrap();
            watcher.take(next.as_bytes()).unwrap_err().to_string()
        };
        assert!(refused(&line(6, "0-3")).contains("came after 1"));
        assert!(refused(&line(6, "0-1")).contains("came after 1"));
        assert!(refused(&line(5, "0-2")).contains("version 5"));
        assert!(refused(&line(6, "2-1")).contains("unknown writer"));
        assert!(refused(r#"{"type":"ERROR","object":{}}"#).contains("not a change"));
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        for step in 1..10 {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for part in b"one\n\nthree\nfo".chunks(step) {
                lines.push(part, |line| seen.push(String::from_utf8(line.to_vec()).unwrap()));
            }
            assert_eq!(seen, ["one", "", "three"], "{step}");
        }
    }
}
