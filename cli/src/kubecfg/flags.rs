//! kubecfg's flags, parsed as Go's `flag` package does: one or two dashes, `-f=v` or `-f v`, all
//! before the first word that is not a flag.
//!
//! Invariant: [`TABLE`] is the only list of flags; usage, parsing and dispatch read it.

use std::{collections::BTreeMap, time::Duration};

/// What a flag's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bool,
    Text,
    Int,
    Duration,
}

struct Flag {
    name: &'static str,
    form: Form,
    default: &'static str,
    usage: &'static str,
}

const fn flag(name: &'static str, form: Form, default: &'static str, usage: &'static str) -> Flag {
    Flag { name, form, default, usage }
}

/// Every flag, sorted by name as Go prints them.
static TABLE: &[Flag] = &[
    flag("alsologtostderr", Form::Bool, "false", "accepted and ignored"),
    flag("api_version", Form::Text, "v1beta1", "API version to speak; only v1beta1"),
    flag("auth", Form::Text, "", "file with credentials; accepted, used by https masters only"),
    flag("c", Form::Text, "", "object to send: a file, an http URL, or - for stdin; JSON or YAML"),
    flag("certificate_authority", Form::Text, "", "accepted; https masters only"),
    flag("client_certificate", Form::Text, "", "accepted; https masters only"),
    flag("client_key", Form::Text, "", "accepted; https masters only"),
    flag("expect_version_match", Form::Bool, "false", "fail when the master's version differs from this client's"),
    flag("fields", Form::Text, "", "field selector for list, such as name=x"),
    flag("h", Form::Text, "", "the master: host, host:port or URL; default $KUBERNETES_MASTER, else 127.0.0.1:8080"),
    flag("image", Form::Text, "", "rollingupdate: new image of the first container"),
    flag("insecure_skip_tls_verify", Form::Bool, "false", "accepted; https masters only"),
    flag("json", Form::Bool, "false", "print the JSON as the master sent it"),
    flag("l", Form::Text, "", "label selector for list, such as name=x"),
    flag("log_backtrace_at", Form::Text, ":0", "accepted and ignored"),
    flag("log_dir", Form::Text, "", "accepted and ignored"),
    flag("logtostderr", Form::Bool, "true", "accepted; messages always go to stderr"),
    flag("master", Form::Text, "", "same as -h"),
    flag("ns", Form::Text, "", "namespace of the request"),
    flag("ns_file", Form::Text, "", "file that remembers the namespace; default ~/.kubernetes_ns"),
    flag("open_browser", Form::Bool, "true", "accepted; -www is not supported"),
    flag("p", Form::Text, "", "run: ports as host:container or container, separated by commas"),
    flag("proxy", Form::Bool, "false", "not supported"),
    flag("rollback", Form::Bool, "false", "rollingupdate: go back to the template before the last update"),
    flag("s", Form::Int, "-1", "run: also create a service on this port"),
    flag("server_version", Form::Bool, "false", "print the master's version"),
    flag("stderrthreshold", Form::Text, "0", "accepted and ignored"),
    flag("template", Form::Text, "", "print through this Go template"),
    flag("template_file", Form::Text, "", "print through the Go template in this file"),
    flag("u", Form::Duration, "1m0s", "rollingupdate: pause between two pods, if given"),
    flag("v", Form::Int, "0", "accepted and ignored"),
    flag("verbose", Form::Bool, "false", "log the requests"),
    flag("version", Form::Bool, "false", "print this client's version"),
    flag("vmodule", Form::Text, "", "accepted and ignored"),
    flag("www", Form::Text, "", "not supported"),
    flag("yaml", Form::Bool, "false", "print YAML of the internal model"),
];

/// Whether kubecfg has a flag of this name (without dashes).
pub(crate) fn is_known(name: &str) -> bool {
    TABLE.iter().any(|f| f.name == name)
}

/// The lines Go prints under the usage.
pub(crate) fn describe() -> String {
    TABLE
        .iter()
        .map(|f| {
            let default = if f.form == Form::Text { format!("{:?}", f.default) } else { f.default.to_owned() };
            format!("  -{}={default}: {}\n", f.name, f.usage)
        })
        .collect()
}

/// Parsed flags, and what follows them.
#[derive(Debug)]
pub(crate) struct Flags {
    values: BTreeMap<&'static str, String>,
    /// The words after the flags.
    pub(crate) words: Vec<String>,
}

impl Flags {
    /// Parses the arguments after the program name. `Err` is Go's sentence.
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        let mut rest = args;
        while let [first, tail @ ..] = rest {
            if first == "--" {
                rest = tail;
                break;
            }
            let Some(body) = first.strip_prefix('-').filter(|b| !b.is_empty()) else { break };
            let body = body.strip_prefix('-').unwrap_or(body);
            if body.is_empty() || body.starts_with(['-', '=']) {
                return Err(format!("bad flag syntax: {first}"));
            }
            rest = tail;
            let (name, mut value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let flag = TABLE
                .iter()
                .find(|f| f.name == name)
                .ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
            if value.is_none() {
                value = match (flag.form, rest) {
                    (Form::Bool, _) => Some("true".to_owned()),
                    (_, [next, tail @ ..]) => {
                        rest = tail;
                        Some(next.clone())
                    }
                    _ => None,
                };
            }
            let value = value.ok_or_else(|| format!("flag needs an argument: -{name}"))?;
            check_form(flag, &value)?;
            values.insert(flag.name, value);
        }
        Ok(Self { values, words: rest.to_vec() })
    }

    /// The text of a flag, or its default.
    pub(crate) fn text(&self, name: &str) -> &str {
        let default = || TABLE.iter().find(|f| f.name == name).map_or("", |f| f.default);
        self.values.get(name).map_or_else(default, String::as_str)
    }

    /// Whether a boolean flag is set.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        parse_bool(self.text(name)) == Some(true)
    }

    /// The number of an integer flag.
    pub(crate) fn int(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or_default()
    }

    /// The duration of a flag, only if the user gave it.
    pub(crate) fn given_duration(&self, name: &str) -> Option<Duration> {
        self.values.get(name).and_then(|v| parse_go_duration(v))
    }
}

fn check_form(flag: &Flag, value: &str) -> Result<(), String> {
    let good = match flag.form {
        Form::Text => true,
        Form::Bool => parse_bool(value).is_some(),
        Form::Int => value.parse::<i64>().is_ok(),
        Form::Duration => parse_go_duration(value).is_some(),
    };
    let name = flag.name;
    match flag.form {
        _ if good => Ok(()),
        Form::Bool => Err(format!("invalid boolean value \"{value}\" for -{name}: invalid syntax")),
        Form::Duration => Err(format!("invalid value \"{value}\" for flag -{name}: expected a duration such as 1m30s")),
        _ => Err(format!("invalid value \"{value}\" for flag -{name}: invalid syntax")),
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads a Go duration: `1m0s`, `1.5h`, `300ms`, `0`. Never negative.
pub(crate) fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number * unit;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, String> {
        Flags::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_take_one_or_two_dashes_and_stop_at_the_verb() {
        let flags = parse("-c pod.json --json -l=name=x -h=10.0.0.1 create pods -yaml").unwrap();
        assert_eq!(flags.text("c"), "pod.json");
        assert!(flags.is_set("json"));
        assert_eq!(flags.text("l"), "name=x");
        assert_eq!(flags.text("h"), "10.0.0.1");
        assert_eq!(flags.words, ["create", "pods", "-yaml"]);
        assert!(!flags.is_set("yaml"));
    }

    #[test]
    fn a_bare_dash_is_a_value_and_a_double_dash_ends_the_flags() {
        assert_eq!(parse("-c - create pods").unwrap().text("c"), "-");
        assert_eq!(parse("-json -- -x").unwrap().words, ["-x"]);
        assert_eq!(parse("- x").unwrap().words, ["-", "x"]);
    }

    #[test]
    fn wrong_flags_are_told_in_the_words_of_go() {
        for (line, expected) in [
            ("-bogus list pods", "flag provided but not defined: -bogus"),
            ("-c", "flag needs an argument: -c"),
            ("-s x run", "invalid value \"x\" for flag -s: invalid syntax"),
            ("-json=perhaps list", "invalid boolean value \"perhaps\" for -json: invalid syntax"),
            ("-u soon x", "invalid value \"soon\" for flag -u: expected a duration such as 1m30s"),
            ("---c x", "bad flag syntax: ---c"),
        ] {
            assert_eq!(parse(line).unwrap_err(), expected);
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, ms) in [("1m0s", 60_000), ("1.5h", 5_400_000), ("300ms", 300), ("0", 0), ("2m3s4ms", 123_004)] {
            assert_eq!(parse_go_duration(text).unwrap().as_millis(), ms, "{text}");
        }
        for text in ["", "5", "-1s", "s", "1x", "1m5", "99999999999999999999h"] {
            assert_eq!(parse_go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_valid() {
        assert!(TABLE.windows(2).all(|w| w[0].name < w[1].name));
        for flag in TABLE {
            check_form(flag, flag.default).unwrap();
        }
    }
}
