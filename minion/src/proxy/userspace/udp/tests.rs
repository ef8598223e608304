//! Real sockets on loopback, one thread.

use tokio::task::LocalSet;

use super::*;
use crate::proxy::table::{Forward, Protocol};

/// A portal over backends that tell who they are, and the flows of its thread.
struct Scene {
    flows: Rc<Flows>,
    portal: SocketAddrV4,
    key: Portal,
}

async fn backend() -> SocketAddrV4 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = v4(&socket);
    tokio::task::spawn_local(async move {
        let mut buffer = [0; 16];
        while let Ok((_, client)) = socket.recv_from(&mut buffer).await {
            socket.send_to(address.to_string().as_bytes(), client).await.unwrap();
        }
    });
    address
}

fn v4(socket: &UdpSocket) -> SocketAddrV4 {
    let std::net::SocketAddr::V4(address) = socket.local_addr().unwrap() else { panic!() };
    address
}

/// An address where nobody is.
async fn nobody() -> SocketAddrV4 {
    v4(&UdpSocket::bind("127.0.0.1:0").await.unwrap())
}

async fn scene(max: usize, mut backends: Vec<SocketAddrV4>) -> Scene {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let portal = v4(&socket);
    backends.sort_unstable();
    let key = Portal::of_service(*portal.ip(), Protocol::Udp, portal.port());
    let service = Arc::new(Service::new(key, Forward::to(backends.into())));
    let flows = Rc::new(Flows::new(Budget::of_process(), max));
    let of_task = Rc::clone(&flows);
    tokio::task::spawn_local(async move {
        receive(&Rc::new(PortalSocket { socket, service }), &of_task).await.unwrap();
    });
    Scene { flows, portal, key }
}

async fn ask(client: &UdpSocket) -> String {
    client.send(b"who").await.unwrap();
    let mut buffer = [0; 64];
    let length = client.recv(&mut buffer).await.unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

async fn client(scene: &Scene) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(scene.portal).await.unwrap();
    socket
}

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(30), test).await.unwrap() };
    LocalSet::new().block_on(&runtime, limited);
}

#[test]
fn the_flow_that_was_silent_longest_makes_room() {
    run(async {
        let backend = backend().await;
        let scene = scene(2, vec![backend]).await;
        let [a, b, c] = [client(&scene).await, client(&scene).await, client(&scene).await];
        for client in [&a, &b, &a, &c] {
            assert_eq!(ask(client).await, backend.to_string());
        }
        let clients = |of: &[&UdpSocket]| of.iter().map(|s| v4(s)).collect::<std::collections::BTreeSet<_>>();
        let held: std::collections::BTreeSet<_> = scene.flows.table.borrow().keys().map(|(_, _, c)| *c).collect();
        assert_eq!(held, clients(&[&a, &c]));
    });
}

#[test]
fn silent_flows_and_those_to_gone_backends_end() {
    run(async {
        let backend = backend().await;
        let scene = scene(8, vec![backend]).await;
        let client = client(&scene).await;
        let open = || scene.flows.table.borrow().len();
        ask(&client).await;
        scene.flows.expire(Instant::now());
        assert_eq!(open(), 1);
        scene.flows.expire(Instant::now() + IDLE);
        assert_eq!(open(), 0);
        ask(&client).await;
        scene.flows.cut(&[(scene.key, nobody().await)]);
        assert_eq!(open(), 1);
        scene.flows.cut(&[(scene.key, backend)]);
        assert_eq!(open(), 0);
    });
}

#[test]
fn a_client_that_loses_its_backend_again_and_again_is_noted_once() {
    run(async {
        let backend = backend().await;
        let scene = scene(8, vec![backend]).await;
        let client = client(&scene).await;
        for _ in 0..20 {
            ask(&client).await;
            scene.flows.cut(&[(scene.key, backend)]);
        }
        let before = Instant::now();
        while Instant::now() == before {
            std::hint::spin_loop();
        }
        ask(&client).await;
        let noted = || scene.flows.order.borrow().len();
        assert_eq!(noted(), 21);
        // All of them are due but the last, which was used since.
        scene.flows.expire(before + IDLE);
        assert_eq!((noted(), scene.flows.table.borrow().len()), (1, 1));
    });
}

#[test]
fn a_datagram_that_is_refused_goes_to_the_next_backend() {
    run(async {
        let backend = backend().await;
        let scene = scene(8, vec![nobody().await, backend, nobody().await]).await;
        for _ in 0..10 {
            assert_eq!(ask(&client(&scene).await).await, backend.to_string());
        }
    });
}
