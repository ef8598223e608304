//! What the engine's errors mean to the minion. Pure: texts in, [`RuntimeError`] out.
//!
//! The engine tells most faults apart only by their sentence; each sentence matched here is quoted
//! in the tests, from engines 20.10 to 28.

use bollard::errors::Error;

use crate::runtime::RuntimeError;

/// Translates an error of the client. `socket` names the engine in the text.
pub(super) fn from_client(socket: &str, error: Error) -> RuntimeError {
    let unreachable = |cause: String| RuntimeError::Unreachable { socket: socket.to_owned(), cause };
    match error {
        Error::DockerResponseServerError { status_code, message } => from_response(status_code, &message),
        Error::DockerStreamError { error } => RuntimeError::Image(error),
        Error::SocketNotFoundError(_) => unreachable("there is no such socket".into()),
        Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } | Error::IOError { .. } => {
            unreachable(innermost(&error))
        }
        Error::RequestTimeoutError => unreachable("it does not answer".into()),
        other => RuntimeError::Refused(innermost(&other)),
    }
}

/// Whether the engine says that it has no such object.
pub(super) fn is_absent(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::NotFound(_))
}

fn from_response(code: u16, message: &str) -> RuntimeError {
    let message = message.trim();
    if let Some(port) = taken_port(message) {
        return RuntimeError::PortTaken(port);
    }
    match code {
        404 => RuntimeError::NotFound(subject(message)),
        409 => match taken_name(message) {
            Some(name) => RuntimeError::NameTaken(name),
            None => RuntimeError::Refused(message.to_owned()),
        },
        _ => RuntimeError::Refused(message.to_owned()),
    }
}

/// `No such container: x` -> `container x`
fn subject(message: &str) -> String {
    let rest = ["No such ", "no such "].iter().find_map(|p| message.split_once(p)).map(|(_, rest)| rest);
    rest.map_or_else(|| message.to_owned(), |rest| rest.replacen(": ", " ", 1))
}

fn taken_name(message: &str) -> Option<String> {
    let (before, _) = message.split_once("is already in use")?;
    let name = before.split('"').nth(1)?;
    Some(name.trim_start_matches('/').to_owned())
}

fn taken_port(message: &str) -> Option<String> {
    if !message.contains("port is already allocated") && !message.contains("address already in use") {
        return None;
    }
    let address = ["Bind for ", "listen tcp", "listen udp", "host port "].iter().find_map(|p| {
        let start = message.find(p)? + p.len();
        Some(&message[start..])
    });
    // Behind the address, which has no part between colons that is a plain number.
    let port = address.and_then(|text| {
        let text = text.trim_start_matches(['4', '6', ' ']).trim_start_matches("for ");
        let word = text.split([' ', '/']).next()?;
        let word = match word.split_once(']') {
            Some((_, after)) => after,
            None => word.trim_start_matches(':'),
        };
        word.split(':').find(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    });
    Some(port.map_or_else(|| "(unknown)".to_owned(), str::to_owned))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: u16, message: &str, expected: &str) {
        assert_eq!(format!("{:?}", from_response(code, message)), expected, "{message}");
    }

    #[test]
    fn a_missing_object_is_named() {
        check(404, "No such container: abc", r#"NotFound("container abc")"#);
        check(404, "No such image: coracle/x:1", r#"NotFound("image coracle/x:1")"#);
        check(404, "network coracle-1 not found", r#"NotFound("network coracle-1 not found")"#);
    }

    #[test]
    fn a_taken_name_is_told_from_other_conflicts() {
        check(
            409,
            "Conflict. The container name \"/cor_web\" is already in use by container \"2f0e\". You have to remove \
             (or rename) that container to be able to reuse that name.",
            r#"NameTaken("cor_web")"#,
        );
        check(409, "Container 2f0e is not running", r#"Refused("Container 2f0e is not running")"#);
    }

    #[test]
    fn a_taken_port_is_recognised_in_each_of_the_engines_sentences() {
        for text in [
            "driver failed programming external connectivity on endpoint x (af): Bind for 0.0.0.0:8080 failed: port \
             is already allocated",
            "driver failed programming external connectivity on endpoint x (af): Bind for :::8080 failed: port is \
             already allocated",
            "driver failed programming external connectivity on endpoint x (af): Error starting userland proxy: \
             listen tcp4 0.0.0.0:8080: bind: address already in use",
            "failed to bind port [::]:8080/tcp: Error starting userland proxy: listen tcp6 [::]:8080: bind: address \
             already in use",
            "failed to set up container networking: driver failed programming external connectivity on endpoint x \
             (af): failed to bind host port for 0.0.0.0:8080:172.17.0.2:80/tcp: address already in use",
            "failed to bind host port 0.0.0.0:8080/tcp: address already in use",
        ] {
            check(500, text, r#"PortTaken("8080")"#);
        }
    }

    #[test]
    fn any_other_refusal_keeps_the_engines_words() {
        check(400, "Minimum memory limit allowed is 6MB", r#"Refused("Minimum memory limit allowed is 6MB")"#);
    }
}
