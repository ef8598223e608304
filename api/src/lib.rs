//! What a Coracle cluster is made of.
//!
//! * [`kinds`]: the table of kinds, one row each; nothing else in the project lists them.
//! * [`objects`]: per kind, its defaults, validation and update rules on the `v1` hub types.
//! * [`v1beta1`]: the 2014 wire form, converted to and from the hub at the edge.
//! * [`selector`], [`quantity`], [`yaml`]: the small languages of the API.
//! * [`schedule`]: what a master answers to the question where pods would go.
//! * [`columns`]: what a listing shows of an object.
//! * [`error`]: the one error that travels over the wire, a `Status`.
//! * [`client`]: a typed client, and the list-then-watch loop on top of it.
//!
//! * [`clock`]: the time of day, for those who are given a clock.
//!
//! This crate does no I/O except in [`client`], reads no clock by itself and draws no random number.

pub mod client;
pub mod clock;
pub mod columns;
pub mod error;
pub mod file_lock;
pub mod kinds;
pub mod objects;
pub mod open_files;
pub mod quantity;
pub mod schedule;
pub mod selector;
pub mod v1beta1;
pub mod yaml;

/// The hub types, as published by `k8s-openapi`.
pub use k8s_openapi::api::core::v1 as core;
/// Metadata types shared by all kinds.
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
/// Integer-or-string, as in target ports.
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub use error::{ApiError, FieldError, FieldErrors};
pub use kinds::{Kind, Object, TypedObject};

/// Labels, selectors and annotations.
pub type StringMap = std::collections::BTreeMap<String, String>;

/// Prefix of every label, annotation and host object that Coracle owns.
pub const LABEL_PREFIX: &str = "io.coracle";
