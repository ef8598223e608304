//! The master's paths, its page and its JSON.

use std::{
    fmt::Write,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::task::spawn_blocking;

use super::{
    history::{Build, History},
    home::Home,
    slaves::{NotBuilt, SlaveView, Slaves},
};
use crate::{
    escape,
    http::{Request, Response},
    log,
};

/// Answers one request.
pub(super) async fn answer(request: Request, home: Arc<Home>, slaves: Arc<Slaves>) -> Response {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/") => Response::html(page(&home.current(), &slaves.view())),
        ("GET", "/api/json") => Response::json(200, document(&home.current(), &slaves.view())),
        ("GET", "/login") => Response::text(200, "log in as anyone"),
        ("POST", "/build") => build(home, &slaves).await,
        (_, path) => Response::refused(matches!(path, "/" | "/api/json" | "/login" | "/build")),
    }
}

async fn build(home: Arc<Home>, slaves: &Slaves) -> Response {
    let finished = match slaves.build().await {
        Ok(finished) => finished,
        Err(reason) => {
            log::info(format_args!("jenkins: no build: {reason}"));
            let status = if reason == NotBuilt::NoneIdle { 503 } else { 502 };
            return Response::text(status, reason.to_string());
        }
    };
    let record = move || home.record(finished.slave, finished.hostname, unix_seconds_now());
    match spawn_blocking(record).await {
        Ok(Ok(build)) => {
            log::info(format_args!("jenkins: build {} ran on {}", build.number, build.hostname));
            Response::json(201, build_json(&build))
        }
        Ok(Err(error)) => {
            log::info(format_args!("jenkins: a build ran but could not be recorded: {error}"));
            Response::text(500, "the build ran but could not be recorded")
        }
        Err(_) => Response::text(500, "the build ran but the master is stopping"),
    }
}

fn unix_seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn document(history: &History, slaves: &[SlaveView]) -> String {
    let slaves: Vec<String> = slaves.iter().map(slave_json).collect();
    let builds: Vec<String> = history.builds.iter().map(build_json).collect();
    format!(
        r#"{{"instance":{},"boots":{},"slaves":[{}],"builds":[{}]}}"#,
        escape::json(&history.instance),
        history.boots,
        slaves.join(","),
        builds.join(","),
    )
}

// Names need no escaping, by their type.
fn slave_json(slave: &SlaveView) -> String {
    format!(r#"{{"name":"{}","executors":{},"busy":{}}}"#, slave.name, slave.executors, slave.busy)
}

fn build_json(build: &Build) -> String {
    let Build { number, unix_seconds, slave, hostname } = build;
    format!(
        r#"{{"number":{number},"result":"SUCCESS","slave":"{slave}","hostname":"{hostname}","timestamp":{unix_seconds}}}"#
    )
}

fn page(history: &History, slaves: &[SlaveView]) -> String {
    let mut out = format!(
        "<!doctype html>\n<title>Jenkins</title>\n<h1>Jenkins</h1>\n<p>Instance {}, boot {}.</p>\n\
         <form method=\"post\" action=\"/build\"><button>Build</button></form>\n<h2>Slaves</h2>\n<ul>\n",
        escape::html(&history.instance),
        history.boots,
    );
    // Writing to a String cannot fail.
    for SlaveView { name, executors, busy } in slaves {
        let _ = writeln!(out, "<li>{name}: {busy} of {executors} executors busy</li>");
    }
    out.push_str("</ul>\n<h2>Builds</h2>\n<ul>\n");
    for Build { number, hostname, .. } in history.builds.iter().rev() {
        let _ = writeln!(out, "<li>#{number} on {hostname}</li>");
    }
    out.push_str("</ul>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jenkins::name::Name;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn the_document_lists_slaves_and_builds() {
        let mut history = History::new("6f1c".into());
        history.add(name("s-1"), name("h-1"), 1_764_000_000);
        let slaves = [SlaveView { name: name("s-1"), executors: 2, busy: 1 }];
        assert_eq!(
            document(&history, &slaves),
            "{\"instance\":\"6f1c\",\"boots\":0,\"slaves\":[{\"name\":\"s-1\",\"executors\":2,\"busy\":1}],\
             \"builds\":[{\"number\":1,\"result\":\"SUCCESS\",\"slave\":\"s-1\",\"hostname\":\"h-1\",\"timestamp\":1764000000}]}"
        );
        assert!(page(&history, &slaves).contains("<li>#1 on h-1</li>"));
    }
}
