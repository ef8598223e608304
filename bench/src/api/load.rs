//! The load: several connections, each with one request in flight, and what they measured together.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;

use super::{
    connection::{Answer, Connection},
    histogram::Histogram,
    report::Row,
    subject::Subject,
    usage::Usage,
};

/// Beyond the time that a measurement runs, for the last answers.
const GRACE: Duration = Duration::from_secs(60);

/// What one connection asks for, one request after the other.
pub(super) trait Work {
    /// Writes the next request; false when there is none.
    fn next(&mut self, request: &mut Vec<u8>) -> bool;
    /// The status code of success.
    fn expects(&self) -> u16;
    /// Looks at the answer.
    fn answered(&mut self, _start_of_body: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// What was measured over all connections.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Time of each request.
    pub(super) times: Histogram,
    /// Bytes of request bodies and heads, and of answers' bodies.
    pub(super) bytes: u64,
}

/// Runs each work on a connection of its own until it ends or the time is over, and returns them
/// with a row that still lacks its name.
pub(super) async fn run<W: Work>(subject: &Subject, works: Vec<W>, time: Duration) -> Result<(Vec<W>, Row)> {
    let count = works.len();
    let connections = try_join_all(works.iter().map(|_| Connection::open(&subject.target))).await?;
    let tally = RefCell::new(Tally::default());
    let before = Usage::now(subject)?;
    let started = Instant::now();
    let until = started + time;
    let runs = works.into_iter().zip(connections).map(|(work, connection)| drive(connection, work, until, &tally));
    let works =
        tokio::time::timeout(time + GRACE, try_join_all(runs)).await.context("the server does not answer")??;
    let elapsed = started.elapsed();
    let cost = before.until(subject)?;
    let tally = tally.into_inner();
    Ok((works, Row::of(count, elapsed, &tally.times, tally.bytes, cost)))
}

async fn drive<W: Work>(mut connection: Connection, mut work: W, until: Instant, tally: &RefCell<Tally>) -> Result<W> {
    let mut request = Vec::with_capacity(4 << 10);
    loop {
        request.clear();
        let begun = Instant::now();
        if begun >= until || !work.next(&mut request) {
            return Ok(work);
        }
        let answer = connection.exchange(&request).await?;
        let took = begun.elapsed();
        check(work.expects(), answer, &request, &connection)?;
        work.answered(connection.start_of_body())?;
        let mut tally = tally.borrow_mut();
        tally.times.record(took);
        tally.bytes += request.len() as u64 + answer.bytes;
    }
}

/// An answer other than the expected one ends the measurement: its figures would mean nothing.
fn check(expected: u16, answer: Answer, request: &[u8], connection: &Connection) -> Result<()> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
    ensure!(
        answer.status == expected,
        "answered with {} instead of {expected}: {}\nto: {}",
        answer.status,
        text(connection.start_of_body()),
        text(without_headers(&String::from_utf8_lossy(request)).as_bytes())
    );
    Ok(())
}

/// A request's first line and its body: a header may hold a token, which no error shows.
fn without_headers(request: &str) -> String {
    let (head, body) = request.split_once("\r\n\r\n").unwrap_or((request, ""));
    format!("{}\n{body}", head.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire;

    #[test]
    fn an_error_shows_a_request_without_its_token() {
        let mut request = Vec::new();
        wire::request_with(&mut request, "PUT", "/p", "Authorization: Bearer t\r\n", "application/json", b"{}");
        assert_eq!(without_headers(std::str::from_utf8(&request).unwrap()), "PUT /p HTTP/1.1\n{}");
        assert_eq!(without_headers("GET /p HTTP/1.1\r\nAuthorization: Bea"), "GET /p HTTP/1.1\n");
    }
}
