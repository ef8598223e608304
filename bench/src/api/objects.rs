//! Requests about single pods: create, update, get, delete.

use std::{collections::VecDeque, io::Write as _, ops::Range};

use anyhow::{Context, Result};

use super::{
    load::Work,
    pods::{Pod, write_json},
    scan, wire,
};

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
/// Pods whose version a connection keeps in mind.
const REMEMBERED: usize = 64;

/// The collection of a namespace.
pub(super) fn collection(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

fn path(pod: Pod) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", pod.namespace(), pod.name())
}

/// Shares `range` out to so many connections.
pub(super) fn shares(range: Range<u64>, connections: usize) -> Vec<Range<u64>> {
    let (count, total) = (connections as u64, range.end - range.start);
    (0..count).map(|i| range.start + total * i / count..range.start + total * (i + 1) / count).collect()
}

/// Creates pods in the order of their numbers.
#[derive(Debug)]
pub(super) struct Create {
    /// Header lines of each request.
    pub(super) headers: String,
    /// The numbers that are left.
    pub(super) left: Range<u64>,
    body: Vec<u8>,
}

impl Create {
    /// Creates the pods with these numbers.
    pub(super) fn new(headers: &str, numbers: Range<u64>) -> Self {
        Self { headers: headers.into(), left: numbers, body: Vec::new() }
    }
}

impl Work for Create {
    fn next(&mut self, request: &mut Vec<u8>) -> bool {
        let Some(number) = self.left.next() else { return false };
        let namespace = Pod(number).namespace();
        self.body.clear();
        write_json(&mut self.body, &namespace, &Pod(number).name(), number, "0-0");
        wire::request_with(request, "POST", &collection(&namespace), &self.headers, JSON, &self.body);
        true
    }
    fn expects(&self) -> u16 {
        201
    }
}

/// Removes pods at once.
#[derive(Debug)]
pub(super) struct Delete {
    /// Header lines of each request.
    pub(super) headers: String,
    /// The numbers that are left.
    pub(super) left: Range<u64>,
}

impl Work for Delete {
    fn next(&mut self, request: &mut Vec<u8>) -> bool {
        let Some(number) = self.left.next() else { return false };
        wire::request(request, "DELETE", &(path(Pod(number)) + "?gracePeriodSeconds=0"), &self.headers);
        true
    }
    fn expects(&self) -> u16 {
        200
    }
}

/// Reads pods in an order that no cache likes.
#[derive(Debug)]
pub(super) struct Get {
    /// Header lines of each request.
    pub(super) headers: String,
    /// Numbers to read.
    pub(super) pods: Range<u64>,
    /// Which one is next; any number.
    pub(super) at: u64,
}

impl Work for Get {
    fn next(&mut self, request: &mut Vec<u8>) -> bool {
        wire::request(request, "GET", &path(Pod(scattered(&self.pods, &mut self.at))), &self.headers);
        true
    }
    fn expects(&self) -> u16 {
        200
    }
}

/// How a pod is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A merge patch of one label.
    Patch,
    /// The same, of a version that must be the present one.
    PatchVersion,
    /// The whole object.
    Put,
}

impl Way {
    /// All, with their names.
    pub(super) const ALL: [(Self, &'static str); 3] = [
        (Self::Patch, "update: patch"),
        (Self::PatchVersion, "update: patch with version"),
        (Self::Put, "update: put"),
    ];
}

/// Changes the label `seq` of pods.
#[derive(Debug)]
pub(super) struct Update {
    headers: String,
    way: Way,
    pods: Range<u64>,
    at: u64,
    count: u64,
    body: Vec<u8>,
    /// Pods and their last version; the front one is next.
    versions: VecDeque<(u64, u64)>,
}

impl Update {
    /// Changes pods of `pods`, which are no one else's.
    pub(super) fn new(headers: &str, way: Way, pods: Range<u64>, seed: u64) -> Self {
        Self { headers: headers.into(), way, at: seed, count: seed, pods, body: Vec::new(), versions: VecDeque::new() }
    }

    /// Reads the versions that a conditional patch needs.
    pub(super) async fn prepare(&mut self, connection: &mut super::connection::Connection) -> Result<()> {
        if self.way != Way::PatchVersion {
            return Ok(());
        }
        for number in self.pods.clone().take(REMEMBERED) {
            let mut request = Vec::new();
            wire::request(&mut request, "GET", &path(Pod(number)), &self.headers);
            connection.exchange(&request).await?;
            let version = scan::version(connection.start_of_body()).context("a pod without resourceVersion")?;
            self.versions.push_back((number, version));
        }
        Ok(())
    }
}

impl Work for Update {
    fn next(&mut self, request: &mut Vec<u8>) -> bool {
        self.count += 1;
        self.body.clear();
        let (version, count) = (self.versions.front().copied(), self.count);
        let number = match (self.way, version) {
            (Way::PatchVersion, None) => return false,
            (Way::PatchVersion, Some((number, _))) => number,
            _ => scattered(&self.pods, &mut self.at),
        };
        let pod = Pod(number);
        if self.way == Way::Put {
            write_json(&mut self.body, &pod.namespace(), &pod.name(), number, &format!("0-{count}"));
        } else {
            let version = version.map(|(_, version)| format!(r#""resourceVersion":"{version}","#)).unwrap_or_default();
            // Writing to a vector can't fail.
            let _ = write!(self.body, r#"{{"metadata":{{{version}"labels":{{"seq":"0-{count}"}}}}}}"#);
        }
        let (method, media) = if self.way == Way::Put { ("PUT", JSON) } else { ("PATCH", MERGE_PATCH) };
        wire::request_with(request, method, &path(pod), &self.headers, media, &self.body);
        true
    }
    fn expects(&self) -> u16 {
        200
    }
    fn answered(&mut self, start_of_body: &[u8]) -> Result<()> {
        if let Some((number, _)) = self.versions.pop_front() {
            let version = scan::version(start_of_body).context("a pod without resourceVersion")?;
            self.versions.push_back((number, version));
        }
        Ok(())
    }
}

/// The next number of a sequence that visits all of `range` before any again, far apart.
fn scattered(range: &Range<u64>, at: &mut u64) -> u64 {
    // A prime larger than any range, so that its multiples meet every remainder.
    const STEP: u64 = 2_654_435_761;
    let count = (range.end - range.start).max(1);
    *at = at.wrapping_add(1);
    range.start + (u128::from(*at) * u128::from(STEP) % u128::from(count)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_share_pods_without_overlap() {
        assert_eq!(shares(10..21, 3), [10..13, 13..17, 17..21]);
        assert_eq!(shares(0..2, 3), [0..0, 0..1, 1..2]);
    }

    #[test]
    fn every_pod_is_visited_once_a_round() {
        let (range, mut at) = (5..1005, 77);
        let mut seen: Vec<u64> = (0..1000).map(|_| scattered(&range, &mut at)).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(range));
    }

    #[test]
    fn a_conditional_patch_names_the_version_of_the_answer_before() {
        let mut work = Update::new("", Way::PatchVersion, 0..1, 0);
        work.versions.push_back((0, 7));
        for expected in ["\"resourceVersion\":\"7\"", "\"resourceVersion\":\"8\""] {
            let mut request = Vec::new();
            assert!(work.next(&mut request));
            let text = String::from_utf8(request).unwrap();
            assert!(text.starts_with("PATCH /api/v1/namespaces/default/pods/pod-0000000 ") && text.contains(expected));
            work.answered(br#"{"metadata":{"resourceVersion":"8"}}"#).unwrap();
        }
        assert!(work.answered(b"{}").is_err());
    }
}
