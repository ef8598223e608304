//! Go's `text/template` over JSON, as `-template` takes it: fields, variables, pipelines, `if`,
//! `range`, `with`, comparisons and the built-in functions that make sense on JSON.
//!
//! Not here: named templates and methods. Numbers compare by value, whatever their form.
//! Invariant: no input panics; depth, steps and output are bounded.

mod eval;
mod functions;
mod lex;
mod parse;

use serde_json::Value;

/// A template's fault, with the line it is on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template: line {line}: {text}")]
pub(crate) struct TemplateError {
    line: usize,
    text: String,
}

impl TemplateError {
    fn new(line: usize, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }
}

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Parses the text; unknown functions and undefined variables are found here.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parse::parse(lex::lex(text)?)? })
    }

    /// Applies the template to a document.
    pub(crate) fn render(&self, data: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, data)
    }
}

#[cfg(test)]
mod tests;
