//! The network between the hosts: one bridge, or two with a router between, in a namespace of its
//! own, since a bridge of the machine would be filtered by the machine's Docker.
//!
//! Nothing leaves it: what is not for an address of the lab is counted and dropped at the router,
//! to which every host's default route leads. Only the machine itself may have a way in.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;

use crate::{footprint::Footprint, ip, output};

const SWITCH: &str = "switch";
/// The interface of every host.
pub const UPLINK: &str = "eth0";
/// The machine's own place in the network, counted from its first address.
const MACHINE: u32 = 254;

/// The network of one lab.
#[derive(Debug, Clone)]
pub struct Switch {
    footprint: Footprint,
    network: Ipv4Net,
    segments: Vec<Ipv4Net>,
}

/// Packets that a host sends.
#[derive(Debug, Clone)]
pub struct Count {
    netns: String,
    table: String,
    name: String,
}

impl Switch {
    /// A switch for this /24 network, in one segment or in two halves.
    pub(crate) fn start(footprint: &Footprint, network: Ipv4Net, segments: u8) -> Result<Self> {
        ensure!(network.prefix_len() == 24, "the network of the hosts is a /24, unlike {network}");
        ensure!((1..=2).contains(&segments), "the hosts are on one segment or on two, not on {segments}");
        let segments = network.subnets(23 + segments)?.collect();
        let switch = Self { footprint: footprint.clone(), network: network.trunc(), segments };
        footprint.add_netns(SWITCH)?;
        switch.write("net/ipv4/ip_forward", "1")?;
        // Frames between hosts pass no packet filter. Absent where the kernel has no such thing.
        drop(switch.write("net/bridge/bridge-nf-call-iptables", "0"));
        for (at, segment) in switch.segments.iter().enumerate() {
            let bridge = bridge(at);
            switch.ip(&["link", "add", "name", &bridge, "type", "bridge"])?;
            switch.ip(&[
                "address",
                "add",
                &format!("{}/{}", gateway(segment), segment.prefix_len()),
                "dev",
                &bridge,
            ])?;
            switch.ip(&["link", "set", "dev", &bridge, "up"])?;
        }
        switch.nft(&format!(
            "table ip switch {{
                counter escaped {{ }}
                chain prerouting {{
                    type filter hook prerouting priority 0
                    ip daddr != {{ {}, 224.0.0.0/4, 255.255.255.255 }} counter name escaped drop
                }}
            }}",
            switch.network
        ))?;
        Ok(switch)
    }

    /// The range of all addresses.
    pub fn network(&self) -> Ipv4Net {
        self.network
    }

    /// The address of host number `host`, 0 being the master's. With two segments odd numbers are
    /// in the first one, with the master, and even ones in the second.
    pub fn address(&self, host: u8) -> Ipv4Addr {
        at(self.segment(host), 10 + u32::from(host))
    }

    fn segment(&self, host: u8) -> &Ipv4Net {
        let second = host > 0 && host.is_multiple_of(2);
        &self.segments[if second { self.segments.len() - 1 } else { 0 }]
    }

    /// Connects a host, which has just booted.
    pub(crate) fn attach(&self, name: &str, host: u8) -> Result<()> {
        let (segment, address, netns) = (self.segment(host), self.address(host), self.footprint.netns(name));
        let [.., third, fourth] = address.octets();
        // As with a real host, others may go on with what they know of it after it was away.
        let mac = format!("02:c0:00:02:{third:02x}:{fourth:02x}");
        self.ip(&[
            "link", "add", "name", name, "type", "veth", "peer", "name", UPLINK, "address", &mac, "netns", &netns,
        ])?;
        self.join(name, host)?;
        ip(&["-n", &netns, "address", "add", &format!("{address}/{}", segment.prefix_len()), "dev", UPLINK])?;
        ip(&["-n", &netns, "link", "set", "dev", UPLINK, "up"])?;
        ip(&["-n", &netns, "route", "add", "default", "via", &gateway(segment).to_string()])?;
        Ok(())
    }

    /// Puts a port into a host's segment.
    pub(crate) fn join(&self, port: &str, host: u8) -> Result<()> {
        self.rejoin(port, host)?;
        self.plug(port, true)
    }

    /// The same with a port that stays up or down.
    pub(crate) fn rejoin(&self, port: &str, host: u8) -> Result<()> {
        let index = self.segments.iter().position(|segment| segment == self.segment(host)).unwrap_or(0);
        self.ip(&["link", "set", "dev", port, "master", &bridge(index)]).map(drop)
    }

    /// Removes a host's port with all that was set on it.
    pub(crate) fn detach(&self, name: &str) -> Result<()> {
        self.lose(name, 0)?;
        self.remove_table(&count_table(name))?;
        // It may be gone with the host's end.
        drop(self.ip(&["link", "del", "dev", name]));
        Ok(())
    }

    /// Plugs a host's cable in, or out.
    pub(crate) fn plug(&self, name: &str, is_in: bool) -> Result<()> {
        self.ip(&["link", "set", "dev", name, if is_in { "up" } else { "down" }]).map(drop)
    }

    /// Drops this share of the packets to a host and of those from it, at random.
    pub(crate) fn lose(&self, name: &str, percent: u8) -> Result<()> {
        let table = format!("loss_{name}");
        self.remove_table(&table)?;
        if percent == 0 {
            return Ok(());
        }
        let chain = |hook: &str| {
            format!(
                "chain {hook} {{ type filter hook {hook} device \"{name}\" priority 0
                 numgen random mod 100 < {percent} drop
                 }}"
            )
        };
        self.nft(&format!("table netdev {table} {{\n{}\n{}\n}}", chain("ingress"), chain("egress")))
    }

    /// Begins to count what a host sends to a range of addresses.
    pub(crate) fn count(&self, name: &str, range: &str) -> Result<Count> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (table, counter) = (count_table(name), format!("c{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        self.nft(&format!(
            "table netdev {table} {{
                counter {counter} {{ }}
                chain sent {{
                    type filter hook ingress device \"{name}\" priority -10
                    ip daddr {range} counter name {counter}
                }}
            }}"
        ))?;
        Ok(Count { netns: self.netns(), table: format!("netdev {table}"), name: counter })
    }

    /// What hosts sent to addresses outside the lab.
    pub fn escaped(&self) -> Count {
        Count { netns: self.netns(), table: "ip switch".into(), name: "escaped".into() }
    }

    /// Gives the machine a way to these hosts.
    pub(crate) fn connect_machine(&self, hosts: u8) -> Result<()> {
        let (link, port) = (self.footprint.uplink(), "machine");
        let last = self.segments.len() - 1;
        let own = at(&self.network, MACHINE).to_string();
        ip(&["link", "add", "name", &link, "type", "veth", "peer", "name", port, "netns", &self.netns()])?;
        self.ip(&["link", "set", "dev", port, "master", &bridge(last), "up"])?;
        ip(&["address", "add", &format!("{own}/32"), "dev", &link])?;
        ip(&["link", "set", "dev", &link, "up"])?;
        for host in 0..=hosts {
            // One by one: the machine may have another network of the same range.
            let (to, router) = (format!("{}/32", self.address(host)), gateway(&self.segments[last]).to_string());
            let via = ["via", &router, "onlink"];
            let via = if self.segment(host) == &self.segments[last] { &[][..] } else { &via[..] };
            ip(&[&["route", "add", &to, "dev", &link, "src", &own], via].concat())?;
        }
        Ok(())
    }

    pub(crate) fn netns(&self) -> String {
        self.footprint.netns(SWITCH)
    }

    pub(crate) fn ip(&self, args: &[&str]) -> Result<String> {
        ip(&[&["-n", &self.netns()], args].concat())
    }

    fn nft(&self, script: &str) -> Result<()> {
        in_netns(&self.netns(), "nft").arg(script).output_ok()
    }

    fn remove_table(&self, table: &str) -> Result<()> {
        // Adding what may be there makes deleting sure.
        self.nft(&format!("add table netdev {table}; delete table netdev {table}"))
    }

    fn write(&self, setting: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(setting).display().to_string();
        in_netns(&self.netns(), "sh").args(["-c", r#"echo "$0" >"$1""#, value, &path]).output_ok()
    }
}

impl Count {
    /// How many so far.
    pub fn packets(&self) -> Result<u64> {
        let [family, table] = self.table.split(' ').collect::<Vec<_>>()[..] else { return Ok(0) };
        let listed = output(in_netns(&self.netns, "nft").args(["list", "counter", family, table, &self.name]))?;
        let number = listed.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        number.with_context(|| format!("no number of packets in {listed}"))
    }
}

trait OutputOk {
    fn output_ok(&mut self) -> Result<()>;
}

impl OutputOk for Command {
    fn output_ok(&mut self) -> Result<()> {
        output(self).map(drop)
    }
}

fn in_netns(netns: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args([&format!("--net=/run/netns/{netns}"), "--", program]);
    command
}

fn bridge(segment: usize) -> String {
    format!("segment{segment}")
}

fn count_table(name: &str) -> String {
    format!("count_{name}")
}

fn gateway(segment: &Ipv4Net) -> Ipv4Addr {
    at(segment, 1)
}

fn at(network: &Ipv4Net, place: u32) -> Ipv4Addr {
    (u32::from(network.network()) + place).into()
}
