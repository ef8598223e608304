//! Lists of pods: a whole namespace, in pages, by label.

use std::time::Duration;

use anyhow::Result;

use super::{
    load::{self, Work},
    objects::collection,
    pods::{self, NAMESPACE_PODS, SHARDS},
    raw_server::RawServer,
    report::{Report, Row},
    scan,
    subject::Subject,
    target::Target,
    wire,
};

/// Objects of a page.
const PAGE: u64 = 500;
/// Time of each comparison with static bytes, at most.
const STATIC_TIME: Duration = Duration::from_secs(1);

/// One kind of list, over and over.
#[derive(Debug)]
struct List {
    headers: String,
    path: String,
    /// Where the next page starts.
    token: Option<String>,
}

impl Work for List {
    fn next(&mut self, request: &mut Vec<u8>) -> bool {
        match self.token.take() {
            Some(token) => {
                wire::request(request, "GET", &format!("{}&continue={}", self.path, escaped(&token)), &self.headers);
            }
            None => wire::request(request, "GET", &self.path, &self.headers),
        }
        true
    }
    fn expects(&self) -> u16 {
        200
    }
    fn answered(&mut self, start_of_body: &[u8]) -> Result<()> {
        if self.path.contains("limit=") {
            self.token = scan::next_page(start_of_body).map(str::to_owned);
        }
        Ok(())
    }
}

/// Measures all kinds of lists of one namespace of so many pods, each beside the same bytes from
/// a static buffer.
pub(super) async fn measure(
    subject: &Subject,
    report: &mut Report,
    objects: u64,
    connections: &[usize],
    time: Duration,
) -> Result<()> {
    let listed = objects.min(NAMESPACE_PODS);
    let path = collection(&pods::namespace(0));
    let raw = RawServer::start()?;
    let static_bytes = Subject::running(Target::plain(raw.address), vec![raw.process()]);
    for (what, query, each) in [
        (format!("list {listed}"), "?resourceVersion=0".to_owned(), listed),
        (format!("list pages of {PAGE}"), format!("?limit={PAGE}"), PAGE.min(listed)),
        (
            format!("list by label, {} of {listed}", listed / SHARDS),
            "?labelSelector=shard%3Ds7".into(),
            listed / SHARDS,
        ),
    ] {
        for count in connections.iter().copied() {
            let list = |_| List { headers: subject.headers(), path: format!("{path}{query}"), token: None };
            let (_, row) = load::run(subject, (0..count).map(list).collect(), time).await?;
            let (ours, size) = (row.clone(), row.bytes / row.count.max(1));
            report.row(what.clone(), objects, row);
            let same = |_| List { headers: static_bytes.headers(), path: format!("/{size}"), token: None };
            let (_, row) = load::run(&static_bytes, (0..count).map(same).collect(), time.min(STATIC_TIME)).await?;
            let what = format!("{what}, {each} pods each, {count} connections, {objects} pods");
            report.ratio(format!("{what}: share of static bytes"), ours.bytes_per_second() / row.bytes_per_second());
            let cpu = |row: &Row| row.server_cpu_seconds / row.bytes.max(1) as f64;
            report.ratio(format!("{what}: server processor time beside static"), cpu(&ours) / cpu(&row));
            report.row(format!("  {size} static bytes"), 0, row);
        }
    }
    Ok(())
}

/// The token as it goes into a query.
fn escaped(token: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    token.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_and_begin_again() {
        let mut list = List { headers: String::new(), path: "/p?limit=2".into(), token: None };
        let mut next = |answer: &str| {
            let mut request = Vec::new();
            assert!(list.next(&mut request));
            list.answered(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap().lines().next().unwrap_or_default().to_owned()
        };
        assert_eq!(next(r#"{"metadata":{"continue":"a=="}}"#), "GET /p?limit=2 HTTP/1.1");
        assert_eq!(next(r#"{"metadata":{}}"#), "GET /p?limit=2&continue=a%3D%3D HTTP/1.1");
        assert_eq!(next("{}"), "GET /p?limit=2 HTTP/1.1");
    }
}
