//! In which form answers are printed: JSON, YAML, a template, or a table, in that priority.

use super::{internal, request::Reply, table};
use crate::template::Template;

/// The form the user asked for.
pub(crate) enum Printer {
    Json,
    Yaml,
    Template(Template),
    Table,
}

impl Printer {
    /// The text for one answer.
    pub(crate) fn print(&self, reply: &Reply) -> Result<String, String> {
        match self {
            Printer::Json => Ok(format!("{}\n", reply.raw.trim_end())),
            Printer::Yaml => Ok(internal::to_yaml(&reply.object)),
            Printer::Template(template) => {
                let text = template.render(&reply.object).map_err(|e| format!("Error executing the template: {e}"))?;
                Ok(format!("{text}\n"))
            }
            Printer::Table => table::render(&reply.object),
        }
    }
}
