//! Which grammar a command line is written in: kubecfg's of 2014, or the modern one.
//!
//! The rule, in order:
//! 1. Called through a link named `kubecfg`, it is always kubecfg's.
//! 2. Leading options that both grammars share (`--master URL`, `-s URL`) are skipped.
//! 3. A kubecfg flag before the verb (`-c FILE`, `-json`, `-l SEL`, ...) makes it kubecfg's. Flags
//!    the modern grammar knows there (`--help`, `--version`, `-V`, `-n NS`) do not; `-h` is
//!    kubecfg's host when a host and a verb follow, and a cry for help when nothing does;
//!    `-s` with a number is kubecfg's service port.
//! 4. The verbs `list print resize stop rm ns update` exist in kubecfg only. `rollingupdate` exists in
//!    both; without a kubecfg flag before it it is modern.
//! 5. `create RES`, `get RES/NAME`, `delete RES/NAME` with a kubecfg resource, and
//!    `run IMAGE REPLICAS NAME`, are kubecfg's when nothing but these words follows the verb.
//! 6. Everything else is modern.

use crate::kubecfg::{flags, resource::Resource};

/// The grammar of a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grammar {
    Kubecfg,
    Modern,
}

const KUBECFG_VERBS: [&str; 7] = ["list", "print", "resize", "stop", "rm", "ns", "update"];
const MODERN_LEADING: [&str; 6] = ["--help", "--version", "-V", "-n", "--namespace", "--"];

/// Decides by the name the binary was called by and its arguments. See the module's rule.
pub(crate) fn grammar(program: &str, args: &[String]) -> Grammar {
    if file_name(program) == "kubecfg" {
        return Grammar::Kubecfg;
    }
    let rest = skip_shared(args);
    let Some(first) = rest.first() else { return Grammar::Modern };
    let kubecfg =
        if first.starts_with('-') { is_kubecfg_flag(first, &rest[1..]) } else { is_kubecfg_verb(first, &rest[1..]) };
    if kubecfg { Grammar::Kubecfg } else { Grammar::Modern }
}

fn file_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

fn skip_shared(mut args: &[String]) -> &[String] {
    loop {
        args = match args {
            [flag, value, rest @ ..] if flag == "--master" || (flag == "-s" && !is_number(value)) => rest,
            [flag, rest @ ..] if flag.starts_with("--master=") => rest,
            _ => return args,
        };
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<i64>().is_ok()
}

fn is_kubecfg_flag(flag: &str, rest: &[String]) -> bool {
    let name = flag.split('=').next().unwrap_or(flag);
    if MODERN_LEADING.contains(&name) {
        return false;
    }
    if flag == "-h" {
        return rest.len() >= 2;
    }
    flags::is_known(name.trim_start_matches('-'))
}

fn is_kubecfg_verb(verb: &str, rest: &[String]) -> bool {
    if KUBECFG_VERBS.contains(&verb) {
        return true;
    }
    match (verb, rest) {
        ("create", [resource]) => Resource::parse(resource.trim_matches('/')).is_some(),
        ("get" | "delete", [path]) => path
            .trim_matches('/')
            .split_once('/')
            .is_some_and(|(resource, name)| Resource::parse(resource).is_some() && !name.is_empty()),
        ("run", [image, replicas, name]) => !image.starts_with('-') && is_number(replicas) && !name.starts_with('-'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Grammar) {
        let mut words = line.split_whitespace().map(str::to_owned);
        let program = words.next().unwrap();
        assert_eq!(grammar(&program, &words.collect::<Vec<_>>()), expected, "{line}");
    }

    #[test]
    fn a_link_named_kubecfg_speaks_only_kubecfg() {
        check("kubecfg get pods", Grammar::Kubecfg);
        check("/usr/bin/kubecfg up", Grammar::Kubecfg);
        check("kubecfg", Grammar::Kubecfg);
    }

    #[test]
    fn the_lines_of_the_article_are_kubecfg() {
        for line in [
            "coracle list pods",
            "coracle list minions",
            "coracle -c pod.json create pods",
            "coracle --c=pod.json create pods",
            "coracle get pods/jenkins",
            "coracle delete pods/jenkins",
            "coracle delete /services/jenkins",
            "coracle get replicationControllers/jenkins-slave",
            "coracle resize jenkins-slave 2",
            "coracle stop jenkins-slave",
            "coracle rm jenkins-slave",
            "coracle -u 10s rollingupdate jenkins-slave",
            "coracle -image i:2 rollingupdate jenkins-slave",
            "coracle -p 8080:80 -s 80 run nginx 2 web",
            "coracle -s 80 run nginx 2 web",
            "coracle run nginx 2 web",
            "coracle -json list services",
            "coracle -h 10.0.0.1 list pods",
            "coracle --master http://h:1 list pods",
            "coracle -s http://h:1 -json list pods",
            "coracle -version",
            "coracle ns",
            "coracle create pods",
            "coracle update pods/x",
        ] {
            check(line, Grammar::Kubecfg);
        }
    }

    #[test]
    fn everything_else_is_modern() {
        for line in [
            "coracle",
            "coracle -h",
            "coracle -h get",
            "coracle --help",
            "coracle --version",
            "coracle up",
            "coracle get pods",
            "coracle get pods jenkins",
            "coracle get pod/jenkins",
            "coracle get rc/jenkins",
            "coracle get pods/jenkins -o yaml",
            "coracle -s http://h:1 get pods",
            "coracle --master=http://h:1 get pods/x -o json",
            "coracle -n kube get pods",
            "coracle delete pods/jenkins --now",
            "coracle delete pod jenkins",
            "coracle create -f x.yaml",
            "coracle create namespaces",
            "coracle run web --image=nginx",
            "coracle rollingupdate web",
            "coracle rollingupdate web --rollback",
            "coracle run nginx two web",
            "coracle apply -f x",
        ] {
            check(line, Grammar::Modern);
        }
    }
}
