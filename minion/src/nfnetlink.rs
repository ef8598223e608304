//! The frame of netfilter's netlink messages (`linux/netlink.h`, `linux/netfilter/nfnetlink.h`), as far
//! as [`crate::rulesets`] and [`crate::conntrack`] read and write it. Nothing here trusts a length.
//!
//! ```text
//! length u32 | type u16 | flags u16 | sequence u32 | port u32 | family u8, version u8, id u16 | attributes
//!              subsystem, number                                                               length u16, type u16, value
//! ```
//!
//! Numbers are in the host's order; both messages and attributes are padded to 4 bytes.

use std::io;

/// The whole head of a message.
const HEADER: usize = 20;
/// Without the last part, which only netfilter's messages have.
const HEADER_BASE: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`, which are no part of an attribute's type.
const ATTRIBUTE_FLAGS: u16 = 0xc000;
const NESTED: u16 = 0x8000;
/// IPv4.
const FAMILY: u8 = 2;
/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;
/// `NLM_F_REQUEST | NLM_F_ACK`
pub(crate) const ACKNOWLEDGED: u16 = 0x5;
/// `NLMSG_ERROR`, also an acknowledgement.
const ERROR: u16 = 2;
/// `NFNL_MSG_BATCH_BEGIN`
const BATCH_BEGIN: u16 = 16;
/// `NFNL_MSG_BATCH_END`
const BATCH_END: u16 = 17;

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// Subsystem in the upper byte, number in the lower; below 16 messages of netlink itself.
    pub(crate) kind: u16,
    /// The sender's port: of a socket that did not choose one, its process' id.
    pub(crate) port: u32,
    /// What follows the head that all messages have.
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes of a message of netfilter.
    pub(crate) fn attributes(&self) -> &'a [u8] {
        self.body.get(HEADER - HEADER_BASE..).unwrap_or_default()
    }

    /// What became of a request that this acknowledges or refuses; `None` where it does neither.
    pub(crate) fn outcome(&self) -> Option<io::Result<()>> {
        (self.kind == ERROR).then(|| match self.error() {
            Some(0) => Ok(()),
            Some(number) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
            None => Err(io::ErrorKind::InvalidData.into()),
        })
    }

    /// The negative `errno` of an `NLMSG_ERROR`; 0 where it acknowledges.
    pub(crate) fn error(&self) -> Option<i32> {
        u32_at(self.body, 0).map(|number| number.cast_signed())
    }
}

/// The messages of a datagram. Stops at what it can't read.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let message = rest.get(..length.max(HEADER_BASE))?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind: u16_at(message, 4)?, port: u32_at(message, 12)?, body: message.get(HEADER_BASE..)? })
    })
}

/// The value of the first attribute of a type.
pub(crate) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (length, kind) = (usize::from(u16_at(attributes, 0)?), u16_at(attributes, 2)? & !ATTRIBUTE_FLAGS);
        let value = attributes.get(ATTRIBUTE_HEADER..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// A message to the kernel.
pub(crate) fn request(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = (HEADER + attributes.len()) as u32;
    let mut out = length.to_ne_bytes().to_vec();
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[FAMILY, 0, 0, 0]);
    out.extend_from_slice(attributes);
    out
}

/// Messages to a subsystem that take effect together or not at all.
pub(crate) fn batch(subsystem: u16, messages: &[Vec<u8>]) -> Vec<u8> {
    let mark = |kind| {
        let mut mark = request(kind, REQUEST, &[]);
        mark[HEADER_BASE] = 0;
        mark[HEADER - 2..].copy_from_slice(&subsystem.to_be_bytes());
        mark
    };
    [mark(BATCH_BEGIN), messages.concat(), mark(BATCH_END)].concat()
}

/// Adds an attribute. `value` is short: what a message of the kernel held.
pub(crate) fn put(attributes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    attributes.extend_from_slice(&((ATTRIBUTE_HEADER + value.len()) as u16).to_ne_bytes());
    attributes.extend_from_slice(&kind.to_ne_bytes());
    attributes.extend_from_slice(value);
    attributes.resize(attributes.len().next_multiple_of(4), 0);
}

/// Adds an attribute whose value is attributes.
pub(crate) fn put_nested(attributes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put(attributes, kind | NESTED, value);
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod testing {
    //! A kernel's tables for one test.

    use std::future::Future;

    use nix::sched::{CloneFlags, unshare};

    /// Runs `body` in a network namespace of its own, which ends with it. Needs root.
    pub(crate) fn alone<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send + 'static) {
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body());
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut inner = Vec::new();
        put(&mut inner, 9, b"x");
        let mut attributes = Vec::new();
        put(&mut attributes, 1, b"abcde");
        put_nested(&mut attributes, 2, &inner);
        let datagram = [request(10 << 8 | 3, 1, &attributes), request(3, 2, &[])].concat();
        let all: Vec<_> = messages(&datagram).collect();
        let [first, second] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((first.kind, second.kind, second.attributes()), (10 << 8 | 3, 3, &[][..]));
        assert_eq!(attribute(first.attributes(), 1), Some(&b"abcde"[..]));
        assert_eq!(attribute(first.attributes(), 2).and_then(|inner| attribute(inner, 9)), Some(&b"x"[..]));
        assert_eq!(attribute(first.attributes(), 3), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u16..4) {
            let all: Vec<_> = messages(&bytes).collect();
            prop_assert!(all.len() <= bytes.len());
            for message in all {
                attribute(message.attributes(), kind);
                message.error();
            }
        }
    }
}
