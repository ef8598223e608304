//! Real sockets on loopback, one thread.

use std::time::Duration;

use proptest::prelude::*;
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    task::{JoinHandle, LocalSet},
};

use super::*;
use crate::Budget;

/// A client and a backend with a relay between them; and how that ends.
async fn scene() -> (TcpStream, TcpStream, JoinHandle<bool>) {
    let pair = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let outer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (outer, listener.accept().await.unwrap().0)
    };
    let (client, mut from_client) = pair().await;
    let (backend, mut to_backend) = pair().await;
    let relaying = tokio::task::spawn_local(async move {
        let pipes = Pipes::new(Budget::of_process());
        let result = relay(&mut from_client, &mut to_backend, &pipes).await;
        if result.is_err() {
            let _ = (from_client.set_zero_linger(), to_backend.set_zero_linger());
        }
        result.is_ok()
    });
    (client, backend, relaying)
}

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(30), test).await.unwrap() };
    LocalSet::new().block_on(&runtime, limited);
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 257) as u8).collect()
}

/// What one side says while the other listens, and the end of it.
async fn say(from: &mut TcpStream, to: &mut TcpStream, parts: &[usize]) {
    let said: Vec<Vec<u8>> = parts.iter().map(|length| bytes(*length)).collect();
    let talking = async {
        for part in &said {
            from.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        from.shutdown().await.unwrap();
    };
    let listening = async {
        let mut heard = Vec::new();
        to.read_to_end(&mut heard).await.unwrap();
        assert!(heard == said.concat(), "{} of {} bytes, or other ones", heard.len(), parts.iter().sum::<usize>());
    };
    tokio::join!(talking, listening);
}

#[test]
fn a_side_that_has_ended_is_still_answered() {
    run(async {
        let (mut client, mut backend, relaying) = scene().await;
        say(&mut client, &mut backend, &[5, 3 << 20]).await;
        say(&mut backend, &mut client, &[7, 5 << 20, 1]).await;
        assert!(relaying.await.unwrap(), "both ended in order");
    });
}

#[test]
fn a_slow_reader_stops_the_writer_and_loses_nothing() {
    run(async {
        let (mut client, mut backend, _) = scene().await;
        let all = bytes(64 << 20);
        let mut sent = 0;
        // Until every buffer on the way is full, for a while.
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), client.write(&all[sent..])).await {
            sent += written.unwrap();
            assert!(sent < all.len(), "bytes pile up");
        }
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        backend.read_to_end(&mut heard).await.unwrap();
        assert!(heard == all[..sent]);
    });
}

#[test]
fn an_error_of_one_side_is_an_error_for_the_other() {
    run(async {
        for from_client in [true, false] {
            let (client, backend, relaying) = scene().await;
            let (failing, mut other) = if from_client { (client, backend) } else { (backend, client) };
            failing.set_zero_linger().unwrap();
            drop(failing);
            assert!(!relaying.await.unwrap());
            assert_eq!(other.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_byte_arrives_once_and_in_order(
        there in prop::collection::vec(prop_oneof![1usize..2000, 16_380usize..16_390, 60_000usize..900_000], 0..8),
        back in prop::collection::vec(prop_oneof![1usize..2000, 16_380usize..16_390, 60_000usize..900_000], 0..8),
    ) {
        run(async move {
            let (client, backend, relaying) = scene().await;
            let (mut client_in, mut client_out) = client.into_split();
            let (mut backend_in, mut backend_out) = backend.into_split();
            let one_way = async |from: &mut tokio::net::tcp::OwnedWriteHalf,
                                 to: &mut tokio::net::tcp::OwnedReadHalf,
                                 parts: &[usize]| {
                let said: Vec<u8> = parts.iter().flat_map(|length| bytes(*length)).collect();
                let mut heard = Vec::new();
                let talking = async {
                    let mut rest = said.as_slice();
                    for length in parts {
                        let (part, after) = rest.split_at(*length);
                        from.write_all(part).await.unwrap();
                        rest = after;
                    }
                    from.shutdown().await.unwrap();
                };
                let (_, result) = tokio::join!(talking, to.read_to_end(&mut heard));
                result.unwrap();
                assert!(heard == said);
            };
            tokio::join!(
                one_way(&mut client_out, &mut backend_in, &there),
                one_way(&mut backend_out, &mut client_in, &back)
            );
            assert!(relaying.await.unwrap());
        });
    }
}
