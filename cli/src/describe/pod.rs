//! The page of a pod.

use jiff::Timestamp;
use serde_json::Value;

use super::{conditions, lines_of, sheet::Sheet};
use crate::{
    json::{list, number, text, time},
    output::{age::age, pod_status},
};

pub(super) fn describe(sheet: &mut Sheet, pod: &Value, now: Timestamp) {
    let (node, host) = (text(pod, "/spec/nodeName"), text(pod, "/status/hostIP"));
    sheet.field("Node", &if host.is_empty() { node.to_owned() } else { format!("{node}/{host}") });
    sheet.field("Status", &pod_status::of(pod, now).status);
    for (label, pointer) in [("Reason", "/status/reason"), ("Message", "/status/message")] {
        if !text(pod, pointer).is_empty() {
            sheet.field(label, text(pod, pointer));
        }
    }
    sheet.field("IP", text(pod, "/status/podIP"));
    let owner = list(pod, "/metadata/ownerReferences").iter().find(|o| o["controller"] == Value::Bool(true));
    if let Some(owner) = owner {
        sheet.field("Controlled By", &format!("{}/{}", text(owner, "/kind"), text(owner, "/name")));
    }
    sheet.field("Restart Policy", text(pod, "/spec/restartPolicy"));
    for (label, specs, statuses) in [
        ("Init Containers", "/spec/initContainers", "/status/initContainerStatuses"),
        ("Containers", "/spec/containers", "/status/containerStatuses"),
    ] {
        if list(pod, specs).is_empty() {
            continue;
        }
        sheet.heading(label);
        for container in list(pod, specs) {
            container_spec(sheet, container);
            let status = list(pod, statuses).iter().find(|s| s["name"] == container["name"]);
            if let Some(status) = status {
                sheet.deeper(|sheet| sheet.deeper(|sheet| container_status(sheet, status, now)));
            }
        }
    }
    volumes(sheet, pod);
    sheet.block("Conditions", &conditions(pod, now));
}

/// What a container is to be, under its name.
pub(super) fn container_spec(sheet: &mut Sheet, container: &Value) {
    sheet.deeper(|sheet| {
        sheet.heading(text(container, "/name"));
        sheet.deeper(|sheet| {
            sheet.field("Image", text(container, "/image"));
            for (label, pointer) in [("Command", "/command"), ("Args", "/args")] {
                let words: Vec<_> = list(container, pointer).iter().filter_map(Value::as_str).collect();
                if !words.is_empty() {
                    sheet.field(label, &words.join(" "));
                }
            }
            list(container, "/ports").iter().for_each(|p| sheet.field("Port", &port(p)));
            for (label, pointer) in [("Limits", "/resources/limits"), ("Requests", "/resources/requests")] {
                let lines = lines_of(container, pointer);
                if !lines.is_empty() {
                    sheet.field(label, &lines.join(","));
                }
            }
            let env: Vec<_> = list(container, "/env").iter().map(variable).collect();
            if !env.is_empty() {
                sheet.list("Environment", &env);
            }
            list(container, "/volumeMounts").iter().for_each(|m| sheet.field("Mount", &mount(m)));
        });
    });
}

fn port(port: &Value) -> String {
    let protocol = text(port, "/protocol");
    let protocol = if protocol.is_empty() { "TCP" } else { protocol };
    let mut line = format!("{}/{protocol}", number(port, "/containerPort"));
    if number(port, "/hostPort") > 0 {
        line.push_str(&format!(", on the host at {}", number(port, "/hostPort")));
    }
    line
}

fn variable(variable: &Value) -> String {
    let from = variable.get("valueFrom").map(|_| "<from elsewhere>");
    format!("{}={}", text(variable, "/name"), from.unwrap_or(text(variable, "/value")))
}

fn mount(mount: &Value) -> String {
    let read_only = if mount["readOnly"] == Value::Bool(true) { " (read only)" } else { "" };
    format!("{} from {}{read_only}", text(mount, "/mountPath"), text(mount, "/name"))
}

fn container_status(sheet: &mut Sheet, status: &Value, now: Timestamp) {
    sheet.field("State", &state(&status["state"], now));
    let last = state(&status["lastState"], now);
    if !last.is_empty() {
        sheet.field("Last State", &last);
    }
    sheet.field("Ready", if status["ready"] == Value::Bool(true) { "yes" } else { "no" });
    sheet.field("Restarts", &number(status, "/restartCount").to_string());
}

fn state(state: &Value, now: Timestamp) -> String {
    let with = |word: String, detail: &str| if detail.is_empty() { word } else { format!("{word}: {detail}") };
    if let Some(waiting) = state.get("waiting").filter(|s| !s.is_null()) {
        let word = with("waiting".to_owned(), text(waiting, "/reason"));
        return with(word, text(waiting, "/message"));
    }
    if let Some(running) = state.get("running").filter(|s| !s.is_null()) {
        return match time(running, "/startedAt") {
            Some(started) => format!("running for {}", age(Some(started), now)),
            None => "running".to_owned(),
        };
    }
    let Some(ended) = state.get("terminated").filter(|s| !s.is_null()) else { return String::new() };
    let word = with(format!("ended with exit code {}", number(ended, "/exitCode")), text(ended, "/reason"));
    let word = with(word, text(ended, "/message"));
    match time(ended, "/finishedAt") {
        Some(finished) => format!("{word} ({} ago)", age(Some(finished), now)),
        None => word,
    }
}

fn volumes(sheet: &mut Sheet, pod: &Value) {
    let volumes = list(pod, "/spec/volumes");
    if volumes.is_empty() {
        return;
    }
    sheet.heading("Volumes");
    sheet.deeper(|sheet| {
        for volume in volumes {
            let source = volume.as_object().into_iter().flatten().find(|(k, v)| *k != "name" && !v.is_null());
            let source = source.map_or_else(String::new, |(kind, source)| match text(source, "/path") {
                "" => kind.clone(),
                path => format!("{kind} {path}"),
            });
            sheet.field(text(volume, "/name"), &source);
        }
    });
}
