//! One node with a pod, a stranger and an upstream, as network namespaces.
//!
//! ```text
//!   p 10.77.0.2 ── bridge 10.77.0.1 ── h ── 198.51.100.1 ─── 198.51.100.2 up
//! ```

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};

use super::namespaces::{Namespaces, sh};
pub(crate) use super::namespaces::{blocking, eventually};

pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const UPSTREAM: &str = "198.51.100.2";
const BRIDGE: &str = "cor-7e570d15";
const PREFIX: &str = "cordns";
const REPLY_LIMIT: Duration = Duration::from_secs(5);
/// Longer than an answer from memory takes on a busy machine, shorter than anyone waits.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// The namespaces; removed when dropped.
pub(crate) struct Site {
    namespaces: Namespaces,
}

impl Site {
    pub(crate) fn new() -> Self {
        let site = Self { namespaces: Namespaces::new(PREFIX, &["h", "p", "up"], |_| ()) };
        let (h, p, up) = (site.ns("h"), site.ns("p"), site.ns("up"));
        site.add_bridge();
        sh(&format!("ip -n {p} addr add 10.77.0.2/24 dev eth0"));
        sh(&format!("ip -n {p} link set eth0 up"));
        sh(&format!("ip -n {p} route add default via {GATEWAY}"));
        sh(&format!("ip -n {h} link add eth0 type veth peer name eth0 netns {up}"));
        for (ns, ip) in [(&h, "198.51.100.1"), (&up, UPSTREAM)] {
            sh(&format!("ip -n {ns} addr add {ip}/24 dev eth0"));
            sh(&format!("ip -n {ns} link set eth0 up"));
        }
        sh(&format!("ip -n {up} route add 10.77.0.0/24 via {NODE}"));
        site
    }

    fn ns(&self, part: &str) -> String {
        self.namespaces.ns(part)
    }

    pub(crate) fn add_bridge(&self) {
        let (h, p) = (self.ns("h"), self.ns("p"));
        sh(&format!("ip -n {h} link add {BRIDGE} type bridge"));
        sh(&format!("ip -n {h} addr add {GATEWAY}/24 dev {BRIDGE}"));
        sh(&format!("ip -n {h} link set {BRIDGE} up"));
        if Command::new("ip").args(["-n", &h, "link", "show", "p"]).output().unwrap().status.success() {
            sh(&format!("ip -n {h} link set p master {BRIDGE}"));
        } else {
            sh(&format!("ip -n {h} link add p type veth peer name eth0 netns {p}"));
            sh(&format!("ip -n {h} link set p master {BRIDGE} up"));
        }
    }

    pub(crate) fn remove_bridge(&self) {
        sh(&format!("ip -n {} link del {BRIDGE}", self.ns("h")));
    }

    /// Runs `f` on a thread of its own in a part's namespace.
    pub(crate) fn within<T: Send + 'static>(&self, part: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
        self.namespaces.within(part, f)
    }

    /// Runs an async test body in the node's namespace.
    pub(crate) fn on_node<F: Future<Output = ()>>(&self, body: impl FnOnce() -> F + Send + 'static) {
        self.namespaces.run_within("h", body);
    }

    /// Asks from a part over UDP; `None` where no answer comes.
    pub(crate) fn ask(&self, part: &str, name: &str, kind: RecordType) -> Option<Message> {
        let (question, limit) = (question(name, kind, None), REPLY_LIMIT);
        self.within(part, move || ask_udp(GATEWAY, &question, limit))
    }

    /// A resolver of the world in the part `up`: any name has the address 192.0.2.7, but those that
    /// begin with `none`, and counts what it is asked.
    pub(crate) fn serve_upstream(&self) -> std::sync::Arc<std::sync::Mutex<Vec<String>>> {
        let socket = self.within("up", || UdpSocket::bind((UPSTREAM, 53)).unwrap());
        let asked = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
        let noted = asked.clone();
        std::thread::spawn(move || -> std::io::Result<()> {
            let mut buffer = [0; 1500];
            loop {
                let (len, from) = socket.recv_from(&mut buffer)?;
                let asked = Message::from_vec(&buffer[..len]).unwrap();
                let name = asked.queries[0].name().clone();
                noted.lock().unwrap().push(name.to_string());
                let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
                reply.queries.clone_from(&asked.queries);
                if name.to_string().starts_with("none") {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                } else if asked.queries[0].query_type() == RecordType::A {
                    reply.answers.push(Record::from_rdata(name, 30, RData::A(A::new(192, 0, 2, 7))));
                }
                socket.send_to(&reply.to_vec().unwrap(), from)?;
            }
        });
        asked
    }
}

/// A question, with the payload that the client says it takes.
pub(crate) fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.edns = payload.map(|payload| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns
    });
    message
}

/// Asks over UDP, from where the thread is.
pub(crate) fn ask_udp(server: Ipv4Addr, question: &Message, limit: Duration) -> Option<Message> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((server, 53)).ok()?;
    socket.set_read_timeout(Some(limit)).unwrap();
    socket.send(&question.to_vec().unwrap()).ok()?;
    let mut buffer = [0; 2000];
    let len = socket.recv(&mut buffer).ok()?;
    let reply = Message::from_vec(&buffer[..len]).unwrap();
    assert_eq!((reply.metadata.id, &reply.queries), (question.metadata.id, &question.queries));
    Some(reply)
}

/// Asks over one TCP connection, from where the thread is.
pub(crate) fn ask_tcp(server: Ipv4Addr, questions: &[Message]) -> std::io::Result<Vec<Message>> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((server, 53)), REPLY_LIMIT)?;
    stream.set_read_timeout(Some(REPLY_LIMIT))?;
    let mut sent = Vec::new();
    for question in questions {
        let bytes = question.to_vec().unwrap();
        sent.extend((bytes.len() as u16).to_be_bytes());
        sent.extend(bytes);
    }
    stream.write_all(&sent)?;
    let mut reply = || {
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut bytes = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut bytes)?;
        Ok(Message::from_vec(&bytes).unwrap())
    };
    questions.iter().map(|_| reply()).collect()
}

/// The addresses in an answer, sorted.
pub(crate) fn addresses(reply: &Message) -> Vec<String> {
    let mut all: Vec<_> =
        reply.answers.iter().filter(|r| r.record_type() == RecordType::A).map(|r| r.data.to_string()).collect();
    all.sort();
    all
}
