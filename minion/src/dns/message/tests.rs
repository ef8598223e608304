use hickory_proto::rr::{
    Name,
    rdata::{A, CNAME, SOA},
};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(text: &str) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(name(text), RecordType::A));
    message
}

fn request(message: &Message) -> Request {
    match decode(&message.to_vec().unwrap()) {
        Decoded::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

fn address(owner: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, 1)))
}

fn soa(ttl: u32, minimum: u32) -> Record {
    let soa = SOA::new(name("ns."), name("mail."), 1, 1, 1, 1, minimum);
    Record::from_rdata(name("example."), ttl, RData::SOA(soa))
}

fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.edns = Some(edns);
    message
}

fn answers(count: usize) -> Answer {
    let answers = vec![address("a.example.", 5); count];
    Answer { answers, additionals: vec![address("b.example.", 5); 3], ..Answer::only(ResponseCode::NoError) }
}

#[test]
fn the_way_back_is_as_wide_as_the_client_says_within_reason() {
    assert_eq!(request(&query("a.")).datagram_limit(), 512);
    for (says, counts) in [(0, 512), (600, 600), (1232, 1232), (4096, 1232)] {
        assert_eq!(request(&with_edns(query("a."), says)).datagram_limit(), counts);
    }
}

#[test]
fn what_is_no_question_gets_a_code_or_nothing() {
    let check = |message: Message, code: ResponseCode| match decode(&message.to_vec().unwrap()) {
        Decoded::Refused(bytes) => {
            let reply = Message::from_vec(&bytes).unwrap();
            // 16 has two names.
            let code_of = u16::from(reply.metadata.response_code);
            let expected = (77, MessageType::Response, u16::from(code));
            assert_eq!((reply.metadata.id, reply.metadata.message_type, code_of), expected);
        }
        other => panic!("{other:?}"),
    };
    let mut message = query("a.");
    message.queries[0].set_query_class(DNSClass::CH);
    check(message, ResponseCode::Refused);
    let mut message = query("a.");
    message.queries[0].set_query_type(RecordType::AXFR);
    check(message, ResponseCode::Refused);
    let mut message = query("a.");
    message.queries.push(message.queries[0].clone());
    check(message, ResponseCode::FormErr);
    check(Message::new(77, MessageType::Query, OpCode::Notify), ResponseCode::NotImp);
    let mut message = with_edns(query("a."), 512);
    message.edns.as_mut().unwrap().set_version(1);
    check(message, ResponseCode::BADVERS);
    let mut bytes = query("a.").to_vec().unwrap();
    bytes.truncate(14);
    assert!(matches!(decode(&bytes), Decoded::Refused(_)));
    let mut message = query("a.");
    message.metadata.message_type = MessageType::Response;
    assert_eq!(decode(&message.to_vec().unwrap()), Decoded::Noise);
}

#[test]
fn what_was_not_asked_for_goes_first_and_then_the_client_is_sent_to_tcp() {
    let request = request(&with_edns(query("a.example."), 1232));
    let read = |count, limit| {
        let bytes = encode(&request, answers(count), limit);
        assert!(bytes.len() <= usize::from(limit));
        let message = Message::from_vec(&bytes).unwrap();
        assert!(message.metadata.recursion_available && message.metadata.recursion_desired);
        assert_eq!(message.queries, std::slice::from_ref(&request.question));
        assert!(message.edns.is_some());
        (message.answers.len(), message.additionals.len(), message.metadata.truncation)
    };
    assert_eq!(read(10, 1232), (10, 3, false));
    assert_eq!(read(28, 512), (28, 0, false));
    let (some, none, truncated) = read(100, 1232);
    assert!((70..76).contains(&some) && none == 0 && truncated, "{some}");
    assert_eq!(read(1000, STREAM_MAX), (1000, 3, false));
    let (most, _, truncated) = read(6000, STREAM_MAX);
    assert!(most > 2000 && truncated, "{most}");
}

#[test]
fn an_answer_is_kept_as_long_as_its_shortest_record() {
    let lifetime = |code, answers: &[Record], authorities: &[Record]| {
        let mut message = Message::response(1, OpCode::Query);
        message.queries.push(Query::query(name("www."), RecordType::A));
        message.metadata.response_code = code;
        message.answers.extend_from_slice(answers);
        message.authorities.extend_from_slice(authorities);
        lifetime(&message).map(|lifetime| lifetime.as_secs())
    };
    let (ok, none) = (ResponseCode::NoError, ResponseCode::NXDomain);
    assert_eq!(lifetime(ok, &[address("a.", 30), address("a.", 20)], &[]), Some(20));
    assert_eq!(lifetime(ok, &[address("a.", 30), address("a.", 0)], &[]), None);
    assert_eq!(lifetime(ok, &[address("a.", 1_000_000)], &[]), Some(3600));
    assert_eq!(lifetime(ok, &[], &[soa(30, 20)]), Some(20));
    assert_eq!(lifetime(none, &[], &[soa(10, 20)]), Some(10));
    assert_eq!(lifetime(none, &[address("a.", 3)], &[soa(10, 20)]), Some(3));
    assert_eq!(lifetime(none, &[], &[soa(3600, 3600)]), Some(60));
    assert_eq!(lifetime(none, &[], &[]), None);
    let alias = |ttl| Record::from_rdata(name("www."), ttl, RData::CNAME(CNAME(name("a."))));
    assert_eq!(lifetime(ok, &[alias(3600), address("a.", 20)], &[]), Some(20));
    assert_eq!(lifetime(ok, &[alias(3600)], &[soa(3600, 30)]), Some(30), "an alias of something without an address");
    assert_eq!(lifetime(ok, &[alias(10)], &[soa(3600, 30)]), Some(10));
    assert_eq!(lifetime(ResponseCode::ServFail, &[], &[soa(10, 10)]), None);
}

#[test]
fn only_the_answer_to_the_question_counts() {
    let question = Query::query(name("a.example."), RecordType::A);
    let reply = |id, asked: &Query, kind| {
        let mut message = Message::new(id, kind, OpCode::Query);
        message.queries.push(asked.clone());
        reply_to(7, &question, &message.to_vec().unwrap()).is_some()
    };
    assert!(reply(7, &question, MessageType::Response));
    assert!(!reply(8, &question, MessageType::Response));
    assert!(!reply(7, &question, MessageType::Query));
    assert!(!reply(7, &Query::query(name("b.example."), RecordType::A), MessageType::Response));
    assert!(!reply(7, &Query::query(name("a.example."), RecordType::AAAA), MessageType::Response));
}

#[test]
fn the_rest_of_an_answer_is_aged_and_in_the_letters_of_the_question() {
    let mut reply = Message::response(1, OpCode::Query);
    reply.answers = vec![address("a.example.", 10), address("b.example.", 3)];
    let asked = Query::query(name("A.Example."), RecordType::A);
    let begun = Answer { upstream: Some(asked), ..answers(1) };
    let whole = complete(begun.clone(), &reply.to_vec().unwrap(), 4);
    let seen: Vec<_> = whole.answers.iter().map(|r| (r.name.to_string(), r.ttl)).collect();
    assert_eq!(seen[1..], [("A.Example.".to_owned(), 6), ("b.example.".to_owned(), 0)]);
    assert_eq!(complete(begun, b"x", 0), Answer::only(ResponseCode::ServFail));
}

proptest! {
    #[test]
    fn any_bytes_are_read_and_whatever_is_answered_fits(
        bytes in proptest::collection::vec(any::<u8>(), 0..600), count in 0usize..200, limit in 512u16..1300,
    ) {
        match decode(&bytes) {
            Decoded::Noise => {}
            Decoded::Refused(reply) => prop_assert!(reply.len() <= 512),
            Decoded::Request(request) => prop_assert!(encode(&request, answers(count), limit).len() <= usize::from(limit)),
        }
        let question = Query::query(name("a.example."), RecordType::A);
        let _ = reply_to(7, &question, &bytes);
        let _ = complete(Answer { upstream: Some(question), ..answers(1) }, &bytes, 1);
    }

    #[test]
    fn a_spoilt_question_is_read_without_panic(
        labels in proptest::collection::vec("[a-z]{1,20}", 0..8), at: prop::sample::Index, byte: u8, edns: bool,
    ) {
        let message = query(&format!("{}.", labels.join(".")));
        let mut bytes = if edns { with_edns(message, 1232) } else { message }.to_vec().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Decoded::Request(request) = decode(&bytes) {
            let limit = request.datagram_limit();
            prop_assert!(encode(&request, answers(60), limit).len() <= usize::from(limit));
        }
    }
}
