//! The kernel's record of connections (`linux/netfilter/nfnetlink_conntrack.h`), over netlink: finds
//! flows and forgets them.
//!
//! Why not with the `conntrack` tool: it removes what it listed by the client's side of a flow. A client
//! that uses a port again between the two loses its new connection, as the kernel then translates the rest
//! of it to whichever backend comes next. The id does not tell the two apart: it is made of the client's
//! side and of where the flow is in memory, which is often where the one before was. So here a flow is
//! removed by the side of whoever answers it. Whatever is answered by others is another.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};

use crate::nfnetlink::{ACKNOWLEDGED, attribute, messages, put, put_nested, request};

/// `NFNL_SUBSYS_CTNETLINK`, the upper byte of a message's type.
const SUBSYSTEM: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_NEW`
const NEW: u16 = SUBSYSTEM;
/// `IPCTNL_MSG_CT_GET`
const GET: u16 = SUBSYSTEM | 1;
/// `IPCTNL_MSG_CT_DELETE`
const DELETE: u16 = SUBSYSTEM | 2;
/// `NLMSG_DONE`
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const DUMP: u16 = 0x301;
/// `CTA_TUPLE_ORIG`
const TUPLE_ORIGINAL: u16 = 1;
/// `CTA_TUPLE_REPLY`
const TUPLE_REPLY: u16 = 2;
/// `CTA_ID`
const ID: u16 = 12;
/// `CTA_TUPLE_IP`
const TUPLE_IP: u16 = 1;
/// `CTA_TUPLE_PROTO`
const TUPLE_PROTOCOL: u16 = 2;
/// `CTA_IP_V4_SRC`
const IP_SOURCE: u16 = 1;
/// `CTA_IP_V4_DST`
const IP_DESTINATION: u16 = 2;
/// `CTA_PROTO_NUM`
const PROTOCOL_NUMBER: u16 = 1;
/// `CTA_PROTO_SRC_PORT`
const PORT_SOURCE: u16 = 2;
/// `CTA_PROTO_DST_PORT`
const PORT_DESTINATION: u16 = 3;
/// For one call: a look goes through every connection of the host.
const LIMIT: Duration = Duration::from_secs(10);
/// Room for a part of the list.
const BUFFER_BYTES: u32 = 1 << 20;

/// A flow of a protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    /// `IPPROTO_*`
    pub(crate) protocol: u8,
    /// Where the client sends.
    pub(crate) to: SocketAddrV4,
    /// Who answers it.
    pub(crate) answering: SocketAddrV4,
}

impl Flow {
    /// Whether it goes where the client sends it.
    pub(crate) fn is_untranslated(&self) -> bool {
        self.to == self.answering
    }
}

/// Forgets the flows that `which` picks; what their clients send next is a new flow. Returns how many.
/// Needs root.
pub(crate) async fn forget(which: impl Fn(&Flow) -> bool + Send) -> io::Result<usize> {
    let forgetting = async {
        let socket = Kernel::open()?;
        let found = socket.find(which).await?;
        let mut forgotten = 0;
        for flow in &found {
            match socket.delete(flow).await {
                Ok(done) => forgotten += usize::from(done),
                // The others are not to blame.
                Err(error) => tracing::debug!(%error, "a flow can't be forgotten"),
            }
        }
        Ok(forgotten)
    };
    tokio::time::timeout(LIMIT, forgetting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Forgets the flows that services sent to a pod. To be done when nothing of the pod runs any more and
/// before the engine takes its network away: Docker removes such flows then as the `conntrack` tool does,
/// and with them connections that clients have begun from the same ports since.
pub(crate) async fn forget_pod(ip: Ipv4Addr) {
    match forget(|flow| *flow.answering.ip() == ip && !flow.is_untranslated()).await {
        Ok(forgotten) => tracing::debug!(%ip, forgotten, "flows of a pod that is gone"),
        Err(error) => tracing::debug!(%ip, %error, "flows of a pod that is gone can't be forgotten"),
    }
}

/// A connection to the kernel.
struct Kernel(TokioSocket);

/// What names a flow for the kernel: the attributes of a request.
type Name = Vec<u8>;

impl Kernel {
    fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().set_rx_buf_sz(BUFFER_BYTES)?;
        socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    async fn find(&self, which: impl Fn(&Flow) -> bool + Send) -> io::Result<Vec<Name>> {
        self.0.send(&request(GET, DUMP, &[])).await?;
        let mut found = Vec::new();
        loop {
            let (datagram, _) = self.0.recv_from_full().await?;
            for message in messages(&datagram) {
                match message.kind {
                    DONE => return Ok(found),
                    NEW => {
                        found.extend(read(message.attributes()).filter(|(flow, _)| which(flow)).map(|(_, name)| name))
                    }
                    _ => message.outcome().transpose().map(drop)?,
                }
            }
        }
    }

    /// False if it has ended meanwhile.
    async fn delete(&self, flow: &Name) -> io::Result<bool> {
        self.0.send(&request(DELETE, ACKNOWLEDGED, flow)).await?;
        loop {
            let (datagram, _) = self.0.recv_from_full().await?;
            if let Some(outcome) = messages(&datagram).find_map(|message| message.outcome()) {
                return match outcome {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                    outcome => outcome.map(|()| true),
                };
            }
        }
    }
}

/// A flow and its name. `None` for what has no ports, or no id: a request to delete that names no side
/// means all.
fn read(attributes: &[u8]) -> Option<(Flow, Name)> {
    let (original, reply) = (attribute(attributes, TUPLE_ORIGINAL)?, attribute(attributes, TUPLE_REPLY)?);
    let id = attribute(attributes, ID).filter(|id| id.len() == 4)?;
    let protocol = *attribute(attribute(original, TUPLE_PROTOCOL)?, PROTOCOL_NUMBER)?.first()?;
    let flow = Flow {
        protocol,
        to: side(original, IP_DESTINATION, PORT_DESTINATION)?,
        answering: side(reply, IP_SOURCE, PORT_SOURCE)?,
    };
    let mut name = Name::new();
    put_nested(&mut name, TUPLE_REPLY, reply);
    put(&mut name, ID, id);
    Some((flow, name))
}

fn side(tuple: &[u8], ip: u16, port: u16) -> Option<SocketAddrV4> {
    let ip: [u8; 4] = attribute(attribute(tuple, TUPLE_IP)?, ip)?.try_into().ok()?;
    let port: [u8; 2] = attribute(attribute(tuple, TUPLE_PROTOCOL)?, port)?.try_into().ok()?;
    Some(SocketAddrV4::new(ip.into(), u16::from_be_bytes(port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfnetlink::testing::alone;

    /// `CTA_TIMEOUT`
    const TIMEOUT: u16 = 7;
    /// `NLM_F_CREATE | NLM_F_EXCL`
    const EXCLUSIVE: u16 = 0x600;
    const CLIENT: ([u8; 4], u16) = ([10, 244, 0, 1], 40_000);
    const PORTAL: ([u8; 4], u16) = ([10, 0, 0, 5], 80);
    const BACKENDS: [([u8; 4], u16); 2] = [([10, 244, 0, 2], 8080), ([10, 244, 0, 3], 8080)];

    fn tuple(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let (mut ips, mut ports, mut tuple) = (Vec::new(), Vec::new(), Vec::new());
        put(&mut ips, IP_SOURCE, &from.0);
        put(&mut ips, IP_DESTINATION, &to.0);
        put(&mut ports, PROTOCOL_NUMBER, &[6]);
        put(&mut ports, PORT_SOURCE, &from.1.to_be_bytes());
        put(&mut ports, PORT_DESTINATION, &to.1.to_be_bytes());
        put_nested(&mut tuple, TUPLE_IP, &ips);
        put_nested(&mut tuple, TUPLE_PROTOCOL, &ports);
        tuple
    }

    /// A connection of the client through the portal, as the kernel tells of it and as it can be told.
    fn connection(backend: ([u8; 4], u16)) -> Vec<u8> {
        let mut attributes = Vec::new();
        put_nested(&mut attributes, TUPLE_ORIGINAL, &tuple(CLIENT, PORTAL));
        put_nested(&mut attributes, TUPLE_REPLY, &tuple(backend, CLIENT));
        put(&mut attributes, TIMEOUT, &60u32.to_be_bytes());
        attributes
    }

    fn address(of: ([u8; 4], u16)) -> SocketAddrV4 {
        SocketAddrV4::new(of.0.into(), of.1)
    }

    #[test]
    fn a_flow_is_read_with_what_names_it() {
        let mut attributes = connection(BACKENDS[0]);
        assert_eq!(read(&attributes), None, "it has no id");
        put(&mut attributes, ID, &[1, 2, 3, 4]);
        let (flow, name) = read(&attributes).unwrap();
        assert_eq!(flow, Flow { protocol: 6, to: address(PORTAL), answering: address(BACKENDS[0]) });
        assert!(!flow.is_untranslated());
        let named = [TUPLE_ORIGINAL, TUPLE_REPLY, ID].map(|kind| attribute(&name, kind).map(<[u8]>::to_vec));
        assert_eq!(named, [None, Some(tuple(BACKENDS[0], CLIENT)), Some(vec![1, 2, 3, 4])]);
    }

    impl Kernel {
        async fn add(&self, connection: &[u8]) {
            self.0.send(&request(NEW, ACKNOWLEDGED | EXCLUSIVE, connection)).await.unwrap();
            let (datagram, _) = self.0.recv_from_full().await.unwrap();
            assert_eq!(messages(&datagram).next().unwrap().error(), Some(0));
        }

        async fn answered_by(&self, backend: ([u8; 4], u16)) -> Vec<Name> {
            self.find(|flow| flow.answering == address(backend)).await.unwrap()
        }
    }

    /// The kernel gives the two one id where the second lies in memory where the first was, as it mostly does.
    #[test]
    fn a_connection_that_a_client_begins_from_the_same_port_is_not_forgotten_with_the_one_before() {
        alone(async || {
            let kernel = Kernel::open().unwrap();
            for _ in 0..32 {
                kernel.add(&connection(BACKENDS[0])).await;
                let before = kernel.answered_by(BACKENDS[0]).await;
                let [old] = before.as_slice() else { panic!("{before:?}") };
                assert!(kernel.delete(old).await.unwrap());
                kernel.add(&connection(BACKENDS[1])).await;
                assert!(!kernel.delete(old).await.unwrap(), "it has ended already");
                let now = kernel.answered_by(BACKENDS[1]).await;
                let [new] = now.as_slice() else { panic!("the new connection was forgotten: {now:?}") };
                assert!(kernel.delete(new).await.unwrap());
            }
        });
    }
}
