//! Port numbers, protocols and addresses, as several kinds have them.

use std::net::IpAddr;

use super::names::{PORT_NAME, Shown};
use crate::{IntOrString, error::FieldErrors};

/// What a port number must be.
pub const PORT_RULE: &str = "must be between 1 and 65535";
/// Protocols of ports.
pub const PROTOCOLS: [&str; 2] = ["TCP", "UDP"];

/// Whether the number is a port.
pub fn is_port(port: i32) -> bool {
    (1..=65535).contains(&port)
}

pub(crate) fn check_port(path: impl Into<String>, port: i32, errors: &mut FieldErrors) {
    if !is_port(port) {
        errors.invalid(path, port, PORT_RULE);
    }
}

/// A port by number or by name. An unquoted number in quotes, as `"80"`, is a name without a letter.
pub(crate) fn check_port_or_name(path: impl Into<String>, port: &IntOrString, errors: &mut FieldErrors) {
    match port {
        IntOrString::Int(number) => check_port(path, *number, errors),
        IntOrString::String(name) if !PORT_NAME.matches(name) => {
            let rule = format_args!("a number {PORT_RULE}; a name {}", PORT_NAME.rule);
            errors.invalid(path, Shown(name), rule);
        }
        IntOrString::String(_) => {}
    }
}

pub(crate) fn check_protocol(path: impl Into<String>, protocol: Option<&str>, errors: &mut FieldErrors) {
    check_one_of(path, protocol, &PROTOCOLS, errors);
}

/// A field with few values; unset and empty are left to the defaults.
pub(crate) fn check_one_of(path: impl Into<String>, value: Option<&str>, all: &[&str], errors: &mut FieldErrors) {
    if let Some(value) = value
        && !value.is_empty()
        && !all.contains(&value)
    {
        errors.not_supported(path, Shown(value), all);
    }
}

pub(crate) fn check_ip(path: impl Into<String>, ip: &str, errors: &mut FieldErrors) {
    if ip.parse::<IpAddr>().is_err() {
        errors.invalid(path, Shown(ip), "must be an IP address, such as 192.0.2.7");
    }
}
