//! A master made of one function: requests in, answers out, everything recorded.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

/// A request as the master saw it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// What the master answers.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: &'static str,
    pub(crate) body: String,
}

/// 200 with a JSON body.
pub(crate) fn ok(body: Value) -> Answer {
    answer(200, body)
}

/// A JSON body with a status.
pub(crate) fn answer(status: u16, body: Value) -> Answer {
    Answer { status, headers: "", body: body.to_string() }
}

/// A `Status` of failure.
pub(crate) fn failure(status: u16, reason: &str, message: &str) -> Answer {
    answer(status, json!({"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": status}))
}

/// A running fake master and a home directory of its own.
pub(crate) struct Fake {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    home: tempfile::TempDir,
}

impl Fake {
    /// Starts a master that answers with `serve`, which also gets the number of the request.
    pub(crate) fn start(serve: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (serve, log) = (Arc::new(serve), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (serve, log) = (serve.clone(), log.clone());
                std::thread::spawn(move || converse(stream, &*serve, &log));
            }
        });
        Self { url, requests, home: tempfile::tempdir().unwrap() }
    }

    /// A file in the home directory.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// The binary with these arguments, as `coracle`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command.args(args).env("KUBERNETES_MASTER", &self.url).env("HOME", self.home.path()).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// What was asked so far: `GET /path`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|r| format!("{} {}", r.method, r.path)).collect()
    }

    /// The body of the last request.
    pub(crate) fn last_body(&self) -> Value {
        self.requests.lock().unwrap().last().unwrap().body.clone()
    }
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The standard output of a run that must have gone well.
    pub(crate) fn good(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
}

fn converse(stream: TcpStream, serve: &dyn Fn(usize, &Request) -> Answer, log: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() || line.is_empty() {
        return;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if header.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let request = Request { method, path, body };
    let number = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.len() - 1
    };
    let Answer { status, headers, body } = serve(number, &request);
    let head = format!("HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nConnection: close\r\n{headers}\r\n");
    // The client may have had enough.
    let _ = reader.get_mut().write_all(format!("{head}{body}").as_bytes());
}
