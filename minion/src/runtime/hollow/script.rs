//! What a hollow container does: a small part of a shell's language, so that manifests and tests
//! say it in the container's own command.
//!
//! `sleep SECONDS`, `echo TEXT`, `exit CODE` and `trap '' TERM`, separated by `;` or `&&`, behind
//! an optional `sh -c`. Anything else is a server: it runs until it is stopped.

use std::time::Duration;

/// A run, known in advance.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Script {
    /// `None` runs until it is stopped.
    pub(super) lives: Option<Duration>,
    pub(super) code: i32,
    pub(super) ignores_term: bool,
    pub(super) output: String,
}

impl Script {
    pub(super) fn parse(entrypoint: Option<&[String]>, cmd: Option<&[String]>) -> Self {
        let words: Vec<&str> = entrypoint.into_iter().chain(cmd).flatten().map(String::as_str).collect();
        let words = match words.as_slice() {
            ["sh" | "/bin/sh", "-c", rest @ ..] => rest,
            all => all,
        };
        let text = words.join(" ");
        let mut script = Self { lives: Some(Duration::ZERO), ..Self::default() };
        let statements = text.split(';').flat_map(|s| s.split("&&")).map(str::trim);
        if text.trim().is_empty() {
            return Self { lives: None, ..script };
        }
        for statement in statements.filter(|s| !s.is_empty()) {
            let (verb, rest) = statement.split_once(' ').unwrap_or((statement, ""));
            match (verb, rest.trim()) {
                ("sleep", time) => match time.parse::<f64>() {
                    Ok(seconds) if (0.0..1e9).contains(&seconds) => {
                        script.lives = script.lives.map(|l| l + Duration::from_secs_f64(seconds));
                    }
                    _ => return Self { lives: None, ..script },
                },
                ("echo", text) => script.output.extend([text, "\n"]),
                ("exit", code) => {
                    script.code = code.parse().unwrap_or(2);
                    return script;
                }
                ("trap", "'' TERM") => script.ignores_term = true,
                _ => return Self { lives: None, ..script },
            }
        }
        script
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &[&str], lives_s: Option<f64>, code: i32) {
        let words: Vec<String> = command.iter().map(|w| (*w).to_owned()).collect();
        let script = Script::parse(Some(&words), None);
        assert_eq!((script.lives.map(|l| l.as_secs_f64()), script.code), (lives_s, code), "{command:?}");
    }

    #[test]
    fn commands_say_how_long_a_container_lives_and_how_it_ends() {
        check(&[], None, 0);
        check(&["nginx", "-g", "daemon off;"], None, 0);
        check(&["sh", "-c", "exit 3"], Some(0.0), 3);
        check(&["sh", "-c", "sleep 1.5; sleep 1 && exit 4"], Some(2.5), 4);
        check(&["sleep", "infinity"], None, 0);
        check(&["sh", "-c", "echo hello"], Some(0.0), 0);
    }
}
