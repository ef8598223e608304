//! Comparing printed tables with golden ones: what differs from run to run is masked, with the
//! padding that its width implies.

/// Splits a kubecfg table into its cells. The dashes row is the second line.
pub fn cells(table: &str) -> Vec<Vec<String>> {
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let mut starts: Vec<usize> = Vec::new();
    let dashes = lines.clone().next().unwrap_or_default();
    let mut gap = true;
    for (i, c) in dashes.char_indices() {
        if c == '-' && gap {
            starts.push(i);
        }
        gap = c == ' ';
    }
    std::iter::once(header)
        .chain(lines)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let ends = starts.iter().skip(1).copied().chain([usize::MAX]);
            starts.iter().zip(ends).map(|(s, e)| cut(line, *s, e)).collect()
        })
        .collect()
}

fn cut(line: &str, start: usize, end: usize) -> String {
    line.chars().skip(start).take(end.saturating_sub(start)).collect::<String>().trim_end().to_owned()
}

/// Prints cells as kubecfg does: each column but the last is padded to the larger of 20 and its
/// longest cell plus 3 (spec 4.3). An empty line follows.
pub fn print(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count() + 3).max().unwrap_or(0).max(20);
    let mut text = String::new();
    for row in rows {
        for (c, cell) in row.iter().enumerate() {
            if c + 1 < columns {
                text.push_str(&format!("{cell:<width$}", width = width(c)));
            } else {
                text.push_str(cell);
            }
        }
        text.push('\n');
    }
    text.push('\n');
    text
}
