//! Per kind: its row, defaults, validation and update rules on the `v1` hub type.

pub mod binding;
pub mod endpoints;
pub mod event;
pub mod metadata;
pub mod names;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod ports;
pub mod replacement;
pub mod replication_controller;
pub mod service;
