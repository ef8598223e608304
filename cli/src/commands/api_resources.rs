//! `coracle api-resources`: the table of kinds.

use coracle_api::kinds::KINDS;

use crate::{
    failure::Outcome,
    output::{self, table::Table},
};

pub(crate) fn run() -> Outcome {
    let rows: Vec<_> = KINDS
        .iter()
        .filter(|k| k.stored)
        .map(|k| {
            vec![
                k.plural.to_owned(),
                k.short_names.join(","),
                "v1".to_owned(),
                k.namespaced.to_string(),
                k.kind.to_owned(),
                k.v1beta1_plural.unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    output::write(&Table::new(&["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND", "V1BETA1"]).render(&rows))
}
