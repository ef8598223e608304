//! A page of labelled lines, the values in one column.

/// Where values start.
const VALUE_COLUMN: usize = 19;

/// A page being written.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    out: String,
    depth: usize,
}

impl Sheet {
    /// `Label:   value`; an empty value reads `<none>`.
    pub(super) fn field(&mut self, label: &str, value: &str) {
        let indent = self.depth * 2;
        let label = format!("{}{label}: ", " ".repeat(indent));
        let value = if value.is_empty() { "<none>" } else { value };
        let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.out.push_str(&format!("{label:<VALUE_COLUMN$}{value}\n"));
    }

    /// A label with several values, one a line.
    pub(super) fn list(&mut self, label: &str, values: &[String]) {
        let Some((first, rest)) = values.split_first() else { return self.field(label, "") };
        self.field(label, first);
        for value in rest {
            self.out.push_str(&format!("{:<VALUE_COLUMN$}{value}\n", ""));
        }
    }

    /// A line that others follow, deeper.
    pub(super) fn heading(&mut self, label: &str) {
        self.out.push_str(&format!("{}{label}:\n", "  ".repeat(self.depth)));
    }

    /// Lines under a heading, or `<none>`.
    pub(super) fn block(&mut self, label: &str, text: &str) {
        if text.is_empty() {
            return self.field(label, "");
        }
        self.heading(label);
        for line in text.lines() {
            self.out.push_str(&format!("  {line}\n"));
        }
    }

    /// What `body` writes is one step deeper.
    pub(super) fn deeper(&mut self, body: impl FnOnce(&mut Self)) {
        self.depth += 1;
        body(self);
        self.depth -= 1;
    }

    pub(super) fn into_text(self) -> String {
        self.out
    }
}
