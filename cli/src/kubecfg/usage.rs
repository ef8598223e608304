//! kubecfg's help.

use super::{flags, resource::Resource};

/// The whole usage text, as after a bad flag or without arguments.
pub(crate) fn usage(program: &str) -> String {
    let resources = Resource::choices();
    format!(
        "Usage: {program} [flags] <verb> [arguments]\n\
         \n\
         Objects:\n\
         \x20 kubecfg [OPTIONS] list|create|print <{resources}>\n\
         \x20 kubecfg [OPTIONS] get|update|delete <{resources}>/<id>\n\
         \n\
         Replication controllers:\n\
         \x20 kubecfg [OPTIONS] run <image> <replicas> <controller>\n\
         \x20 kubecfg [OPTIONS] resize <controller> <replicas>\n\
         \x20 kubecfg [OPTIONS] rollingupdate <controller>\n\
         \x20 kubecfg [OPTIONS] stop|rm <controller>\n\
         \n\
         Namespace:\n\
         \x20 kubecfg [OPTIONS] ns [<namespace>]\n\
         \n\
         All flags stand before the verb; -h is the master's host. Flags:\n{}",
        flags::describe()
    )
}

/// The line for a verb with the wrong arguments.
pub(crate) fn of_verb(verb: &str) -> String {
    let resources = Resource::choices();
    match verb {
        "list" | "create" | "print" => format!("usage: kubecfg [OPTIONS] {verb} <{resources}>"),
        "get" | "update" | "delete" => format!("usage: kubecfg [OPTIONS] {verb} <{resources}>/<id>"),
        "run" => "usage: kubecfg [OPTIONS] run <image> <replicas> <name>".to_owned(),
        "resize" => "usage: kubecfg [OPTIONS] resize <controller> <replicas>".to_owned(),
        "ns" => "usage: kubecfg [OPTIONS] ns [<namespace>]".to_owned(),
        _ => format!("usage: kubecfg [OPTIONS] {verb} <controller>"),
    }
}
