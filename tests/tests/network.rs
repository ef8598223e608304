//! Pods and services across hosts: everybody reaches everybody, on every path, through each data
//! plane, and again after each fault.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use coracle_test_hosts::{Host, Lab, Options, eventually, root};
use coracle_tests::lab::{Pod, apply, describe, pods};
use serde_json::{Value, json};

const ECHO: &str = "coracle/echo:1";
const PORT: u16 = 8080;
/// Of the service over all, for those outside.
const EXTERNAL: &str = "203.0.113.7";
/// What connectivity may take to be back after a fault.
const BACK: Duration = Duration::from_secs(2);

/// A lab with the echo pods, one on each host, and their services.
struct Echoes {
    lab: Lab,
    pods: Vec<Pod>,
    /// Portal of the service over all, and of one over the first pod alone.
    portals: [String; 2],
    node_port: u16,
}

fn options(hosts: u8, mode: &str) -> Options {
    let mut options = Options::new(hosts);
    options.images.push(ECHO.into());
    options.minion_flags = ["--proxy-mode", mode, "--external-ips", "203.0.113.0/24"].map(Into::into).into();
    options
}

impl Echoes {
    fn start(options: &Options) -> Result<Self> {
        let lab = Lab::ready(options)?;
        let hosts = usize::from(options.hosts);
        let container = json!({"name": "echo", "image": ECHO, "ports": [{"containerPort": PORT}],
            "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1}});
        let rc = |name: &str, replicas: usize, labels: Value| {
            let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
            json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
                "spec": {"replicas": replicas, "selector": labels, "template": template}})
        };
        let ports = json!([{"name": "t", "port": 80, "targetPort": PORT}, {"name": "kept", "port": 81, "targetPort": PORT + 1},
            {"name": "u", "port": 80, "targetPort": PORT, "protocol": "UDP"}]);
        let service = |name: &str, spec: Value| {
            let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
            service["spec"]["ports"] = ports.clone();
            service
        };
        let all = json!({"app": "echo"});
        let one = json!({"app": "single"});
        let host_port = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "single", "labels": one},
            "spec": {"containers": [{"name": "echo", "image": ECHO, "ports": [
                {"containerPort": PORT, "hostPort": 9090}, {"containerPort": PORT, "hostPort": 9090, "protocol": "UDP"}]}]}});
        apply(
            &lab,
            &[
                rc("echo", hosts, all.clone()),
                service("echo", json!({"type": "NodePort", "selector": all, "externalIPs": [EXTERNAL]})),
                host_port,
                service("single", json!({"selector": one})),
                service("headless", json!({"selector": all, "clusterIP": "None"})),
                service("by-hand", json!({})),
            ],
        )?;
        let pods = eventually("a pod on each host and one more", || {
            let pods = pods(&lab).ok()?;
            let on: BTreeSet<usize> = pods.iter().filter(|p| p.name != "single").map(|p| p.host).collect();
            (on.len() == hosts && pods.len() == hosts + 1).then_some(pods)
        })
        .with_context(|| describe(&lab))?;
        let addresses: Vec<_> = pods.iter().filter(|p| p.name != "single").map(|p| json!({"ip": p.ip})).collect();
        let targets = json!([{"name": "t", "port": PORT}, {"name": "u", "port": PORT, "protocol": "UDP"}]);
        apply(
            &lab,
            &[json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "by-hand"},
                "subsets": [{"addresses": addresses, "ports": targets}]})],
        )?;
        let portal = |name: &str| -> Result<Value> {
            Ok(serde_json::from_str(&lab.coracle(&["get", "services", name, "-o", "json"])?)?)
        };
        let (echo, single) = (portal("echo")?, portal("single")?);
        // As a router outside would have it.
        let through = lab.host(1).address().to_string();
        lab.host(0).run("ip", &["route", "add", EXTERNAL, "via", &through])?;
        let ip = |service: &Value| service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        // One port of TCP and one of UDP; both are asked for at the first one's number.
        let node_port = echo["spec"]["ports"][0]["nodePort"].as_u64().context("no node port")?;
        Ok(Self { portals: [ip(&echo), ip(&single)], node_port: u16::try_from(node_port)?, pods, lab })
    }

    fn single(&self) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.name == "single").context("no single pod")
    }

    /// Who answers to repeated questions.
    fn answers(&self, times: usize, mut ask: impl FnMut() -> Result<String>) -> Result<BTreeSet<String>> {
        (0..times).map(|_| ask()).collect()
    }

    /// Asks on every path.
    fn check_every_pair(&self) -> Result<()> {
        let echoes: BTreeSet<String> = self.pods.iter().map(|p| p.name.clone()).filter(|n| n != "single").collect();
        let [portal, own] = &self.portals;
        // Every change has reached every host.
        eventually("every host sends to every pod", || {
            let all = |host: &Host| self.answers(20, || ask_from_host(host, "tcp", portal, 80)).ok();
            self.lab.hosts().iter().all(|host| all(host).as_ref() == Some(&echoes)).then_some(())
        })
        .with_context(|| describe(&self.lab))?;
        for protocol in ["tcp", "udp"] {
            for from in &self.pods {
                let host = self.lab.host(from.host);
                for to in &self.pods {
                    let answer = ask_from_pod(host, from, protocol, &format!("{}:{PORT}", to.ip));
                    let answer = answer.with_context(|| format!("{protocol} from {from:?} to {to:?}"))?;
                    ensure!(answer == to.name, "{protocol} from {from:?} to {to:?}: {answer}");
                }
                let named = ["echo:80", "echo.default.svc.cluster.local:80", "by-hand:80", "headless:8080"];
                for target in named.map(str::to_owned).into_iter().chain([format!("{portal}:80")]) {
                    let answer = ask_from_pod(host, from, protocol, &target);
                    let answer = answer.with_context(|| format!("{protocol} from {from:?} to {target}"))?;
                    ensure!(echoes.contains(&answer), "{protocol} from {from:?} to {target}: {answer}");
                }
            }
            let single = self.single()?;
            let itself = ask_from_pod(self.lab.host(single.host), single, protocol, &format!("{own}:80"));
            ensure!(itself.context("a pod to itself")? == "single", "a pod reaches itself through its service");
            for host in self.lab.hosts() {
                for to in &self.pods {
                    let answer = ask_from_host(host, protocol, &to.ip, PORT);
                    ensure!(answer.with_context(|| format!("{protocol} {} to {to:?}", host.name()))? == to.name);
                }
                let answer = ask_from_host(host, protocol, own, 80);
                ensure!(answer.with_context(|| format!("{protocol} {} to a portal", host.name()))? == "single");
                // From outside, through any host.
                let address = host.address().to_string();
                let outside = self.lab.host(0);
                let answer = ask_from_host(outside, protocol, &address, self.node_port_of(protocol)?);
                let answer = answer.with_context(|| format!("{protocol} to the node port of {}", host.name()))?;
                ensure!(echoes.contains(&answer), "{answer}");
            }
            let answer = ask_from_host(self.lab.host(0), protocol, EXTERNAL, 80).context("the external address")?;
            ensure!(echoes.contains(&answer), "the external address: {answer}");
            let address = self.lab.host(single.host).address().to_string();
            let answer = ask_from_host(self.lab.host(0), protocol, &address, 9090).context("the host port")?;
            ensure!(answer == "single", "the host port of single: {answer}");
        }
        Ok(())
    }

    fn node_port_of(&self, protocol: &str) -> Result<u16> {
        if protocol == "tcp" {
            return Ok(self.node_port);
        }
        let json: Value = serde_json::from_str(&self.lab.coracle(&["get", "services", "echo", "-o", "json"])?)?;
        let port = json["spec"]["ports"][2]["nodePort"].as_u64().context("no node port for UDP")?;
        Ok(u16::try_from(port)?)
    }
}

fn ask_from_pod(host: &Host, pod: &Pod, protocol: &str, to: &str) -> Result<String> {
    host.docker(&["exec", &pod.container, "/usr/local/bin/echo", protocol, to])
}

/// From a host, which has none of the images' programs.
fn ask_from_host(host: &Host, protocol: &str, ip: &str, port: u16) -> Result<String> {
    if protocol == "tcp" {
        return host.get(ip, port, "/");
    }
    const SCRIPT: &str = r#"exec 3<>"/dev/udp/$0/$1" && printf '?' >&3 && dd bs=512 count=1 <&3 2>/dev/null"#;
    let answer = host.run("timeout", &["2", "bash", "-c", SCRIPT, ip, &port.to_string()])?;
    ensure!(!answer.is_empty(), "no datagram from {ip}:{port}");
    Ok(answer)
}

fn example(name: &str) -> String {
    root().join("examples").join(name).display().to_string()
}

#[test]
fn everybody_reaches_everybody_in_the_kernel_and_across_segments() -> Result<()> {
    // The second host is on a segment of its own: a tunnel leads there.
    let echoes = Echoes::start(&Options { segments: 2, ..options(3, "nftables") })?;
    echoes.check_every_pair()?;
    let routes = echoes.lab.host(1).run("ip", &["route"])?;
    ensure!(routes.contains("dev cox-") && routes.contains("via 192.0.2."), "both kinds of path:\n{routes}");
    nothing_leaves_for_nobody(&echoes, true)
}

#[test]
fn everybody_reaches_everybody_through_userspace() -> Result<()> {
    let echoes = Echoes::start(&options(2, "userspace"))?;
    echoes.check_every_pair()?;
    nothing_leaves_for_nobody(&echoes, false)?;
    // What leads to the portals outlives the minion, and is not in its way when it starts again.
    let (near, portal) = (echoes.lab.host(1), &echoes.portals[0]);
    let answers = |what: &str| -> Result<()> {
        eventually(what, || ask_from_host(near, "tcp", portal, 80).ok()).with_context(|| describe(&echoes.lab))?;
        let pod = echoes.pods.iter().find(|pod| pod.host == 1).context("no pod on the host")?;
        let to = format!("{portal}:80");
        eventually(what, || ask_from_pod(near, pod, "tcp", &to).ok()).with_context(|| describe(&echoes.lab))?;
        Ok(())
    };
    near.kill_minion()?;
    near.start_minion()?;
    echoes.lab.wait_ready()?;
    answers("the portal answers after the minion's restart")?;
    near.run("sh", &["-c", "ip link del $(ip -o link | grep -o 'cor-[0-9a-f]*' | head -1)"])?;
    answers("the portal answers when the bridge is back")
}

/// A portal or pod address that nothing answers is refused at once, and no packet leaves the host. By
/// userspace, what no node has is refused to pods as soon as the kernel has an ICMP error left for
/// them.
fn nothing_leaves_for_nobody(echoes: &Echoes, nftables: bool) -> Result<()> {
    let host = echoes.lab.host(1);
    let cluster: Value =
        serde_json::from_str(&host.get(&echoes.lab.host(0).address().to_string(), 8080, "/coracle/v1/cluster")?)?;
    let range = |name: &str| cluster[name].as_str().map(str::to_owned).context("no range");
    let (services, pods) = (range("serviceCIDR")?, range("podCIDR")?);
    let counts = [host.count(&services)?, host.count(&pods)?];
    let address =
        |range: &str, rest: &str| format!("{}.{rest}", range.split('.').take(2).collect::<Vec<_>>().join("."));
    let of_no_node = address(&pods, "250.9");
    for ip in [address(&services, "200.200"), of_no_node.clone(), format!("{}.250", own_pods(host)?)] {
        let begun = Instant::now();
        ensure!(host.get(&ip, 80, "/").is_err(), "{ip} answered");
        ensure!(begun.elapsed() < Duration::from_secs(1), "{ip} was refused after {:?}", begun.elapsed());
        let pod = echoes.pods.iter().find(|pod| pod.host == 1).context("no pod on the host")?;
        let begun = Instant::now();
        ensure!(ask_from_pod(host, pod, "tcp", &format!("{ip}:80")).is_err(), "{ip} answered a pod");
        let limit = if nftables || ip != of_no_node { Duration::from_secs(1) } else { Duration::from_secs(10) };
        ensure!(begun.elapsed() < limit, "{ip} was refused to a pod after {:?}", begun.elapsed());
    }
    for count in &counts {
        ensure!(count.packets()? == 0, "packets for nobody left the host");
    }
    Ok(())
}

/// The first three numbers of the host's pod addresses.
fn own_pods(host: &Host) -> Result<String> {
    let addresses = host.run("ip", &["-o", "-4", "address"])?;
    let line = addresses.lines().find(|line| line.contains(" cor-")).context("no bridge")?;
    let address = line.split_whitespace().nth(3).context("no address")?;
    Ok(address.rsplit_once('.').context("no address")?.0.to_owned())
}

#[test]
fn the_articles_cluster_and_the_guestbook_run_on_three_hosts() -> Result<()> {
    let mut options = options(3, "auto");
    options.images.push("coracle/guestbook:1".into());
    let lab = Lab::ready(&options)?;
    for (file, kind) in [
        ("pod", "pods"),
        ("service-http", "services"),
        ("service-slave", "services"),
        ("replication", "replicationControllers"),
    ] {
        lab.kubecfg(&["-c", &example(&format!("jenkins/{file}.json")), "create", kind])?;
    }
    lab.kubecfg(&["resize", "jenkins-slave", "2"])?;
    let portal = lab.kubecfg(&["-template", "{{.portalIP}}", "get", "services/jenkins"])?;
    let page = || -> Result<Value> { Ok(serde_json::from_str(&lab.host(1).get(portal.trim(), 8888, "/api/json")?)?) };
    eventually("both slaves are connected", || {
        let slaves = page().ok()?["slaves"].as_array()?.len();
        (slaves == 2).then_some(())
    })
    .with_context(|| format!("{:?}\n{}", page(), describe(&lab)))?;
    let nodes = lab.kubecfg(&["list", "pods"])?;
    let on = |name: &str| -> BTreeSet<&str> {
        let lines = nodes.lines().filter(|line| line.contains(name));
        lines
            .filter_map(|line| ["h1", "h2", "h3"].into_iter().find(|host| line.contains(&format!("{host}/"))))
            .collect()
    };
    ensure!(
        on("name=jenkins-slave").len() == 2 && on("name=jenkins ").is_disjoint(&on("name=jenkins-slave")),
        "{nodes}"
    );

    lab.coracle(&["apply", "-f", &example("guestbook/controllers"), "-f", &example("guestbook/services")])?;
    let guestbook = eventually("the guestbook has a portal", || {
        let json: Value =
            serde_json::from_str(&lab.coracle(&["get", "services", "guestbook", "-o", "json"]).ok()?).ok()?;
        json["spec"]["clusterIP"].as_str().map(str::to_owned)
    })?;
    for host in lab.hosts() {
        eventually("the guestbook answers", || host.get(&guestbook, 3000, "/").ok()).with_context(|| describe(&lab))?;
    }
    Ok(())
}

#[test]
fn connectivity_is_back_after_every_fault() -> Result<()> {
    let echoes = Echoes::start(&options(2, "nftables"))?;
    let lab = &echoes.lab;
    let [portal, _] = &echoes.portals;
    let far = |of: usize| echoes.pods.iter().find(|p| p.host != of && p.name != "single").context("no pod elsewhere");
    let near = lab.host(1);
    let remote = far(1)?;
    let reached =
        || ask_from_host(near, "tcp", &remote.ip, PORT).is_ok() && ask_from_host(near, "tcp", portal, 80).is_ok();
    let back_within = |what: &str, limit: Duration| -> Result<()> {
        let begun = Instant::now();
        eventually(what, || reached().then_some(())).with_context(|| describe(lab))?;
        println!("{what}: back after {:?}", begun.elapsed());
        ensure!(begun.elapsed() < limit, "{what}: back only after {:?}", begun.elapsed());
        Ok(())
    };
    back_within("at first", Duration::from_secs(30))?;

    // A connection through the portal outlives the minion.
    let mut kept = Kept::open(near, portal)?;
    kept.check()?;
    near.kill_minion()?;
    ensure!(reached(), "pods and services are reached while no minion runs");
    kept.check().context("without a minion")?;
    near.start_minion()?;
    lab.wait_ready()?;
    kept.check().context("after the minion's restart")?;

    let table = near.run("nft", &["list", "tables"])?;
    let cluster =
        table.lines().find_map(|line| line.trim().strip_prefix("table ip coracle-")).context("no table")?.to_owned();
    for (what, program, arguments) in [
        ("after a flush of the ruleset", "nft", vec!["flush", "ruleset"]),
        (
            "after the route was deleted",
            "sh",
            vec![
                "-c",
                "for r in $(ip route | awk '/proto 203/ && $1 ~ \"/\" {print $1}'); do ip route del $r proto 203; done",
            ],
        ),
        (
            "after the bridge went down",
            "sh",
            vec!["-c", "ip link set $(ip -o link | grep -o 'cor-[0-9a-f]*' | head -1) down"],
        ),
    ] {
        near.run(program, &arguments)?;
        back_within(what, BACK)?;
    }
    kept.check().context("after what others changed")?;
    ensure!(near.run("nft", &["list", "tables"])?.contains(&cluster), "the table is back");

    near.engine()?.stop()?;
    near.engine()?.launch()?;
    back_within("after the engine's restart", BACK)?;

    near.kill()?;
    near.revive()?;
    eventually("the revived host is ready", || (lab.status("h1").ok()? == "Ready").then_some(()))?;
    back_within("after the host came back", BACK)
}

/// A connection that is kept: a shell on a host that asks again and again over one socket.
struct Kept {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Kept {
    fn open(host: &Host, portal: &str) -> Result<Self> {
        const SCRIPT: &str = r#"exec 3<>"/dev/tcp/$0/81"
            while read -r line; do
              printf '%s\n' "$line" >&3 && read -r -t 5 answer <&3 && echo "$answer" || echo lost
            done"#;
        let mut command = host.site().command("bash");
        command.args(["-c", SCRIPT, portal]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { process, output })
    }

    fn check(&mut self) -> Result<()> {
        writeln!(self.process.stdin.as_mut().context("no input")?, "?")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.starts_with("echo-"), "the connection is gone: {line}");
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.process.stdin.take());
        drop(self.process.wait());
    }
}
