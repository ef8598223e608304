//! The rules on probes and lifecycle hooks, which share their handlers.

use crate::{
    core::{Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction},
    error::FieldErrors,
    objects::{
        names::{HEADER_NAME, Shown},
        ports::{check_one_of, check_port, check_port_or_name},
    },
};

pub(super) fn validate(path: &str, container: &Container, errors: &mut FieldErrors) {
    for (field, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let Some(probe) = probe else { continue };
        let path = format!("{path}.{field}");
        validate_probe(&path, probe, errors);
        if field == "readinessProbe" {
            if probe.termination_grace_period_seconds.is_some() {
                let detail = "a readiness probe ends no container: remove it";
                errors.forbidden(format!("{path}.terminationGracePeriodSeconds"), detail);
            }
        } else if let Some(times) = probe.success_threshold.filter(|t| *t > 1) {
            errors.invalid(format!("{path}.successThreshold"), times, "must be 1 except in a readinessProbe");
        }
    }
    if let Some(lifecycle) = &container.lifecycle {
        for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(hook) = hook {
                validate_hook(&format!("{path}.lifecycle.{field}"), hook, errors);
            }
        }
    }
}

fn validate_probe(path: &str, probe: &Probe, errors: &mut FieldErrors) {
    let set = [
        probe.exec.as_ref().map(|_| "exec"),
        probe.http_get.as_ref().map(|_| "httpGet"),
        probe.tcp_socket.as_ref().map(|_| "tcpSocket"),
        probe.grpc.as_ref().map(|_| "grpc"),
    ];
    exactly_one(path, set.into_iter().flatten().collect(), "exec, httpGet, tcpSocket or grpc", errors);
    check_exec(path, probe.exec.as_ref(), errors);
    check_http(path, probe.http_get.as_ref(), errors);
    check_tcp(path, probe.tcp_socket.as_ref(), errors);
    if let Some(GRPCAction { port, .. }) = &probe.grpc {
        check_port(format!("{path}.grpc.port"), *port, errors);
    }
    for (field, value, least) in [
        ("initialDelaySeconds", probe.initial_delay_seconds, 0),
        ("timeoutSeconds", probe.timeout_seconds, 1),
        ("periodSeconds", probe.period_seconds, 1),
        ("successThreshold", probe.success_threshold, 1),
        ("failureThreshold", probe.failure_threshold, 1),
    ] {
        if let Some(value) = value.filter(|v| *v < least) {
            errors.invalid(format!("{path}.{field}"), value, format_args!("must be at least {least}"));
        }
    }
    if let Some(grace) = probe.termination_grace_period_seconds.filter(|g| *g < 1) {
        errors.invalid(format!("{path}.terminationGracePeriodSeconds"), grace, "must be at least 1");
    }
}

fn validate_hook(path: &str, hook: &LifecycleHandler, errors: &mut FieldErrors) {
    let set = [
        hook.exec.as_ref().map(|_| "exec"),
        hook.http_get.as_ref().map(|_| "httpGet"),
        hook.tcp_socket.as_ref().map(|_| "tcpSocket"),
        hook.sleep.as_ref().map(|_| "sleep"),
    ];
    exactly_one(path, set.into_iter().flatten().collect(), "exec, httpGet or sleep", errors);
    check_exec(path, hook.exec.as_ref(), errors);
    check_http(path, hook.http_get.as_ref(), errors);
    check_tcp(path, hook.tcp_socket.as_ref(), errors);
    if let Some(sleep) = hook.sleep.as_ref().filter(|s| s.seconds < 0) {
        errors.invalid(format!("{path}.sleep.seconds"), sleep.seconds, "must be at least 0");
    }
}

fn exactly_one(path: &str, set: Vec<&str>, choice: &str, errors: &mut FieldErrors) {
    match set.as_slice() {
        [] => errors.required(path, format!("one handler must be set: {choice}")),
        [first, rest @ ..] => {
            for field in rest {
                let detail = format!("only one handler may be set, and {first} is: remove one of them");
                errors.forbidden(format!("{path}.{field}"), detail);
            }
        }
    }
}

fn check_exec(path: &str, exec: Option<&ExecAction>, errors: &mut FieldErrors) {
    if exec.is_some_and(|e| e.command.as_ref().is_none_or(Vec::is_empty)) {
        errors.required(format!("{path}.exec.command"), "the program and its arguments");
    }
}

fn check_tcp(path: &str, tcp: Option<&TCPSocketAction>, errors: &mut FieldErrors) {
    if let Some(tcp) = tcp {
        check_port_or_name(format!("{path}.tcpSocket.port"), &tcp.port, errors);
    }
}

fn check_http(path: &str, get: Option<&HTTPGetAction>, errors: &mut FieldErrors) {
    let Some(get) = get else { return };
    let path = format!("{path}.httpGet");
    check_port_or_name(format!("{path}.port"), &get.port, errors);
    check_one_of(format!("{path}.scheme"), get.scheme.as_deref(), &["HTTP", "HTTPS"], errors);
    if let Some(target) = get.path.as_deref().filter(|p| p.chars().any(char::is_control)) {
        errors.invalid(format!("{path}.path"), Shown(&target.escape_default().to_string()), "must be one line of text");
    }
    for (i, header) in get.http_headers.iter().flatten().enumerate() {
        HEADER_NAME.check(format!("{path}.httpHeaders[{i}].name"), &header.name, errors);
        if header.value.chars().any(char::is_control) {
            let shown = header.value.escape_default().to_string();
            errors.invalid(format!("{path}.httpHeaders[{i}].value"), Shown(&shown), "must be one line of text");
        }
    }
}
