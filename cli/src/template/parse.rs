//! Pieces into a tree. Checks what Go checks at parse time: functions exist, variables are
//! declared, blocks are closed.

use std::collections::VecDeque;

use serde_json::{Number, Value};

use super::{
    TemplateError, functions,
    lex::{Piece, Spaced, Token},
};

/// Nesting of blocks and parentheses.
const DEPTH_MAX: usize = 64;

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If { pipe: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
    With { pipe: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
    Range { pipe: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
}

/// `$x := command | command`
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) line: usize,
    pub(super) variables: Vec<String>,
    /// `=` instead of `:=`
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

#[derive(Debug)]
pub(super) struct Command {
    pub(super) function: Option<functions::Function>,
    pub(super) operands: Vec<Operand>,
}

#[derive(Debug)]
pub(super) struct Operand {
    pub(super) base: Base,
    pub(super) fields: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    Pipe(Box<Pipe>),
}

pub(super) fn parse(pieces: Vec<Piece>) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { pieces: pieces.into(), variables: vec!["$".to_owned()], depth: 0, line: 1 };
    let (nodes, end) = parser.block(false)?;
    match end {
        Closer::Text => Ok(nodes),
        Closer::Keyword => Err(parser.error("unexpected {{end}}")),
        Closer::Else(_) => Err(parser.error("unexpected {{else}}")),
    }
}

struct Parser {
    pieces: VecDeque<Piece>,
    variables: Vec<String>,
    depth: usize,
    line: usize,
}

/// What closed a block.
enum Closer {
    Text,
    /// `end`
    Keyword,
    /// The tokens after `else`.
    Else(VecDeque<Spaced>),
}

impl Parser {
    fn error(&self, text: impl Into<String>) -> TemplateError {
        TemplateError::new(self.line, text)
    }

    fn deeper(&mut self) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(self.error(format!("nested more than {DEPTH_MAX} deep"))) } else { Ok(()) }
    }

    /// Nodes up to `end`, `else` or the end of the text.
    fn block(&mut self, inside: bool) -> Result<(Vec<Node>, Closer), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.pop_front() {
            let (line, tokens) = match piece {
                Piece::Literal(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { line, tokens } => (line, tokens),
            };
            self.line = line;
            let mut tokens: VecDeque<_> = tokens.into();
            let keyword = match tokens.front().map(|t| &t.token) {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            match keyword.as_str() {
                "end" if tokens.len() == 1 => return Ok((nodes, Closer::Keyword)),
                "end" => return Err(self.error("unexpected words after end")),
                "else" => {
                    tokens.pop_front();
                    return Ok((nodes, Closer::Else(tokens)));
                }
                "if" | "with" | "range" => {
                    tokens.pop_front();
                    nodes.push(self.control(&keyword, tokens)?);
                }
                "define" | "template" | "block" | "break" | "continue" => {
                    return Err(self.error(format!("{{{{{keyword}}}}} is not supported")));
                }
                _ => nodes.push(Node::Action(self.whole_pipe(tokens)?)),
            }
        }
        if inside {
            return Err(self.error("unexpected end of the template: an {{end}} is missing"));
        }
        Ok((nodes, Closer::Text))
    }

    fn control(&mut self, keyword: &str, tokens: VecDeque<Spaced>) -> Result<Node, TemplateError> {
        self.deeper()?;
        let scope = self.variables.len();
        let pipe = self.whole_pipe(tokens)?;
        if pipe.variables.len() > 1 && keyword != "range" {
            return Err(self.error(format!("too many variables in {keyword}")));
        }
        let (body, end) = self.block(true)?;
        let otherwise = match end {
            Closer::Else(rest) => self.otherwise(keyword, rest)?,
            _ => Vec::new(),
        };
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(match keyword {
            "if" => Node::If { pipe, then: body, otherwise },
            "with" => Node::With { pipe, then: body, otherwise },
            _ => Node::Range { pipe, body, otherwise },
        })
    }

    /// After `else`: a block, or a chained `if` or `with`.
    fn otherwise(&mut self, keyword: &str, mut rest: VecDeque<Spaced>) -> Result<Vec<Node>, TemplateError> {
        match rest.pop_front().map(|t| t.token) {
            None => match self.block(true)? {
                (nodes, Closer::Keyword) => Ok(nodes),
                _ => Err(self.error("expected end, found a second else")),
            },
            Some(Token::Word(word)) if word == keyword && keyword != "range" => Ok(vec![self.control(keyword, rest)?]),
            _ => Err(self.error("unexpected words after else")),
        }
    }

    fn whole_pipe(&mut self, mut tokens: VecDeque<Spaced>) -> Result<Pipe, TemplateError> {
        let pipe = self.pipe(&mut tokens)?;
        if tokens.is_empty() { Ok(pipe) } else { Err(self.error("unexpected right parenthesis")) }
    }

    fn pipe(&mut self, tokens: &mut VecDeque<Spaced>) -> Result<Pipe, TemplateError> {
        self.deeper()?;
        let (variables, assigns) = self.declaration(tokens)?;
        let mut commands = vec![self.command(tokens)?];
        while tokens.front().is_some_and(|t| t.token == Token::Pipe) {
            tokens.pop_front();
            commands.push(self.command(tokens)?);
        }
        for command in commands.iter().skip(1) {
            if command.function.is_none() {
                return Err(self.error("a stage after | must be a function"));
            }
        }
        if !assigns {
            self.variables.extend(variables.iter().cloned());
        }
        self.depth -= 1;
        Ok(Pipe { line: self.line, variables, assigns, commands })
    }

    fn declaration(&self, tokens: &mut VecDeque<Spaced>) -> Result<(Vec<String>, bool), TemplateError> {
        let at = |i: usize| tokens.get(i).map(|t| &t.token);
        let (names, sign) = match (at(0), at(1), at(2), at(3)) {
            (Some(Token::Variable(a)), Some(Token::Comma), Some(Token::Variable(b)), Some(sign)) => {
                (vec![a.clone(), b.clone()], sign.clone())
            }
            (Some(Token::Variable(a)), Some(sign @ (Token::Declare | Token::Assign)), _, _) => {
                (vec![a.clone()], sign.clone())
            }
            _ => return Ok((Vec::new(), false)),
        };
        let assigns = match sign {
            Token::Declare => false,
            Token::Assign => true,
            _ => return Err(self.error("expected := after the variables")),
        };
        if assigns {
            names.iter().try_for_each(|n| self.declared(n))?;
        }
        tokens.drain(..names.len() * 2);
        Ok((names, assigns))
    }

    fn declared(&self, name: &str) -> Result<(), TemplateError> {
        if self.variables.iter().any(|v| v == name) {
            Ok(())
        } else {
            Err(self.error(format!("undefined variable \"{name}\"")))
        }
    }

    fn command(&mut self, tokens: &mut VecDeque<Spaced>) -> Result<Command, TemplateError> {
        let mut function = None;
        let mut operands = Vec::new();
        while let Some(next) = tokens.front() {
            match &next.token {
                Token::Pipe | Token::Close => break,
                Token::Word(word) if !matches!(word.as_str(), "true" | "false" | "nil") => {
                    let word = word.clone();
                    let found = functions::Function::named(&word)
                        .ok_or_else(|| self.error(format!("function \"{word}\" not defined")))?;
                    tokens.pop_front();
                    if function.is_some() || !operands.is_empty() {
                        return Err(self.error(format!("function {word} needs parentheses here: ({word} ...)")));
                    }
                    function = Some(found);
                }
                _ => operands.push(self.operand(tokens)?),
            }
        }
        match (&function, operands.len()) {
            (None, 0) => Err(self.error("missing value for command")),
            (None, n) if n > 1 => Err(self.error("can't give an argument to something that is not a function")),
            _ => Ok(Command { function, operands }),
        }
    }

    fn operand(&mut self, tokens: &mut VecDeque<Spaced>) -> Result<Operand, TemplateError> {
        let mut fields = Vec::new();
        let base = match tokens.pop_front().map(|t| t.token) {
            Some(Token::Dot) => Base::Dot,
            Some(Token::Field(name)) => {
                fields.push(name);
                Base::Dot
            }
            Some(Token::Variable(name)) => {
                self.declared(&name)?;
                Base::Variable(name)
            }
            Some(Token::Text(text)) => Base::Literal(text.into()),
            Some(Token::Number(text)) => Base::Literal(self.number(&text)?),
            Some(Token::Word(word)) => Base::Literal(match word.as_str() {
                "true" => true.into(),
                "false" => false.into(),
                _ => Value::Null,
            }),
            Some(Token::Open) => {
                let pipe = self.pipe(tokens)?;
                match tokens.pop_front().map(|t| t.token) {
                    Some(Token::Close) => Base::Pipe(Box::new(pipe)),
                    _ => return Err(self.error("unclosed left parenthesis")),
                }
            }
            _ => return Err(self.error("unexpected sign in an action")),
        };
        while let Some(Spaced { token: Token::Field(_), after_space: false }) = tokens.front() {
            if let Some(Spaced { token: Token::Field(name), .. }) = tokens.pop_front() {
                fields.push(name);
            }
        }
        if let (Base::Literal(_), false) = (&base, fields.is_empty()) {
            return Err(self.error("a literal has no fields"));
        }
        Ok(Operand { base, fields })
    }

    fn number(&self, text: &str) -> Result<Value, TemplateError> {
        let clean = text.replace('_', "");
        let integer = match clean.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok(),
            None => clean.parse().ok(),
        };
        let float = || clean.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number);
        integer.map(Value::from).or_else(float).ok_or_else(|| self.error(format!("bad number syntax: \"{text}\"")))
    }
}
