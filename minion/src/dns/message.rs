//! Messages: from bytes to a request, and from an answer to bytes that fit. Pure.
//!
//! Invariant: nothing is answered that is itself an answer, so that two servers never talk to each
//! other in circles; and no answer is longer than its limit.

use std::time::Duration;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType},
    serialize::binary::{BinEncodable, BinEncoder},
};

use super::answer::Answer;

/// What a datagram may carry unfragmented on any path; also what is offered to upstreams.
pub(super) const DATAGRAM_MAX: u16 = 1232;
/// What any resolver takes in a datagram.
const DATAGRAM_MIN: u16 = 512;
/// What a message behind a length of two bytes may have.
pub(super) const STREAM_MAX: u16 = u16::MAX;
const HEADER_BYTES: usize = 12;
/// Of EDNS without options.
const EDNS_BYTES: u16 = 11;
/// The longest that others' answers are kept.
const KEEP_MAX: Duration = Duration::from_secs(3600);
/// The longest that it is kept that there is nothing.
const KEEP_NOTHING_MAX: Duration = Duration::from_secs(60);

/// A question of class IN, and how its answer may look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    id: u16,
    recursion_desired: bool,
    checking_disabled: bool,
    /// The payload that the client takes, where it speaks EDNS.
    edns: Option<u16>,
    pub(super) question: Query,
}

impl Request {
    /// What a datagram to the client may carry.
    pub(super) fn datagram_limit(&self) -> u16 {
        self.edns.unwrap_or(DATAGRAM_MIN).clamp(DATAGRAM_MIN, DATAGRAM_MAX)
    }
}

/// What bytes from a client are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// Nothing that is answered.
    Noise,
    /// Something that is answered with no more than a code.
    Refused(Vec<u8>),
    /// A question.
    Request(Request),
}

/// Reads what a client sent.
pub(super) fn decode(bytes: &[u8]) -> Decoded {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Decoded::Noise };
    let [id_high, id_low, flags, _, questions_high, questions_low, ..] = *header;
    if flags & 0x80 != 0 {
        return Decoded::Noise;
    }
    let id = u16::from_be_bytes([id_high, id_low]);
    let op_code = OpCode::from_u8((flags >> 3) & 0x0f);
    let bare = |code| Message::error_msg(id, op_code, code).to_vec().map_or(Decoded::Noise, Decoded::Refused);
    if op_code != OpCode::Query {
        return bare(ResponseCode::NotImp);
    }
    // Checked first: the decoder makes room for as many questions as the header says.
    if u16::from_be_bytes([questions_high, questions_low]) != 1 {
        return bare(ResponseCode::FormErr);
    }
    let Ok(mut message) = Message::from_vec(bytes) else { return bare(ResponseCode::FormErr) };
    let Some(question) = message.queries.pop() else { return bare(ResponseCode::FormErr) };
    let request = Request {
        id,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns: message.edns.as_ref().map(Edns::max_payload),
        question,
    };
    let refused = |code| Decoded::Refused(encode(&request, Answer::only(code), DATAGRAM_MIN));
    if message.edns.is_some_and(|edns| edns.version() > 0) {
        return refused(ResponseCode::BADVERS);
    }
    let transfer = matches!(request.question.query_type(), RecordType::AXFR | RecordType::IXFR);
    if request.question.query_class() != DNSClass::IN || transfer {
        return refused(ResponseCode::Refused);
    }
    Decoded::Request(request)
}

/// Writes an answer of at most `limit` bytes. What does not fit is left out: first what was not
/// asked for, then records, and the client is told to ask again over TCP.
pub(super) fn encode(request: &Request, answer: Answer, limit: u16) -> Vec<u8> {
    let mut message = Message::response(request.id, OpCode::Query);
    message.metadata.response_code = answer.code;
    message.metadata.authoritative = answer.authoritative;
    message.metadata.recursion_desired = request.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = request.checking_disabled;
    message.queries.push(request.question.clone());
    message.answers = answer.answers;
    message.authorities = answer.authorities;
    message.additionals = answer.additionals;
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_MAX);
        message.edns = Some(edns);
    }
    let fits = |message: &Message| message.to_vec().ok().filter(|bytes| is_whole(message, bytes, limit));
    if let Some(bytes) = fits(&message) {
        return bytes;
    }
    message.additionals.clear();
    if let Some(bytes) = fits(&message) {
        return bytes;
    }
    message.metadata.truncation = true;
    message.authorities.clear();
    message.answers.truncate(fitting(&message, limit));
    fits(&message).unwrap_or_else(|| {
        let failed = Message::error_msg(request.id, OpCode::Query, ResponseCode::ServFail);
        failed.to_vec().unwrap_or_default()
    })
}

/// Whether an encoded message is within its limit, and the encoder has left out nothing: it does so
/// with what is more than a message can have at all.
fn is_whole(message: &Message, bytes: &[u8], limit: u16) -> bool {
    let additionals = message.additionals.len() + usize::from(message.edns.is_some());
    let counts = [message.answers.len(), message.authorities.len(), additionals];
    bytes.len() <= usize::from(limit) && (6..).step_by(2).zip(counts).all(|(at, count)| count_at(bytes, at) == count)
}

/// How many of its answers a message of this limit can have.
fn fitting(message: &Message, limit: u16) -> usize {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit.saturating_sub(EDNS_BYTES));
    let emitted = message.emit(&mut encoder);
    if emitted.is_ok() { count_at(&bytes, 6) } else { 0 }
}

/// A count of the header.
fn count_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 2).map_or(0, |count| usize::from(u16::from_be_bytes([count[0], count[1]])))
}

/// Asks an upstream.
pub(super) fn ask(id: u16, question: &Query, edns: bool) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(question.clone());
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_MAX);
        message.edns = Some(edns);
    }
    message.to_vec().ok()
}

/// The answer to a question that was asked with this id; `None` for anything else.
pub(super) fn reply_to(id: u16, question: &Query, bytes: &[u8]) -> Option<Message> {
    // The decoder makes room for as many questions as the header says.
    if bytes.get(..2)? != id.to_be_bytes() || bytes.get(4..6)? != [0, 1] {
        return None;
    }
    let message = Message::from_vec(bytes).ok()?;
    let is_reply = message.metadata.message_type == MessageType::Response && message.metadata.op_code == OpCode::Query;
    (is_reply && message.queries == std::slice::from_ref(question)).then_some(message)
}

/// How long an upstream's answer may be kept; `None` for one that may not.
pub(super) fn lifetime(message: &Message) -> Option<Duration> {
    let seconds = |ttl: u32| Duration::from_secs(ttl.into());
    // Aliases alone say that there is nothing, too (RFC 2308, section 2.2).
    let asked = message.queries.first().map_or(RecordType::ANY, Query::query_type);
    let is_some = |record: &Record| asked == RecordType::ANY || record.record_type() == asked;
    let lifetime = match message.metadata.response_code {
        ResponseCode::NoError if message.answers.iter().any(is_some) => {
            seconds(message.answers.iter().map(|record| record.ttl).min()?).min(KEEP_MAX)
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let soa = message.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
                _ => None,
            });
            // An alias to nothing lives no longer than the alias.
            let aliases = message.answers.iter().map(|record| record.ttl);
            seconds(aliases.chain([soa?]).min()?).min(KEEP_NOTHING_MAX)
        }
        _ => return None,
    };
    (!lifetime.is_zero()).then_some(lifetime)
}

/// An answer with what an upstream said `age` seconds ago to the rest of the question.
pub(super) fn complete(mut answer: Answer, reply: &[u8], age: u32) -> Answer {
    let (Some(asked), Ok(reply)) = (answer.upstream.take(), Message::from_vec(reply)) else {
        return Answer::only(ResponseCode::ServFail);
    };
    let aged = |mut record: Record| {
        record.ttl = record.ttl.saturating_sub(age);
        // In the letters of the question, which upstreams are not asked in.
        if record.name == asked.name {
            record.name.clone_from(&asked.name);
        }
        record
    };
    answer.code = reply.metadata.response_code;
    answer.answers.extend(reply.answers.into_iter().map(aged));
    answer.authorities.extend(reply.authorities.into_iter().map(aged));
    answer
}

#[cfg(test)]
mod tests;
