//! Running a template's tree over a document.

use std::borrow::Cow;

use serde_json::Value;

use super::{
    TemplateError, functions,
    parse::{Base, Command, Node, Operand, Pipe},
};

const OUTPUT_BYTES_MAX: usize = 64 << 20;
const STEPS_MAX: u64 = 20_000_000;

type Val<'a> = Cow<'a, Value>;

pub(super) fn render(nodes: &[Node], data: &Value) -> Result<String, TemplateError> {
    let dot = Cow::Borrowed(data);
    let mut run = Run { out: String::new(), variables: vec![("$".to_owned(), dot.clone())], steps: 0 };
    run.nodes(nodes, &dot)?;
    Ok(run.out)
}

struct Run<'a> {
    out: String,
    variables: Vec<(String, Val<'a>)>,
    steps: u64,
}

impl<'a> Run<'a> {
    fn nodes(&mut self, nodes: &[Node], dot: &Val<'a>) -> Result<(), TemplateError> {
        nodes.iter().try_for_each(|node| self.node(node, dot))
    }

    fn node(&mut self, node: &Node, dot: &Val<'a>) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => self.write(text, 0),
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                self.bind(pipe, &value);
                if pipe.variables.is_empty() { self.write(&functions::display(&value), pipe.line) } else { Ok(()) }
            }
            Node::If { pipe, then, otherwise } => self.scoped(|run| {
                let value = run.pipe(pipe, dot)?;
                run.bind(pipe, &value);
                run.nodes(if functions::truth(&value) { then } else { otherwise }, dot)
            }),
            Node::With { pipe, then, otherwise } => self.scoped(|run| {
                let value = run.pipe(pipe, dot)?;
                run.bind(pipe, &value);
                if functions::truth(&value) { run.nodes(then, &value) } else { run.nodes(otherwise, dot) }
            }),
            Node::Range { pipe, body, otherwise } => self.scoped(|run| run.range(pipe, body, otherwise, dot)),
        }
    }

    /// Variables declared inside are gone afterwards.
    fn scoped(&mut self, body: impl FnOnce(&mut Self) -> Result<(), TemplateError>) -> Result<(), TemplateError> {
        let scope = self.variables.len();
        let outcome = body(self);
        self.variables.truncate(scope);
        outcome
    }

    fn range(&mut self, pipe: &Pipe, body: &[Node], otherwise: &[Node], dot: &Val<'a>) -> Result<(), TemplateError> {
        let items = entries(self.pipe(pipe, dot)?).map_err(|v| {
            TemplateError::new(pipe.line, format!("range can't iterate over {}", functions::display(&v)))
        })?;
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, value) in items {
            self.scoped(|run| {
                match pipe.variables.as_slice() {
                    [] => {}
                    [one] => run.set(one, value.clone(), pipe.assigns),
                    [first, second, ..] => {
                        run.set(first, Cow::Owned(key), pipe.assigns);
                        run.set(second, value.clone(), pipe.assigns);
                    }
                }
                run.nodes(body, &value)
            })?;
        }
        Ok(())
    }

    fn bind(&mut self, pipe: &Pipe, value: &Val<'a>) {
        if let [name, ..] = pipe.variables.as_slice() {
            self.set(name, value.clone(), pipe.assigns);
        }
    }

    fn set(&mut self, name: &str, value: Val<'a>, assigns: bool) {
        if assigns && let Some(slot) = self.variables.iter_mut().rev().find(|(n, _)| n == name) {
            slot.1 = value;
        } else {
            self.variables.push((name.to_owned(), value));
        }
    }

    fn write(&mut self, text: &str, line: usize) -> Result<(), TemplateError> {
        self.out.push_str(text);
        self.step(line)
    }

    fn step(&mut self, line: usize) -> Result<(), TemplateError> {
        self.steps += 1;
        if self.out.len() > OUTPUT_BYTES_MAX || self.steps > STEPS_MAX {
            return Err(TemplateError::new(line, "the output grows beyond 64 MiB or the work beyond its bound"));
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Val<'a>) -> Result<Val<'a>, TemplateError> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, dot, last, pipe.line)?);
        }
        Ok(last.unwrap_or(Cow::Owned(Value::Null)))
    }

    fn command(
        &mut self,
        command: &Command,
        dot: &Val<'a>,
        piped: Option<Val<'a>>,
        line: usize,
    ) -> Result<Val<'a>, TemplateError> {
        self.step(line)?;
        let Some(function) = command.function else {
            return match command.operands.first() {
                Some(operand) => self.operand(operand, dot, line),
                None => Ok(Cow::Owned(Value::Null)),
            };
        };
        let mut arguments = Vec::with_capacity(command.operands.len() + 1);
        for operand in &command.operands {
            let value = self.operand(operand, dot, line)?;
            if function.decides_on(&value) {
                return Ok(value);
            }
            arguments.push(value);
        }
        arguments.extend(piped);
        function
            .call(&arguments)
            .map_err(|e| TemplateError::new(line, format!("error calling {}: {e}", function.name())))
    }

    fn operand(&mut self, operand: &Operand, dot: &Val<'a>, line: usize) -> Result<Val<'a>, TemplateError> {
        let mut value = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Variable(name) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                found.map(|(_, v)| v.clone()).unwrap_or(Cow::Owned(Value::Null))
            }
            Base::Literal(value) => Cow::Owned(value.clone()),
            Base::Pipe(pipe) => self.pipe(pipe, dot)?,
        };
        for name in &operand.fields {
            value = field(value, name).map_err(|e| TemplateError::new(line, e))?;
        }
        Ok(value)
    }
}

/// A field of a map; missing reads as null. Other values have no fields.
fn field<'a>(value: Val<'a>, name: &str) -> Result<Val<'a>, String> {
    match value {
        Cow::Borrowed(Value::Object(map)) => Ok(map.get(name).map_or(Cow::Owned(Value::Null), Cow::Borrowed)),
        Cow::Owned(Value::Object(mut map)) => Ok(Cow::Owned(map.remove(name).unwrap_or(Value::Null))),
        other if other.is_null() => Err(format!("nil pointer evaluating interface {{}}.{name}")),
        other => Err(format!("can't evaluate field {name} in type {}", functions::type_name(&other))),
    }
}

/// What range walks over: (index or key, value). `Err` is a value that cannot be walked.
fn entries(value: Val<'_>) -> Result<Vec<(Value, Val<'_>)>, Val<'_>> {
    match value {
        Cow::Borrowed(Value::Array(items)) => {
            Ok(items.iter().enumerate().map(|(i, v)| (Value::from(i), Cow::Borrowed(v))).collect())
        }
        Cow::Owned(Value::Array(items)) => {
            Ok(items.into_iter().enumerate().map(|(i, v)| (Value::from(i), Cow::Owned(v))).collect())
        }
        Cow::Borrowed(Value::Object(map)) => {
            Ok(map.iter().map(|(k, v)| (Value::from(k.as_str()), Cow::Borrowed(v))).collect())
        }
        Cow::Owned(Value::Object(map)) => Ok(map.into_iter().map(|(k, v)| (Value::from(k), Cow::Owned(v))).collect()),
        other if other.is_null() => Ok(Vec::new()),
        other => Err(other),
    }
}
