//! The front end: the page, its form, and a probe's path.

use std::{fmt::Write, io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::timeout};

use super::{HTTP_PORT, KEY, bind, command::Command, connection::Connection, form, resp::Reply};
use crate::{
    escape,
    failure::{about, invalid},
    http::{self, Request, Response},
    log,
};

const MESSAGE_BYTES_MAX: usize = 500;
/// How many of the newest entries are shown.
const ENTRIES_SHOWN: i64 = 100;
/// For one exchange with the leader or a follower; a page is worth waiting for that long and no longer.
const BACKEND_TIMEOUT: Duration = Duration::from_secs(4);

/// A front end and the addresses behind it.
#[derive(Debug)]
pub(super) struct Frontend {
    pub(super) leader: String,
    pub(super) follower: String,
}

/// Runs the front end on its port until dropped.
pub(super) async fn run(leader: String, follower: String) -> io::Result<()> {
    let listener = bind(HTTP_PORT).await?;
    log::info(format_args!(
        "guestbook frontend: started on port {HTTP_PORT}, writes to {leader}, reads from {follower}"
    ));
    Frontend { leader, follower }.serve(listener).await;
    Ok(())
}

impl Frontend {
    /// Serves the page until dropped.
    pub(super) async fn serve(self, listener: TcpListener) {
        let frontend = Arc::new(self);
        http::serve(listener, move |request| {
            let frontend = Arc::clone(&frontend);
            async move { frontend.answer(request).await }
        })
        .await;
    }

    async fn answer(&self, request: Request) -> Response {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => self.show(page).await,
            ("GET", "/messages") => self.show(messages_json).await,
            ("POST", "/") => self.sign(&request.body).await,
            // Whether this process works; the probes of leader and followers speak for themselves.
            ("GET", "/healthz") => Response::text(200, "ok"),
            (_, path) => Response::refused(matches!(path, "/" | "/messages" | "/healthz")),
        }
    }

    async fn show(&self, render: fn(&[String]) -> Response) -> Response {
        let command = Command::Range { key: KEY.to_vec(), start: -ENTRIES_SHOWN, stop: -1 };
        match ask(&self.follower, command).await {
            Ok(Reply::Array(values)) => {
                render(&values.iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect::<Vec<_>>())
            }
            Ok(_) => unavailable("read", &invalid("unexpected reply")),
            Err(error) => unavailable("read", &error),
        }
    }

    async fn sign(&self, body: &[u8]) -> Response {
        let message = form::field(body, "message").unwrap_or_default();
        let message = message.trim();
        if message.is_empty() || message.len() > MESSAGE_BYTES_MAX {
            return Response::text(
                400,
                format!("a message has 1 to {MESSAGE_BYTES_MAX} bytes, in the form's field \"message\""),
            );
        }
        let command = Command::Push { key: KEY.to_vec(), values: vec![message.as_bytes().to_vec()] };
        match ask(&self.leader, command).await {
            Ok(_) => Response::see_other("/"),
            Err(error) => unavailable("written", &error),
        }
    }
}

async fn ask(address: &str, command: Command) -> io::Result<Reply> {
    let exchange = async { Connection::connect(address).await?.ask(command, BACKEND_TIMEOUT).await };
    timeout(BACKEND_TIMEOUT, exchange).await.map_err(io::Error::from).flatten().map_err(about(address))
}

fn unavailable(what: &str, error: &io::Error) -> Response {
    log::info(format_args!("guestbook frontend: the guestbook cannot be {what}: {error}"));
    Response::text(503, format!("the guestbook cannot be {what} just now: {error}"))
}

fn messages_json(messages: &[String]) -> Response {
    let messages: Vec<String> = messages.iter().map(|message| escape::json(message)).collect();
    Response::json(200, format!("[{}]", messages.join(",")))
}

fn page(messages: &[String]) -> Response {
    let mut out = "<!doctype html>\n<meta charset=\"utf-8\">\n<title>Guestbook</title>\n<h1>Guestbook</h1>\n\
         <form method=\"post\" action=\"/\"><input name=\"message\" autofocus> <button>Sign</button></form>\n<ul>\n"
        .to_owned();
    for message in messages.iter().rev() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "<li>{}</li>", escape::html(message));
    }
    out.push_str("</ul>\n");
    Response::html(out)
}
