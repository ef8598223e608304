//! Against upstreams on loopback, with time that passes only while all wait.

use hickory_proto::{
    op::{MessageType, OpCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use tokio::net::TcpListener;

use super::*;
use crate::dns::forward::Forwarder;

/// How an upstream treats a question.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Answer,
    Silence,
    /// The answer comes after this many milliseconds.
    Slow(u64),
    WrongId,
    WrongQuestion,
    /// Cut off over UDP; whole over TCP.
    Truncate,
    /// Cut off over UDP; another question over TCP.
    TruncateWrong,
    Fail,
    /// Knows no EDNS.
    Old,
    NoSuchName,
}

/// Sockets of both protocols on one port, which other processes look for as well.
async fn one_port() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both protocols");
}

/// A server on loopback; what it was asked, as `udp` or `tcp` and the name.
struct Fake {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    async fn start(manner: Manner) -> Self {
        Self::start_with(move |_| manner).await
    }

    /// `manner` is told how many questions came before.
    async fn start_with(manner: impl Fn(usize) -> Manner + Send + Sync + 'static) -> Self {
        let (udp, tcp) = one_port().await;
        let address = udp.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let note = |asked: &Mutex<Vec<String>>, how: &str, message: &Message| {
            let mut asked = asked.lock().unwrap();
            asked.push(format!("{how} {}", message.queries[0].name()));
            asked.len() - 1
        };
        let (noted, manner) = (Arc::clone(&asked), Arc::new(manner));
        let manner_of = Arc::clone(&manner);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..len]).unwrap();
                let manner = manner_of(note(&noted, "udp", &question));
                if manner == Manner::Silence {
                    continue;
                }
                if let Manner::Slow(millis) = manner {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                }
                udp.send_to(&reply(&question, manner, true), from).await.unwrap();
            }
        });
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut bytes).await.unwrap();
                let question = Message::from_vec(&bytes).unwrap();
                let bytes = reply(&question, manner(note(&noted, "tcp", &question)), false);
                stream.write_u16(bytes.len() as u16).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn reply(question: &Message, manner: Manner, udp: bool) -> Vec<u8> {
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    reply.queries.clone_from(&question.queries);
    let name = question.queries[0].name().clone();
    reply.answers.push(Record::from_rdata(name, 30, RData::A(A::new(192, 0, 2, 7))));
    let wrong = Query::query(Name::from_ascii("wrong.example.").unwrap(), RecordType::A);
    match manner {
        Manner::WrongId => reply.metadata.id ^= 1,
        Manner::WrongQuestion => reply.queries = vec![wrong],
        Manner::TruncateWrong if !udp => reply.queries = vec![wrong],
        Manner::Truncate | Manner::TruncateWrong if udp => {
            reply.answers.clear();
            reply.metadata.truncation = true;
        }
        Manner::Fail => reply.metadata.response_code = ResponseCode::ServFail,
        Manner::Old if question.edns.is_some() => reply.metadata.response_code = ResponseCode::FormErr,
        Manner::NoSuchName => {
            reply.answers.clear();
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        _ => {}
    }
    reply.to_vec().unwrap()
}

fn question(name: &str) -> Query {
    Query::query(Name::from_ascii(name).unwrap(), RecordType::A)
}

/// Asks upstreams of these manners: the answer's code and number of records, who was asked how, and
/// how many seconds that took.
async fn ask(manners: &[Manner]) -> (Option<(ResponseCode, usize)>, Vec<Vec<String>>, u64) {
    let mut fakes = Vec::new();
    for manner in manners {
        fakes.push(Fake::start(*manner).await);
    }
    let upstreams = Upstreams::fixed(&fakes.iter().map(|fake| fake.address).collect::<Vec<_>>());
    let began = Instant::now();
    let reply = upstreams.ask(&question("a.example.")).await;
    let took = began.elapsed().as_secs();
    let reply = reply.map(|(_, message)| (message.metadata.response_code, message.answers.len()));
    let ways = fakes.iter().map(|fake| fake.asked().iter().map(|line| line[..3].to_owned()).collect());
    (reply, ways.collect(), took)
}

const FOUND: Option<(ResponseCode, usize)> = Some((ResponseCode::NoError, 1));

#[tokio::test(start_paused = true)]
async fn the_first_that_answers_is_enough() {
    assert_eq!(ask(&[Manner::Answer, Manner::Answer]).await, (FOUND, vec![vec!["udp".to_owned()], vec![]], 0));
    let (reply, ..) = ask(&[Manner::NoSuchName, Manner::Answer]).await;
    assert_eq!(reply, Some((ResponseCode::NXDomain, 0)), "that there is nothing is an answer");
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_or_lies_or_is_late_is_followed_by_the_next() {
    for (manner, seconds) in [
        (Manner::Silence, 2),
        (Manner::WrongId, 2),
        (Manner::WrongQuestion, 2),
        (Manner::Slow(2500), 2),
        (Manner::Fail, 0),
        (Manner::TruncateWrong, 0),
    ] {
        let (reply, asked, took) = ask(&[manner, Manner::Answer]).await;
        assert_eq!((reply, asked[1].as_slice(), took), (FOUND, &["udp".to_owned()][..], seconds), "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_in_time_counts() {
    assert_eq!(ask(&[Manner::Slow(1500), Manner::Answer]).await.1[1], Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_lost_datagram_is_sent_again() {
    let fake = Fake::start_with(|before| if before == 0 { Manner::Silence } else { Manner::Answer }).await;
    let upstreams = Upstreams::fixed(&[fake.address]);
    assert!(upstreams.ask(&question("a.example.")).await.is_some());
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_truncated_answer_is_asked_for_over_tcp() {
    let (reply, asked, _) = ask(&[Manner::Truncate]).await;
    assert_eq!((reply, asked), (FOUND, vec![vec!["udp".to_owned(), "tcp".to_owned()]]));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_knows_no_edns_is_asked_without() {
    let (reply, asked, _) = ask(&[Manner::Old]).await;
    assert_eq!((reply, asked[0].len()), (FOUND, 2));
}

#[tokio::test(start_paused = true)]
async fn when_none_answers_that_is_said_after_a_time_that_clients_wait() {
    assert_eq!(ask(&[]).await, (None, vec![], 0));
    let (reply, _, took) = ask(&[Manner::Silence]).await;
    assert_eq!((reply, took), (None, 4));
    let (reply, asked, took) = ask(&[Manner::Fail, Manner::Silence, Manner::Fail]).await;
    assert_eq!((reply, asked.len(), took), (None, 3, 2));
    // Nobody listens there any more.
    let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = Instant::now();
    assert!(Upstreams::fixed(&[gone]).ask(&question("a.example.")).await.is_none());
    assert!(began.elapsed() < ATTEMPT_LIMIT, "a refusal is not waited for");
}

#[tokio::test(start_paused = true)]
async fn the_next_question_begins_with_the_server_that_answered() {
    let (silent, answering) = (Fake::start(Manner::Silence).await, Fake::start(Manner::Answer).await);
    let upstreams = Upstreams::fixed(&[silent.address, answering.address]);
    for _ in 0..3 {
        assert!(upstreams.ask(&question("a.example.")).await.is_some());
    }
    assert_eq!((silent.asked().len(), answering.asked().len()), (1, 3));
    tokio::time::advance(REST).await;
    assert!(upstreams.ask(&question("a.example.")).await.is_some());
    assert_eq!((silent.asked().len(), answering.asked().len()), (2, 4), "it may answer again");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_tell_one_name_is_first_for_the_next() {
    let first = Fake::start_with(|before| if before == 0 { Manner::Fail } else { Manner::Answer }).await;
    let second = Fake::start(Manner::NoSuchName).await;
    let upstreams = Upstreams::fixed(&[first.address, second.address]);
    let code = async || upstreams.ask(&question("a.example.")).await.map(|(_, m)| m.metadata.response_code);
    assert_eq!(code().await, Some(ResponseCode::NXDomain));
    assert_eq!(code().await, Some(ResponseCode::NoError));
}

#[tokio::test(start_paused = true)]
async fn the_hosts_resolvers_are_read_again_and_are_never_ourselves() {
    let dir = tempfile::tempdir().unwrap();
    let files = HostFiles { resolv_conf: dir.path().join("resolv.conf"), behind_stub: dir.path().join("none") };
    let own = IpAddr::from([10, 244, 0, 1]);
    let upstreams = Upstreams::of_host(files.clone(), own);
    assert!(upstreams.servers().await.is_empty());
    std::fs::write(&files.resolv_conf, "nameserver 10.244.0.1\nnameserver 192.0.2.1\n").unwrap();
    assert!(upstreams.servers().await.is_empty(), "what was read is good for a while");
    tokio::time::advance(REREAD).await;
    assert_eq!(*upstreams.servers().await, [SocketAddr::from(([192, 0, 2, 1], 53))]);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_many_have_is_asked_once_and_the_answer_kept() {
    let fake = Fake::start(Manner::Slow(100)).await;
    let forwarder = Forwarder::new(Upstreams::fixed(&[fake.address]));
    let (a, upper, b) = (question("a.example."), question("A.Example."), question("b.example."));
    let (one, two, three, other) =
        tokio::join!(forwarder.resolve(&a), forwarder.resolve(&upper), forwarder.resolve(&a), forwarder.resolve(&b));
    assert!(one.is_some() && one == two && two == three && other.is_some() && other != one);
    let mut asked = fake.asked();
    asked.sort();
    assert_eq!(asked, ["udp a.example.", "udp b.example."]);
    tokio::time::advance(Duration::from_secs(29)).await;
    assert_eq!(forwarder.cached(&upper).map(|known| known.age), Some(29));
    assert!(forwarder.resolve(&a).await.is_some());
    assert_eq!(fake.asked().len(), 2);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(forwarder.cached(&a), None);
    assert!(forwarder.resolve(&a).await.is_some());
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_question_of_another_is_told_when_that_one_is_cut_off() {
    let silent = Fake::start(Manner::Silence).await;
    let forwarder = Arc::new(Forwarder::new(Upstreams::fixed(&[silent.address])));
    let ask = || {
        let forwarder = Arc::clone(&forwarder);
        tokio::spawn(async move { forwarder.resolve(&question("a.example.")).await })
    };
    let first = ask();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let second = ask();
    tokio::time::sleep(Duration::from_millis(10)).await;
    first.abort();
    let began = Instant::now();
    assert_eq!(second.await.unwrap(), None);
    assert!(began.elapsed() < Duration::from_millis(100));
    assert_eq!(ask().await.unwrap(), None, "the question can be asked again");
    assert_eq!(silent.asked().len(), 3);
}
