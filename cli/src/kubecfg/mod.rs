//! kubecfg of 0.5.4: its grammar, its `v1beta1` wire, its tables and its exit statuses.
//!
//! [`run`] is the one entry: arguments in, exit status out. 0 is success, 1 no arguments, 2 a bad
//! flag, 255 everything else, with one glog line on stderr and nothing on stdout.

mod body;
pub(crate) mod flags;
mod glog;
mod internal;
mod print;
mod request;
pub(crate) mod resource;
mod table;
mod usage;
mod verbs;
mod yaml;

use flags::Flags;
use verbs::Verdict;

use crate::{
    failure::client_sentence,
    output,
    session::{DEFAULT_MASTER, Session},
    template::Template,
};

/// The release whose command line this is.
const VERSION: &str = "v0.5.4";
const EXIT_NO_ARGUMENTS: u8 = 1;
const EXIT_BAD_FLAG: u8 = 2;
const EXIT_FATAL: u8 = 255;

/// What the process' environment tells.
pub(crate) struct Environment {
    /// `KUBERNETES_MASTER`
    pub(crate) master: Option<String>,
    /// `HOME`
    pub(crate) home: Option<String>,
}

/// Runs one command line (without the program's name) and returns the exit status.
pub(crate) async fn run(program: &str, args: &[String], environment: Environment) -> u8 {
    let flags = match Flags::parse(args) {
        Ok(flags) => flags,
        Err(error) => {
            let asked = error.ends_with(": -help");
            output::note(&if asked { usage::usage(program) } else { format!("{error}\n{}", usage::usage(program)) });
            return EXIT_BAD_FLAG;
        }
    };
    match execute(&flags, environment).await {
        Ok(Some(text)) => match output::write(&text) {
            Ok(()) => 0,
            Err(failure) if failure.exit_status() == 0 => 0,
            Err(failure) => fatal(&failure.to_string()),
        },
        Ok(None) => {
            output::note(&usage::usage(program));
            EXIT_NO_ARGUMENTS
        }
        Err(text) => fatal(&text),
    }
}

fn fatal(text: &str) -> u8 {
    output::note(&glog::fatal_line(text, &jiff::Zoned::now(), std::process::id()));
    EXIT_FATAL
}

/// The text to print; `None` when there was nothing to do.
async fn execute(flags: &Flags, environment: Environment) -> Result<Option<String>, String> {
    if flags.is_set("version") {
        return Ok(Some(format!("Kubernetes {VERSION}\n")));
    }
    for (flag, used) in [("proxy", flags.is_set("proxy")), ("www", !flags.text("www").is_empty())] {
        if used {
            return Err(format!("-{flag} is not supported: talk to the master directly"));
        }
    }
    if flags.text("api_version") != "v1beta1" {
        return Err(format!("-api_version {} is not supported; only v1beta1 is", flags.text("api_version")));
    }
    let session = Session::new(&server(flags, environment.master)).map_err(|e| client_sentence(&e))?;
    let file = body::NamespaceFile::new(flags.text("ns_file"), environment.home);
    let (verb, words) = match flags.words.split_first() {
        Some((verb, words)) => (verb.as_str(), words),
        None if flags.is_set("server_version") => ("", &flags.words[..]),
        None => return Ok(None),
    };
    if verb == "ns" {
        return verbs::namespace(&file, words).map(Some);
    }
    let namespace = match flags.text("ns") {
        "" => file.load()?,
        given => given.to_owned(),
    };
    let master = request::Master::new(session, namespace, flags.is_set("verbose"));
    if flags.is_set("server_version") || flags.is_set("expect_version_match") {
        let server = server_version(&master).await?;
        if flags.is_set("server_version") {
            return Ok(Some(format!("Server: Kubernetes {server}\n")));
        }
        if server != VERSION {
            return Err(format!("Server version ({server}) differs from client version ({VERSION})!"));
        }
    }
    let context = verbs::Context {
        master,
        printer: printer(flags)?,
        source: flags.text("c").to_owned(),
        labels: flags.text("l").to_owned(),
        fields: flags.text("fields").to_owned(),
        image: flags.text("image").to_owned(),
        rollback: flags.is_set("rollback"),
        ports: flags.text("p").to_owned(),
        service_port: Some(flags.int("s")).filter(|p| *p > 0),
        pause: flags.given_duration("u"),
    };
    verb_of(&context, verb, words).await.map(Some)
}

async fn verb_of(context: &verbs::Context, verb: &str, words: &[String]) -> Verdict {
    if let Some(verdict) = context.object_verb(verb, words).await {
        return verdict;
    }
    match (verb, words) {
        ("resize", [id, replicas]) => context.resize(id, verbs::parse_replicas(replicas)?).await,
        ("stop", [id]) => context.resize(id, 0).await,
        ("rm", [id]) => context.rm(id).await,
        ("rollingupdate", [id]) => context.rolling_update(id).await,
        ("run", [image, replicas, name]) => context.run(image, verbs::parse_replicas(replicas)?, name).await,
        ("resize" | "stop" | "rm" | "rollingupdate" | "run", _) => Err(usage::of_verb(verb)),
        _ => Err(format!("Unknown command {verb}")),
    }
}

fn server(flags: &Flags, from_environment: Option<String>) -> String {
    let given = ["h", "master"].map(|f| flags.text(f)).into_iter().find(|s| !s.is_empty());
    given.map(str::to_owned).or(from_environment.filter(|s| !s.is_empty())).unwrap_or_else(|| DEFAULT_MASTER.to_owned())
}

async fn server_version(master: &request::Master) -> Result<String, String> {
    let reply = master.raw("/version").await;
    let reply = reply.map_err(|e| format!("Couldn't read version from server: {}", client_sentence(&e)))?;
    Ok(resource::text(&reply.object, "/gitVersion").to_owned())
}

fn printer(flags: &Flags) -> Result<print::Printer, String> {
    let template = |text: &str| Template::parse(text).map_err(|e| format!("Error parsing the template: {e}"));
    Ok(if flags.is_set("json") {
        print::Printer::Json
    } else if flags.is_set("yaml") {
        print::Printer::Yaml
    } else if !flags.text("template").is_empty() {
        print::Printer::Template(template(flags.text("template"))?)
    } else if !flags.text("template_file").is_empty() {
        let path = flags.text("template_file");
        let text = std::fs::read_to_string(path).map_err(|e| format!("Error reading template {path}: {e}"))?;
        print::Printer::Template(template(&text)?)
    } else {
        print::Printer::Table
    })
}
