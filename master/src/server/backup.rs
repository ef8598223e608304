//! `GET /coracle/v1/backup`: every object at one version, as the text that `coracle restore` reads.
//! A text that breaks off lacks its last line, and is refused by whoever reads it.

use jiff::Timestamp;

use super::{
    Shared,
    answer::{self, Response},
    request::Permit,
};
use crate::backup::Cut;

/// Answers a request for a backup. The permit is held until the text is sent or given up.
pub(crate) fn backup(shared: &Shared, permit: Permit) -> Response {
    let time = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let cut = Cut::new(&shared.registry, shared.facts.clone(), time.to_string());
    let parts = cut.map(move |part| {
        let _held = &permit;
        Ok(part)
    });
    answer::stream("application/jsonl", futures_util::stream::iter(parts))
}
