//! Fields of an HTML form, as a browser posts them; no I/O here.

/// The value of a field in an `application/x-www-form-urlencoded` body. What is not UTF-8 is replaced.
pub(super) fn field(body: &[u8], name: &str) -> Option<String> {
    body.split(|&b| b == b'&').find_map(|pair| {
        let (key, value) = pair.split_at(pair.iter().position(|&b| b == b'=')?);
        (key == name.as_bytes()).then(|| decode(&value[1..]))
    })
}

fn decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => out.push(b' '),
            b'%' => match escaped(tail) {
                Some(byte) => {
                    out.push(byte);
                    rest = &tail[2..];
                }
                None => out.push(b'%'),
            },
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The byte that the two hexadecimal digits at the beginning stand for.
fn escaped(text: &[u8]) -> Option<u8> {
    let digits = text.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_and_decoded() {
        let check =
            |body: &str, expected: Option<&str>| assert_eq!(field(body.as_bytes(), "m").as_deref(), expected, "{body}");
        check("m=hello+world%21", Some("hello world!"));
        check("other=1&m=a%26b%3D%c3%a9", Some("a&b=é"));
        check("m=", Some(""));
        check("m=100%&n=1", Some("100%"));
        check("m=%+1%4", Some("% 1%4"));
        check("m=%ff", Some("\u{fffd}"));
        check("mm=1", None);
        check("m", None);
        check("", None);
    }
}
