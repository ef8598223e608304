//! The text of a backup: JSON lines. A header, one line an object, a trailer with the SHA-256 of
//! everything before it. Pure: bytes in, bytes out.

use bytes::{BufMut, Bytes, BytesMut};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cluster::ClusterFacts;

/// What the first line calls itself.
pub const FORMAT: &str = "coracle-backup";
/// The version of the format that is written, and the newest that is read.
pub const VERSION: u32 = 1;
/// A line is one object, and no store takes one of this size.
const LINE_BYTES_MAX: usize = 16 << 20;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// [`FORMAT`]
    pub format: String,
    /// [`VERSION`]
    pub version: u32,
    /// The cluster's facts, which a restored cluster keeps.
    pub cluster: ClusterFacts,
    /// The resourceVersion of the cut: every change up to it is in, none after it.
    pub resource_version: u64,
    /// When the cut was made, RFC 3339.
    pub time: String,
    /// Lines of objects that follow.
    pub objects: u64,
}

impl Header {
    /// The first line of a backup made now.
    pub fn new(cluster: ClusterFacts, resource_version: u64, time: String, objects: u64) -> Self {
        Self { format: FORMAT.into(), version: VERSION, cluster, resource_version, time, objects }
    }
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Trailer {
    objects: u64,
    sha256: String,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it is in the text, counting from 1.
    pub line: u64,
    /// Its key in the store: `pods/default/web`.
    pub key: String,
    /// The version that wrote it.
    pub version: u64,
    /// Its `v1` JSON without resourceVersion.
    pub object: Bytes,
}

#[derive(Deserialize)]
struct Line<'a> {
    key: String,
    version: u64,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What a whole backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The first line.
    pub header: Header,
    /// Bytes of the text.
    pub bytes: u64,
}

/// Why a text is no backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct FormatError {
    /// Counting from 1.
    pub line: u64,
    /// What is wrong with it.
    pub cause: String,
}

/// Writes the text line by line.
#[derive(Debug)]
pub struct Writer {
    hash: Hash,
    objects: u64,
}

impl Writer {
    /// Starts a text with its header.
    pub fn new(header: &Header, out: &mut BytesMut) -> Self {
        let mut writer = Self { hash: Hash::default(), objects: 0 };
        // A struct of strings and numbers always serialises.
        writer.line(&serde_json::to_vec(header).unwrap_or_default(), out);
        writer
    }

    /// Adds an object: compact JSON, which holds no line break.
    pub fn object(&mut self, key: &str, version: u64, object: &[u8], out: &mut BytesMut) {
        let mut line = BytesMut::with_capacity(object.len() + key.len() + 48);
        line.put_slice(b"{\"key\":");
        // A string always serialises.
        line.put_slice(&serde_json::to_vec(key).unwrap_or_default());
        line.put_slice(format!(",\"version\":{version},\"object\":").as_bytes());
        line.put_slice(object);
        line.put_u8(b'}');
        self.line(&line, out);
        self.objects += 1;
    }

    /// Ends the text.
    pub fn finish(self, out: &mut BytesMut) {
        let trailer = Trailer { objects: self.objects, sha256: self.hash.hex() };
        // As above.
        out.put_slice(&serde_json::to_vec(&trailer).unwrap_or_default());
        out.put_u8(b'\n');
    }

    fn line(&mut self, line: &[u8], out: &mut BytesMut) {
        let start = out.len();
        out.put_slice(line);
        out.put_u8(b'\n');
        self.hash.update(&out[start..]);
    }
}

/// Reads a text as it arrives, in parts of any size.
#[derive(Debug, Default)]
pub struct Reader {
    /// What came after the last line break.
    rest: BytesMut,
    hash: Hash,
    line: u64,
    bytes: u64,
    header: Option<Header>,
    objects: u64,
    ended: bool,
}

impl Reader {
    /// The first line, once it is here.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Objects read so far.
    pub fn objects(&self) -> u64 {
        self.objects
    }

    /// Takes the next part of the text and returns the objects that it completes. Nothing of them
    /// is certain before [`Reader::finish`] has found the text whole.
    pub fn push(&mut self, part: &[u8]) -> Result<Vec<Record>, FormatError> {
        self.bytes += part.len() as u64;
        self.rest.put_slice(part);
        let mut records = Vec::new();
        let mut searched = self.rest.len() - part.len();
        while let Some(end) = self.rest[searched..].iter().position(|b| *b == b'\n') {
            let line = self.rest.split_to(searched + end + 1);
            searched = 0;
            self.line += 1;
            records.extend(self.take(&line).map_err(|cause| FormatError { line: self.line, cause })?);
        }
        if self.rest.len() > LINE_BYTES_MAX {
            return Err(self.fault("it is longer than 16 MiB"));
        }
        Ok(records)
    }

    /// Says that the text is at its end.
    pub fn finish(self) -> Result<Summary, FormatError> {
        match self.header {
            Some(header) if self.ended && self.rest.is_empty() => Ok(Summary { header, bytes: self.bytes }),
            Some(ref header) if !self.ended => Err(self.fault(format!(
                "the text ends here, after {} of {} objects and without its last line: it was cut short",
                self.objects, header.objects
            ))),
            Some(_) => Err(self.fault("there is more after the last line")),
            None => Err(self.fault("the text ends before its first line does")),
        }
    }

    fn fault(&self, cause: impl Into<String>) -> FormatError {
        FormatError { line: self.line + 1, cause: cause.into() }
    }

    fn take(&mut self, line: &[u8]) -> Result<Option<Record>, String> {
        if self.ended {
            return Err("there is more after the last line".into());
        }
        let Some(header) = &self.header else {
            self.header = Some(read_header(line)?);
            self.hash.update(line);
            return Ok(None);
        };
        if self.objects == header.objects {
            self.check_trailer(line)?;
            self.ended = true;
            return Ok(None);
        }
        let parsed: Line<'_> =
            serde_json::from_slice(line).map_err(|e| match serde_json::from_slice::<Trailer>(line) {
                Ok(_) => format!("the text ends after {} of {} objects", self.objects, header.objects),
                Err(_) => format!("it is no object of a backup: {e}"),
            })?;
        self.hash.update(line);
        self.objects += 1;
        let object = Bytes::copy_from_slice(parsed.object.get().as_bytes());
        Ok(Some(Record { line: self.line, key: parsed.key, version: parsed.version, object }))
    }

    fn check_trailer(&mut self, line: &[u8]) -> Result<(), String> {
        let trailer: Trailer = serde_json::from_slice(line)
            .map_err(|e| format!("after {} objects the last line with the checksum is expected: {e}", self.objects))?;
        if trailer.objects != self.objects {
            return Err(format!("it counts {} objects, and {} came before it", trailer.objects, self.objects));
        }
        let found = std::mem::take(&mut self.hash).hex();
        if trailer.sha256 != found {
            return Err(format!("the text was changed: its SHA-256 is {found}, and was {}", trailer.sha256));
        }
        Ok(())
    }
}

fn read_header(line: &[u8]) -> Result<Header, String> {
    #[derive(Deserialize)]
    struct Kind {
        format: String,
        version: u32,
    }
    let kind: Kind = serde_json::from_slice(line).map_err(|e| format!("this is no backup of a cluster: {e}"))?;
    if kind.format != FORMAT {
        return Err(format!("this is no backup of a cluster: its format is {:?}, not {FORMAT:?}", kind.format));
    }
    if kind.version == 0 || kind.version > VERSION {
        return Err(format!(
            "the backup has version {} of the format, and this Coracle reads {VERSION}: use the one that wrote it, or a newer one",
            kind.version
        ));
    }
    serde_json::from_slice(line).map_err(|e| format!("the header is damaged: {e}"))
}

/// SHA-256 as it grows.
struct Hash(Context);

impl Hash {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn hex(self) -> String {
        self.0.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hash")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(objects: u64) -> Header {
        let cluster = ClusterFacts {
            cluster_id: "0000cafe".into(),
            service_cidr: "10.0.0.0/24".parse().unwrap(),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
        };
        Header::new(cluster, 77, "2024-05-06T07:08:09Z".into(), objects)
    }

    fn text(objects: &[(String, u64, String)]) -> Vec<u8> {
        let mut out = BytesMut::new();
        let mut writer = Writer::new(&header(objects.len() as u64), &mut out);
        for (key, version, object) in objects {
            writer.object(key, *version, object.as_bytes(), &mut out);
        }
        writer.finish(&mut out);
        out.to_vec()
    }

    fn three() -> Vec<u8> {
        let object = |n: u64| (format!("pods/default/p{n}"), n, format!("{{\"metadata\":{{\"name\":\"p{n}\"}}}}"));
        text(&[object(1), object(2), object(3)])
    }

    fn read(text: &[u8], part: usize) -> Result<(Summary, Vec<Record>), FormatError> {
        let mut reader = Reader::default();
        let mut records = Vec::new();
        for part in text.chunks(part.max(1)) {
            records.extend(reader.push(part)?);
        }
        Ok((reader.finish()?, records))
    }

    /// Refused with this line and part of the sentence.
    fn refused(text: &[u8], line: u64, part: &str) {
        let error = read(text, 64).unwrap_err();
        assert!(error.line == line && error.cause.contains(part), "{error}; expected line {line}: {part}");
    }

    fn replace(text: &[u8], from: &str, to: &str) -> Vec<u8> {
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        text.replacen(from, to, 1).into_bytes()
    }

    #[test]
    fn the_text_is_as_documented() {
        let text = String::from_utf8(text(&[("pods/default/a".into(), 5, "{\"a\":1}".into())])).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..2],
            [
                r#"{"format":"coracle-backup","version":1,"cluster":{"clusterID":"0000cafe","serviceCIDR":"10.0.0.0/24","podCIDR":"10.244.0.0/16"},"resourceVersion":77,"time":"2024-05-06T07:08:09Z","objects":1}"#,
                r#"{"key":"pods/default/a","version":5,"object":{"a":1}}"#
            ]
        );
        assert!(lines[2].starts_with(r#"{"objects":1,"sha256":""#), "{}", lines[2]);
        assert_eq!((lines.len(), lines[2].len()), (3, 23 + 64 + 2));
    }

    #[test]
    fn a_text_that_was_cut_short_is_refused_wherever_it_was_cut() {
        let whole = three();
        assert!(read(&whole, 7).is_ok());
        for length in 0..whole.len() {
            let error = read(&whole[..length], 50).unwrap_err();
            let lines = whole[..length].iter().filter(|b| **b == b'\n').count() as u64;
            assert_eq!(error.line, lines + 1, "cut at {length}: {error}");
        }
        let lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').collect();
        refused(&[lines[0], lines[1], lines[2], lines[4]].concat(), 4, "ends after 2 of 3 objects");
        refused(&whole[..lines[0].len() + lines[1].len()], 3, "after 1 of 3 objects and without its last line");
    }

    #[test]
    fn a_text_with_any_bit_flipped_is_refused() {
        let whole = three();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                assert!(read(&flipped, 4096).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_text_that_was_tampered_with_is_refused() {
        let whole = three();
        refused(&replace(&whole, "\"p2\"", "\"q2\""), 5, "was changed");
        refused(&replace(&whole, "0000cafe", "0000beef"), 5, "was changed");
        refused(&replace(&whole, "\"objects\":3,", "\"objects\":4,"), 5, "counts 4 objects");
        refused(&[&whole[..], b"{}\n"].concat(), 6, "more after the last line");
        refused(&[&whole[..], b"{}"].concat(), 6, "more after the last line");
        let lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').collect();
        refused(&[lines[0], lines[2], lines[1], lines[3], lines[4]].concat(), 5, "was changed");
        refused(&[lines[0], lines[1], lines[2], lines[3], lines[3], lines[4]].concat(), 5, "checksum is expected");
        refused(&replace(&whole, "{\"key\"", "{\"kee\""), 2, "no object of a backup");
    }

    #[test]
    fn what_is_no_backup_says_so() {
        refused(b"", 1, "ends before its first line");
        refused(b"kind: Pod\n", 1, "this is no backup");
        refused(b"{\"format\":\"tar\",\"version\":1}\n", 1, "its format is \"tar\"");
        refused(&replace(&three(), "\"version\":1", "\"version\":2"), 1, "version 2 of the format");
        refused(b"{\"format\":\"coracle-backup\",\"version\":1}\n", 1, "header is damaged");
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut reader = Reader::default();
        let part = vec![b'x'; 1 << 20];
        let error = (0..20).find_map(|_| reader.push(&part).err()).expect("it is refused");
        assert!(error.line == 1 && error.cause.contains("16 MiB"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            objects in prop::collection::vec((any::<String>(), any::<u64>(), any::<String>()), 0..8), part in 1usize..200
        ) {
            let objects: Vec<_> = objects
                .into_iter()
                .map(|(key, version, text)| (key, version, serde_json::json!({"text": text}).to_string()))
                .collect();
            let text = text(&objects);
            let (summary, records) = read(&text, part).unwrap();
            prop_assert_eq!(summary, Summary { header: header(objects.len() as u64), bytes: text.len() as u64 });
            let found: Vec<_> =
                records.into_iter().map(|r| (r.key, r.version, String::from_utf8(r.object.to_vec()).unwrap())).collect();
            prop_assert_eq!(found, objects);
        }
    }
}
