//! Tables in kubectl's style: columns three spaces apart, no borders, no trailing spaces.

use unicode_width::UnicodeWidthStr;

const GAP: usize = 3;

/// Rows under a header. Remembers its widths, so that rows added by a watch line up.
#[derive(Debug)]
pub(crate) struct Table {
    widths: Vec<usize>,
    header: Option<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { widths: vec![0; columns.len()], header: Some(columns.iter().map(|c| (*c).to_owned()).collect()) }
    }

    /// A table without a header.
    pub(crate) fn headless(columns: usize) -> Self {
        Self { widths: vec![0; columns], header: None }
    }

    /// The rows as text; the first call writes the header above them.
    pub(crate) fn render(&mut self, rows: &[Vec<String>]) -> String {
        let header = self.header.take();
        let lines: Vec<&Vec<String>> = header.iter().chain(rows).collect();
        for line in &lines {
            for (width, cell) in self.widths.iter_mut().zip(line.iter()) {
                *width = (*width).max(cell.width());
            }
        }
        lines.iter().map(|line| self.line(line)).collect()
    }

    fn line(&self, cells: &[String]) -> String {
        let mut out = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            // One object is one line, and no text of an object drives the terminal.
            let cell: String = cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            out.push_str(&cell);
            out.extend(std::iter::repeat_n(' ', (width + GAP).saturating_sub(cell.width())));
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|r| r.iter().map(|c| (*c).to_owned()).collect()).collect()
    }

    #[test]
    fn columns_are_three_apart_and_lines_have_no_trailing_spaces() {
        let mut table = Table::new(&["NAME", "AGE", "NOTE"]);
        let text = table.render(&rows(&[&["jenkins", "5s", ""], &["a", "10m", "é"]]));
        assert_eq!(text, "NAME      AGE   NOTE\njenkins   5s\na         10m   é\n");
    }

    #[test]
    fn later_rows_line_up_with_earlier_ones() {
        let mut table = Table::new(&["NAME", "AGE"]);
        table.render(&rows(&[&["jenkins", "5s"]]));
        assert_eq!(table.render(&rows(&[&["a", "6s"]])), "a         6s\n");
    }
}
