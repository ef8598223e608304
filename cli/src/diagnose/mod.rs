//! Why something does not work, in one sentence of cause and one of remedy.
//!
//! Pure: objects in, sentences out. The first rule that holds wins, the most fundamental first:
//! a pod whose node is lost is not told about its readiness probe.

mod controller;
mod node;
mod pod;
mod service;

pub(crate) use controller::diagnose_controller;
pub(crate) use node::diagnose_node;
pub(crate) use pod::diagnose;
pub(crate) use service::diagnose_service;

/// What is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    /// What is wrong, as a sentence.
    pub(crate) cause: String,
    /// What to do about it, as a sentence.
    pub(crate) remedy: String,
}

impl Diagnosis {
    fn new(cause: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Self { cause: sentence(cause.as_ref()), remedy: sentence(remedy.as_ref()) }
    }
}

/// One sentence: one line, a capital first, a full stop last.
fn sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.trim_end_matches(['.', ':', ' ']);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests;
