//! Several hosts and their master: what may happen to hosts and to the network between them.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use coracle_test_hosts::{
    Host, Lab, Options,
    process::{Process, in_namespace},
};
use coracle_tests::{coracle, eventually};

/// What the link between two hosts is measured with.
const PORT: u16 = 7000;
/// Reads a request to its end, so that closing does not break the connection.
const ANSWER: &str = r#"while read -r line && [ ${#line} -gt 1 ]; do :; done; printf 'HTTP/1.0 200 OK\r\n\r\nhere'"#;

/// A server on a host.
fn serve(host: &Host) -> Result<Process> {
    let port = PORT.to_string();
    let serving = host.spawn("busybox", |c| c.args(["nc", "-ll", "-p", &port, "-e", "sh", "-c", ANSWER]))?;
    eventually("the page is served", || host.get("127.0.0.1", PORT, "/").ok())?;
    Ok(serving)
}

/// Sends this many datagrams to nobody, from one host to another.
fn send(from: &Host, to: &Host, count: u32) -> Result<()> {
    // Each from a socket of its own, which the refusal of the one before does not close.
    let script = r#"for i in $(seq "$1"); do echo >"/dev/udp/$0/9"; done"#;
    from.run("bash", &["-c", script, &to.address().to_string(), &count.to_string()]).map(drop)
}

/// What arrived of them, by the kernel's own counter.
fn arrived(host: &Host) -> Result<u64> {
    let statistics = host.run("cat", &["/proc/net/dev"])?;
    let line = statistics.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no eth0")?;
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).context("no number of packets")
}

#[test]
fn three_hosts_survive_loss_partition_and_death() -> Result<()> {
    let begun = Instant::now();
    let lab = Lab::ready(&Options::new(3))?;
    println!("three hosts were ready after {:?}", begun.elapsed());
    let (h1, h2) = (lab.host(1), lab.host(2));
    let nodes = lab.coracle(&["get", "nodes", "-o", "wide"])?;
    for host in lab.hosts() {
        ensure!(nodes.contains(&format!("{} ", host.address())), "{} is missing in:\n{nodes}", host.address());
    }
    let endpoints = lab.coracle(&["get", "endpoints"])?;
    ensure!(endpoints.contains("192.0.2.10:8080"), "the service kubernetes leads to the master:\n{endpoints}");

    the_link_does_as_told(h1, h2)?;

    h2.cut()?;
    lab.wait_status("h2", "NotReady")?;
    ensure!(lab.status("h1")? == "Ready", "only one was cut off");
    h2.heal()?;
    lab.wait_status("h2", "Ready")?;

    h1.kill_minion()?;
    lab.wait_status("h1", "NotReady")?;
    h1.start_minion()?;
    lab.wait_status("h1", "Ready")?;

    lab.coracle(&["run", "web", "--image", "coracle/busybox:1", "--replicas", "3", "--", "sleep", "100000"])?;
    let pods = |host: &Host| host.site().running("io.coracle.container=web");
    eventually("the host has a pod", || pods(h1).ok().filter(|found| !found.is_empty()))?;
    h1.docker(&["run", "-d", "--name", "marker", "coracle/busybox:1", "sleep", "1000"])?;
    let leaving = h1.count("192.0.2.10")?;
    eventually("it beats", || leaving.packets().ok().filter(|n| *n > 0))?;
    h1.kill()?;
    ensure!(!Path::new("/run/netns").join(format!("{}-h1", lab_name(&lab)?)).exists(), "its network is gone");
    lab.wait_status("h1", "NotReady")?;
    h1.revive()?;
    lab.wait_status("h1", "Ready")?;
    let state = h1.docker(&["inspect", "--format", "{{.State.Running}}", "marker"])?;
    ensure!(state == "false", "the disk was kept, and nothing ran on: {state}");

    // A packet to elsewhere goes nowhere.
    let escaped = lab.switch().escaped();
    let before = escaped.packets()?;
    h1.run("bash", &["-c", "echo >/dev/udp/198.51.100.1/9"])?;
    eventually("it is counted", || escaped.packets().ok().filter(|n| *n > before))?;
    Ok(())
}

/// Of `t1n0-m`, which the master's host is called.
fn lab_name(lab: &Lab) -> Result<String> {
    let dir = lab.host(0).site().socket;
    let name = dir.to_str().and_then(|path| path.strip_prefix("/run/coracle-hosts.")?.split('/').next());
    name.map(str::to_owned).context("a lab of a test has a name")
}

fn the_link_does_as_told(h1: &Host, h2: &Host) -> Result<()> {
    let address = h2.address().to_string();
    let serving = serve(h2)?;
    let fetch = || h1.get(&address, PORT, "/");
    let time = || -> Result<Duration> {
        let begun = Instant::now();
        ensure!(fetch()? == "here", "another page");
        Ok(begun.elapsed())
    };
    let plain = time()?;
    h2.delay(Duration::from_millis(100))?;
    let slow = time()?;
    // A connection and an answer are two round trips, each delayed twice.
    ensure!(slow >= Duration::from_millis(400), "delayed by 100 ms each way: {slow:?}, plain {plain:?}");
    h2.delay(Duration::ZERO)?;
    // The end of a delay needs nothing from anybody: the next one may be asked for at once.
    eventually("the link is plain again", || time().ok().filter(|time| *time < Duration::from_millis(400)))?;

    let sent = h1.count(&address)?;
    let before = arrived(h2)?;
    h2.lose(50)?;
    send(h1, h2, 400)?;
    ensure!(sent.packets()? >= 400, "all were sent");
    let lossy = arrived(h2)? - before;
    ensure!((100..300).contains(&lossy), "half of 400 is lost, and {lossy} arrived");
    h2.lose(0)?;
    let before = arrived(h2)?;
    send(h1, h2, 400)?;
    ensure!(arrived(h2)? - before >= 400, "none is lost any more");

    h2.cut()?;
    ensure!(fetch().is_err(), "nothing passes");
    h2.heal()?;
    eventually("everything passes", || fetch().ok())?;
    serving.kill()
}

/// Everything on this machine that belongs to the lab of this name, which others have no part of.
fn traces(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for dir in ["/run", "/run/netns", "/var/lib", "/sys/class/net", "/sys/fs/cgroup", "/sys/fs/cgroup/memory"] {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    found.extend(mounts.lines().map(str::to_owned));
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        found.push(String::from_utf8_lossy(&line).replace('\0', " "));
    }
    let own = std::fs::read_to_string("/proc/self/cmdline").unwrap_or_default().replace('\0', " ");
    found.retain(|trace| trace.contains(name) && *trace != own);
    found
}

#[test]
fn a_process_is_of_a_host_by_any_of_its_threads() -> Result<()> {
    let lab = Lab::with(&Options { images: Vec::new(), ..Options::new(1) })?;
    let (site, netns) = (lab.host(1).site(), format!("{}-h1", lab_name(&lab)?));
    let this = || in_namespace(&netns).contains(&std::process::id());
    ensure!(!this(), "it is on the machine");
    let (entered, wait) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let thread = std::thread::spawn(move || {
        drop(entered.0.send(site.enter()));
        // Until the other end is dropped.
        wait.1.recv().unwrap_or_default();
    });
    let there = entered.1.recv().context("the thread ended").flatten().map(|()| this());
    // It takes the host down, and not itself.
    drop(lab);
    drop(wait.0);
    ensure!(thread.join().is_ok(), "the thread panicked");
    ensure!(there?, "one of its threads is on the host");
    ensure!(!Path::new("/run/netns").join(&netns).exists(), "the host is gone");
    Ok(())
}

#[test]
fn hosts_of_the_command_line_stay_until_they_are_taken_down_and_leave_nothing() -> Result<()> {
    let name = format!("u{}", std::process::id());
    let program = coracle().with_file_name("coracle-hosts");
    // Another network than the default one, which the machine may have a way to already.
    let up = ["up", "--hosts", "2", "--network", "203.0.113.0/24", "--segments", "2", "--name", &name];
    let down = ["down", "--name", &name];
    let run = |args: &[&str]| -> Result<(bool, String)> {
        let out = Command::new(&program).args(args).output().with_context(|| format!("running {program:?}"))?;
        let text = [out.stdout, out.stderr].concat();
        Ok((out.status.success(), String::from_utf8_lossy(&text).into_owned()))
    };
    let checked = (|| -> Result<()> {
        // What a start that was killed leaves is in the way of none, nor is what goes on without it.
        let run_dir = Path::new("/run").join(format!("coracle-hosts.{name}"));
        let owner = || std::fs::read_to_string(run_dir.join("owner")).unwrap_or_default();
        let saving = || std::fs::metadata(run_dir.join("images.tar")).is_ok_and(|file| file.len() > 0);
        let starting = || traces(&name).iter().any(|trace| trace.contains("dockerd"));
        let states: [(&str, &dyn Fn() -> bool); 2] =
            [("images are being saved", &saving), ("engines start", &starting)];
        for (state, reached) in states {
            let mut killed = Command::new(&program).args(up).stdout(Stdio::null()).spawn()?;
            let own = format!("{} ", killed.id());
            eventually(state, || (owner().starts_with(&own) && reached()).then_some(()))?;
            killed.kill()?;
            killed.wait()?;
        }
        let (worked, said) = run(&up)?;
        ensure!(worked && said.contains("KUBERNETES_MASTER=http://203.0.113.10:8080"), "{said}");
        // At least the switch, three hosts, two directories, a link, control groups, and what runs.
        ensure!(traces(&name).len() > 15, "{:#?}", traces(&name));
        let nodes = Command::new(coracle()).args(["-s", "http://203.0.113.10:8080", "get", "nodes"]).output()?;
        let nodes = String::from_utf8_lossy(&nodes.stdout).into_owned();
        ensure!(nodes.matches(" Ready").count() == 2, "the machine reaches the master:\n{nodes}");
        let (worked, said) = run(&up)?;
        ensure!(worked && said.contains("up already"), "{said}");
        let (worked, said) = run(&[&up[..2], &["1"], &up[3..]].concat())?;
        ensure!(!worked && said.contains("2 hosts already, not 1"), "{said}");
        Ok(())
    })();
    let (worked, said) = run(&down)?;
    checked?;
    ensure!(worked && said.contains("are gone"), "{said}");
    let left = traces(&name);
    ensure!(left.is_empty(), "left behind: {left:#?}");
    let (worked, said) = run(&down)?;
    ensure!(worked && said.contains("no hosts"), "{said}");
    Ok(())
}

#[test]
fn only_hosts_in_the_ranges_may_call_the_master() -> Result<()> {
    let mut options = Options::new(1);
    options.images.clear();
    options.allow_from = Some("192.0.2.11/32,192.0.2.99/32".into());
    let lab = Lab::with(&options)?;
    lab.start_master()?;
    let (m, h1) = (lab.host(0), lab.host(1));
    let status = |from: &Host, address: &str| -> Result<(String, String)> {
        let (head, body) = from.site().ask(address, 8080, "/api/v1/nodes")?;
        Ok((head.split(' ').nth(1).unwrap_or_default().to_owned(), body))
    };
    ensure!(status(h1, "192.0.2.10")?.0 == "200", "it is in the range");
    ensure!(status(m, "192.0.2.10")?.0 == "200", "it is the master's own host");
    h1.run("ip", &["address", "add", "192.0.2.12/24", "dev", "eth0"])?;
    h1.run("ip", &["route", "add", "192.0.2.10", "dev", "eth0", "src", "192.0.2.12"])?;
    let (code, body) = status(h1, "192.0.2.10")?;
    ensure!(code == "401" && body.contains("192.0.2.12 is in none of the ranges"), "{code} {body}");

    let dir = tempfile::tempdir()?;
    let mut open = m.site().command(coracle());
    open.args(["master", "--listen", "192.0.2.10:8081", "--data-dir"]).arg(dir.path());
    let refused = open.output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        !refused.status.success() && said.contains("--allow-from") && said.contains("root on every minion"),
        "{said}"
    );
    Ok(())
}
