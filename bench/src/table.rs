//! What was measured, as one table: each part adds its rows.

use std::{fmt, time::Duration};

use coracle_tests::measure;

/// One figure, and a peer's beside it where there is one.
#[derive(Debug)]
pub(crate) struct Row {
    what: String,
    ours: String,
    beside: Option<Beside>,
}

#[derive(Debug)]
struct Beside {
    peer: &'static str,
    theirs: String,
    /// Of the medians: below 1 where ours is faster.
    ratio: f64,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, ours: impl Into<String>) -> Self {
        Self { what: what.into(), ours: ours.into(), beside: None }
    }

    /// The median of some times, with their range.
    pub(crate) fn times(what: impl Into<String>, times: &[Duration]) -> Self {
        Self::new(what, summary(times))
    }

    /// Two rows in one: our times, and those of a peer in the same run.
    pub(crate) fn beside(what: impl Into<String>, ours: &[Duration], peer: &'static str, theirs: &[Duration]) -> Self {
        let ratio = measure::median(ours).as_secs_f64() / measure::median(theirs).as_secs_f64();
        let beside = Beside { peer, theirs: summary(theirs), ratio };
        Self { beside: Some(beside), ..Self::times(what, ours) }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, ours, beside } = self;
        write!(f, "{what:<60} {ours:>29}")?;
        match beside {
            None => Ok(()),
            Some(Beside { peer, theirs, ratio }) => {
                write!(f, "   {:<58} {ratio:.2}", format!("{peer}: {theirs}"))
            }
        }
    }
}

fn summary(times: &[Duration]) -> String {
    let ms = |t: Duration| t.as_secs_f64() * 1e3;
    let low = times.iter().min().copied().unwrap_or_default();
    let high = times.iter().max().copied().unwrap_or_default();
    format!("{:.0} ms ({:.0}-{:.0}, n={})", ms(measure::median(times)), ms(low), ms(high), times.len())
}

/// Takes the parts' figures one after the other, and prints each part's when it has them.
pub(crate) fn print(parts: &[&dyn Fn() -> anyhow::Result<Vec<Row>>]) -> anyhow::Result<()> {
    println!("{:<60} {:>29}   {:<58} ratio", "measure", "Coracle", "beside");
    for part in parts {
        part()?.iter().for_each(|row| println!("{row}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_figure_and_a_peers_beside_it() {
        let words = |row: Row| row.to_string().split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        let times = |ms: [u64; 3]| ms.map(Duration::from_millis);
        assert_eq!(words(Row::new("on disk", "7 MB")), "on disk 7 MB");
        let (ours, theirs) = (times([30, 10, 20]), times([40, 50, 30]));
        let row = Row::beside("a kill", &ours, "docker", &theirs);
        assert_eq!(words(row), "a kill 20 ms (10-30, n=3) docker: 40 ms (30-50, n=3) 0.50");
        assert!(Row::times("a kill", &ours).to_string().ends_with("  20 ms (10-30, n=3)"));
    }
}
