//! Text into pieces: literal text and the tokens of each `{{action}}`, trim markers applied.

use super::TemplateError;

/// What stands in an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// `range`, `len`, `true`
    Word(String),
    /// `.` on its own
    Dot,
    /// `.name`
    Field(String),
    /// `$` or `$name`
    Variable(String),
    /// A number literal as written.
    Number(String),
    Text(String),
    Pipe,
    Open,
    Close,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// A token, and whether blank space stands before it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spaced {
    pub(super) token: Token,
    pub(super) after_space: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Literal(String),
    Action { line: usize, tokens: Vec<Spaced> },
}

/// Cuts a template into pieces.
pub(super) fn lex(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    let mut line = 1;
    loop {
        let open = rest.find("{{");
        let mut literal = &rest[..open.unwrap_or(rest.len())];
        let next_line = line + literal.matches('\n').count();
        if trim_next {
            literal = literal.trim_start();
        }
        let Some(open) = open else {
            push_literal(&mut pieces, literal);
            return Ok(pieces);
        };
        line = next_line;
        let mut body = &rest[open + 2..];
        if body.starts_with("- ") || body.starts_with("-\n") || body.starts_with("-\t") {
            literal = literal.trim_end();
            body = &body[1..];
        }
        push_literal(&mut pieces, literal);
        let (consumed, tokens, trim) = if body.trim_start().starts_with("/*") {
            let (consumed, trim) = comment(body, line)?;
            (consumed, Vec::new(), trim)
        } else {
            action(body, line)?
        };
        let is_comment = body.trim_start().starts_with("/*");
        if !is_comment {
            if tokens.is_empty() {
                return Err(TemplateError::new(line, "missing value for command"));
            }
            pieces.push(Piece::Action { line, tokens });
        }
        line += body[..consumed].matches('\n').count();
        rest = &body[consumed..];
        trim_next = trim;
    }
}

fn push_literal(pieces: &mut Vec<Piece>, literal: &str) {
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.to_owned()));
    }
}

/// Length of a comment with its closing braces, and whether it trims what follows.
fn comment(body: &str, line: usize) -> Result<(usize, bool), TemplateError> {
    let end = body.find("*/").ok_or_else(|| TemplateError::new(line, "unclosed comment"))? + 2;
    let after = &body[end..];
    match (after.starts_with("}}"), after.starts_with(" -}}")) {
        (true, _) => Ok((end + 2, false)),
        (_, true) => Ok((end + 4, true)),
        _ => Err(TemplateError::new(line, "comment ends before closing delimiter")),
    }
}

type Action = (usize, Vec<Spaced>, bool);

/// The tokens up to the closing braces.
fn action(body: &str, line: usize) -> Result<Action, TemplateError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut after_space = true;
    loop {
        let rest = &body[at..];
        if rest.starts_with("}}") {
            return Ok((at + 2, tokens, false));
        }
        if after_space && rest.starts_with("-}}") && at > 0 {
            return Ok((at + 3, tokens, true));
        }
        let Some(first) = rest.chars().next() else {
            return Err(TemplateError::new(line, "unclosed action: there is no }} for this {{"));
        };
        if first.is_whitespace() {
            at += first.len_utf8();
            after_space = true;
            continue;
        }
        let (length, token) = token(rest, first, line)?;
        tokens.push(Spaced { token, after_space });
        at += length;
        after_space = false;
    }
}

fn token(rest: &str, first: char, line: usize) -> Result<(usize, Token), TemplateError> {
    let simple = |token| Ok((1, token));
    match first {
        '|' => simple(Token::Pipe),
        '(' => simple(Token::Open),
        ')' => simple(Token::Close),
        ',' => simple(Token::Comma),
        '=' => simple(Token::Assign),
        ':' if rest.starts_with(":=") => Ok((2, Token::Declare)),
        '"' => quoted(rest, line),
        '`' => {
            let end = rest[1..].find('`').ok_or_else(|| TemplateError::new(line, "unterminated raw quoted string"))?;
            Ok((end + 2, Token::Text(rest[1..=end].to_owned())))
        }
        '$' => {
            let name = word(&rest[1..]);
            Ok((1 + name.len(), Token::Variable(format!("${name}"))))
        }
        '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => Ok(number(rest)),
        '.' => match word(&rest[1..]) {
            "" => simple(Token::Dot),
            name => Ok((1 + name.len(), Token::Field(name.to_owned()))),
        },
        c if c.is_ascii_digit() || ((c == '-' || c == '+') && rest[1..].starts_with(|d: char| d.is_ascii_digit())) => {
            Ok(number(rest))
        }
        c if c.is_alphabetic() || c == '_' => {
            let name = word(rest);
            Ok((name.len(), Token::Word(name.to_owned())))
        }
        c => Err(TemplateError::new(line, format!("unexpected {c:?} in an action"))),
    }
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

fn number(text: &str) -> (usize, Token) {
    let mut end = 1;
    let bytes = text.as_bytes();
    while end < bytes.len() {
        let exponent_sign = matches!(bytes[end], b'+' | b'-') && matches!(bytes[end - 1], b'e' | b'E');
        if !(bytes[end].is_ascii_alphanumeric() || bytes[end] == b'.' || bytes[end] == b'_' || exponent_sign) {
            break;
        }
        end += 1;
    }
    (end, Token::Number(text[..end].to_owned()))
}

fn quoted(text: &str, line: usize) -> Result<(usize, Token), TemplateError> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => break,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let value = unquote(&text[1..at]).map_err(|e| TemplateError::new(line, e))?;
                return Ok((at + 1, Token::Text(value)));
            }
            _ => {}
        }
    }
    Err(TemplateError::new(line, "unterminated quoted string"))
}

fn unquote(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let escape = chars.next().unwrap_or('\\');
        out.push(match escape {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '\\' | '"' | '\'' => escape,
            'x' => hex(&mut chars, 2)?,
            'u' => hex(&mut chars, 4)?,
            'U' => hex(&mut chars, 8)?,
            other => return Err(format!("unknown escape \\{other} in a string")),
        });
    }
    Ok(out)
}

fn hex(chars: &mut std::str::Chars<'_>, digits: usize) -> Result<char, String> {
    let text: String = chars.take(digits).collect();
    let bad = || format!("'{text}' is not the hexadecimal code of a character");
    let code = (text.len() == digits).then(|| u32::from_str_radix(&text, 16).ok()).flatten().ok_or_else(bad)?;
    char::from_u32(code).ok_or_else(bad)
}
