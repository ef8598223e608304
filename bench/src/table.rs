//! What was measured, as one table: each part adds its rows, whoever ran them prints all at once.

use std::time::Duration;

use coracle_tests::measure;

/// Columns of the first field.
const WIDTH: usize = 66;

/// One figure, and a peer's beside it where there is one.
#[derive(Debug)]
pub(crate) struct Row {
    what: String,
    ours: String,
    beside: Option<(&'static str, String, f64)>,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, ours: impl Into<String>) -> Self {
        Self { what: what.into(), ours: ours.into(), beside: None }
    }

    /// The median of some times, with their range.
    pub(crate) fn times(what: impl Into<String>, times: &[Duration]) -> Self {
        Self::new(what, summary(times))
    }

    /// The same of a peer in the same run, and the ratio of the medians: below 1 where ours is faster.
    pub(crate) fn beside(self, peer: &'static str, ours: &[Duration], theirs: &[Duration]) -> Self {
        let ratio = measure::median(ours).as_secs_f64() / measure::median(theirs).as_secs_f64();
        Self { beside: Some((peer, summary(theirs), ratio)), ..self }
    }
}

fn summary(times: &[Duration]) -> String {
    let ms = |t: Duration| t.as_secs_f64() * 1e3;
    let low = times.iter().min().copied().unwrap_or_default();
    let high = times.iter().max().copied().unwrap_or_default();
    format!("{:.0} ms ({:.0}-{:.0}, n={})", ms(measure::median(times)), ms(low), ms(high), times.len())
}

/// Prints them.
pub(crate) fn print(rows: &[Row]) {
    println!("{:<WIDTH$} {:>28}   {:<44} ratio", "measure", "Coracle", "beside");
    for Row { what, ours, beside } in rows {
        match beside {
            None => println!("{what:<WIDTH$} {ours:>28}"),
            Some((peer, theirs, ratio)) => {
                println!("{what:<WIDTH$} {ours:>28}   {:<44} {ratio:.2}", format!("{peer}: {theirs}"));
            }
        }
    }
}
