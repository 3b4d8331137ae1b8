//! A subset of Go's text/template for `-o go-template=`: fields, variables of `range`, `if`, `with`, `range`, `else`,
//! `end`, comments, pipes and the functions below. Not there: `define`, `template`, `block`, `break`, methods,
//! assignments outside `range` and `with`.

use std::collections::HashMap;

use serde_json::Value;

use super::jsonpath::shown;
use crate::failure::Failure;

const FUNCTIONS: &str = "and, or, not, eq, ne, len, index, print, println, printf, base64decode";

/// A template.
#[derive(Debug, Clone)]
pub(crate) struct Template(Vec<Node>);

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Show(Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Vec<String>, Pipe, Vec<Node>, Vec<Node>),
    Range(Vec<String>, Pipe, Vec<Node>, Vec<Node>),
}

/// Commands, each taking the value of the one before as its last argument.
type Pipe = Vec<Vec<Term>>;

#[derive(Debug, Clone)]
enum Term {
    Literal(Value),
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Function(String),
    Nested(Pipe),
}

fn broken(what: impl std::fmt::Display) -> Failure {
    Failure::error(format!("error parsing go-template: {what}"))
}

impl Template {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let mut tokens = Tokens { rest: text, trim: false, depth: 0 };
        let (nodes, end) = tokens.nodes()?;
        match end {
            None => Ok(Self(nodes)),
            Some(word) => Err(broken(format!("unexpected {{{{{word}}}}}"))),
        }
    }

    /// Fills the template.
    pub(crate) fn render(&self, object: &Value) -> Result<String, Failure> {
        let mut scope = Scope { variables: HashMap::from([(String::new(), object.clone())]), out: String::new() };
        scope.run(&self.0, object)?;
        Ok(scope.out)
    }
}

struct Tokens<'a> {
    rest: &'a str,
    trim: bool,
    depth: usize,
}

impl Tokens<'_> {
    /// Nodes up to `end` or `else`, which is returned, or the end of the text.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<String>), Failure> {
        self.depth += 1;
        if self.depth > 64 {
            return Err(broken("too many actions within each other"));
        }
        let mut nodes = Vec::new();
        loop {
            let start = self.rest.find("{{");
            let text = &self.rest[..start.unwrap_or(self.rest.len())];
            let text = if self.trim { text.trim_start() } else { text };
            let Some(start) = start else {
                push_text(&mut nodes, text);
                self.rest = "";
                self.depth -= 1;
                return Ok((nodes, None));
            };
            let inner = &self.rest[start + 2..];
            let end = action_end(inner).ok_or_else(|| broken("unclosed action"))?;
            let (mut action, before) = (&inner[..end], self.rest);
            self.rest = &before[start + 2 + end + 2..];
            let trims = |rest: &str| rest.starts_with(char::is_whitespace);
            let text = match action.strip_prefix('-').filter(|rest| trims(rest)) {
                Some(rest) => {
                    action = rest;
                    text.trim_end()
                }
                None => text,
            };
            push_text(&mut nodes, text);
            self.trim = action.ends_with(" -");
            let action = action.strip_suffix(" -").unwrap_or(action).trim();
            let (word, argument) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
            match word {
                _ if action.starts_with("/*") => {}
                "end" | "else" => {
                    self.depth -= 1;
                    return Ok((nodes, Some(action.to_owned())));
                }
                "if" => {
                    let pipe = pipe(argument)?;
                    let (then, otherwise) = self.branches()?;
                    nodes.push(Node::If(pipe, then, otherwise));
                }
                "range" | "with" => {
                    let (names, pipe) = assigned(argument)?;
                    let (body, otherwise) = self.branches()?;
                    nodes.push(match word {
                        "range" => Node::Range(names, pipe, body, otherwise),
                        _ => Node::With(names, pipe, body, otherwise),
                    });
                }
                "define" | "template" | "block" | "break" | "continue" => {
                    return Err(broken(format!("{word} is not supported here")));
                }
                _ => nodes.push(Node::Show(pipe(action)?)),
            }
        }
    }

    fn branches(&mut self) -> Result<(Vec<Node>, Vec<Node>), Failure> {
        let (then, end) = self.nodes()?;
        let end = end.ok_or_else(|| broken("unexpected EOF: an if, with or range has no end"))?;
        match end.strip_prefix("else").map(str::trim) {
            None => Ok((then, Vec::new())),
            Some("") => match self.nodes()? {
                (otherwise, Some(end)) if end == "end" => Ok((then, otherwise)),
                _ => Err(broken("expected end after else")),
            },
            Some(condition) => {
                let condition = condition.strip_prefix("if ").ok_or_else(|| broken("expected else or else if"))?;
                let pipe = pipe(condition)?;
                let (inner, otherwise) = self.branches()?;
                Ok((then, vec![Node::If(pipe, inner, otherwise)]))
            }
        }
    }
}

fn push_text(nodes: &mut Vec<Node>, text: &str) {
    if !text.is_empty() {
        nodes.push(Node::Text(text.to_owned()));
    }
}

/// Where `}}` stands outside quotes.
fn action_end(text: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (position, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`') => quote = Some(c),
            (None, '}') if text[position..].starts_with("}}") => return Some(position),
            (None, _) => {}
        }
    }
    None
}

/// `$a, $b := PIPE` or `PIPE`.
fn assigned(text: &str) -> Result<(Vec<String>, Pipe), Failure> {
    match text.split_once(":=") {
        Some((names, rest)) => {
            let names = names.split(',').map(|name| name.trim().strip_prefix('$').map(str::to_owned));
            let names = names.collect::<Option<Vec<_>>>().ok_or_else(|| broken("expected $name before :="))?;
            Ok((names, pipe(rest)?))
        }
        None => Ok((Vec::new(), pipe(text)?)),
    }
}

fn pipe(text: &str) -> Result<Pipe, Failure> {
    let mut rest = text;
    let pipe = commands(&mut rest, 0)?;
    match rest.is_empty() {
        true => Ok(pipe),
        false => Err(broken(format!("unexpected {rest:?}"))),
    }
}

fn commands(rest: &mut &str, depth: usize) -> Result<Pipe, Failure> {
    if depth > 32 {
        return Err(broken("too many parentheses within each other"));
    }
    let mut pipe = vec![Vec::new()];
    loop {
        *rest = rest.trim_start();
        let Some(c) = rest.chars().next() else { break };
        let term = match c {
            ')' => break,
            '|' => {
                *rest = &rest[1..];
                pipe.push(Vec::new());
                continue;
            }
            '(' => {
                *rest = &rest[1..];
                let inner = commands(rest, depth + 1)?;
                *rest = rest.strip_prefix(')').ok_or_else(|| broken("unclosed left paren"))?;
                Term::Nested(inner)
            }
            '"' => {
                let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
                let value = stream.next().and_then(Result::ok).ok_or_else(|| broken("bad quoted text"))?;
                *rest = &rest[stream.byte_offset()..];
                Term::Literal(value)
            }
            '`' => {
                let (text, after) = rest[1..].split_once('`').ok_or_else(|| broken("unterminated raw text"))?;
                *rest = after;
                Term::Literal(Value::String(text.to_owned()))
            }
            _ => {
                let end =
                    rest.find(|c: char| c.is_whitespace() || c == '|' || c == ')' || c == '(').unwrap_or(rest.len());
                let word = &rest[..end];
                *rest = &rest[end..];
                term(word)?
            }
        };
        if let Some(command) = pipe.last_mut() {
            command.push(term);
        }
    }
    match pipe.iter().any(Vec::is_empty) {
        true => Err(broken("missing value for command")),
        false => Ok(pipe),
    }
}

fn term(word: &str) -> Result<Term, Failure> {
    let fields = |text: &str| -> Vec<String> { text.split('.').filter(|f| !f.is_empty()).map(str::to_owned).collect() };
    if word.starts_with('.') {
        return Ok(Term::Field(fields(word)));
    }
    if let Some(variable) = word.strip_prefix('$') {
        let (name, path) = variable.split_once('.').unwrap_or((variable, ""));
        return Ok(Term::Variable(name.to_owned(), fields(path)));
    }
    if let Ok(value) = serde_json::from_str::<Value>(word) {
        return Ok(Term::Literal(value));
    }
    match FUNCTIONS.split(", ").any(|known| known == word) {
        true => Ok(Term::Function(word.to_owned())),
        false => Err(broken(format!("function {word:?} not defined (known: {FUNCTIONS})"))),
    }
}

struct Scope {
    /// `$` has the empty name.
    variables: HashMap<String, Value>,
    out: String,
}

impl Scope {
    fn run(&mut self, nodes: &[Node], dot: &Value) -> Result<(), Failure> {
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Show(pipe) => {
                    let value = self.evaluate(pipe, dot)?;
                    self.out.push_str(&printed(&value));
                }
                Node::If(pipe, then, otherwise) => {
                    let holds = is_true(&self.evaluate(pipe, dot)?);
                    self.run(if holds { then } else { otherwise }, dot)?;
                }
                Node::With(names, pipe, body, otherwise) => match self.evaluate(pipe, dot)? {
                    value if is_true(&value) => {
                        if let Some(name) = names.first() {
                            self.variables.insert(name.clone(), value.clone());
                        }
                        self.run(body, &value)?;
                    }
                    _ => self.run(otherwise, dot)?,
                },
                Node::Range(names, pipe, body, otherwise) => {
                    let items: Vec<(Value, Value)> = match self.evaluate(pipe, dot)? {
                        Value::Array(all) => all.into_iter().enumerate().map(|(i, v)| (Value::from(i), v)).collect(),
                        Value::Object(all) => all.into_iter().map(|(k, v)| (Value::from(k), v)).collect(),
                        Value::Null => Vec::new(),
                        other => return Err(Failure::error(format!("range can't iterate over {other}"))),
                    };
                    if items.is_empty() {
                        self.run(otherwise, dot)?;
                    }
                    for (key, item) in items {
                        match names.as_slice() {
                            [] => {}
                            [one] => drop(self.variables.insert(one.clone(), item.clone())),
                            [first, second, ..] => {
                                self.variables.insert(first.clone(), key);
                                self.variables.insert(second.clone(), item.clone());
                            }
                        }
                        self.run(body, &item)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn evaluate(&self, pipe: &Pipe, dot: &Value) -> Result<Value, Failure> {
        let mut last = None;
        for command in pipe {
            let Some((head, arguments)) = command.split_first() else { continue };
            let mut values = Vec::new();
            for argument in arguments {
                values.push(self.value(argument, dot)?);
            }
            values.extend(last.take());
            last = Some(match head {
                Term::Function(name) => call(name, &values)?,
                head if values.is_empty() => self.value(head, dot)?,
                _ => return Err(Failure::error("only a function can take arguments")),
            });
        }
        Ok(last.unwrap_or_default())
    }

    fn value(&self, term: &Term, dot: &Value) -> Result<Value, Failure> {
        Ok(match term {
            Term::Literal(value) => value.clone(),
            Term::Field(path) => walk(dot, path),
            Term::Variable(name, path) => match self.variables.get(name) {
                Some(value) => walk(value, path),
                None => return Err(Failure::error(format!("undefined variable ${name}"))),
            },
            Term::Function(name) => call(name, &[])?,
            Term::Nested(pipe) => self.evaluate(pipe, dot)?,
        })
    }
}

fn walk(value: &Value, path: &[String]) -> Value {
    path.iter().try_fold(value, |value, field| value.get(field)).cloned().unwrap_or_default()
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(all) => !all.is_empty(),
        Value::Object(all) => !all.is_empty(),
    }
}

/// A value as Go prints it.
fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::Array(all) => format!("[{}]", all.iter().map(printed).collect::<Vec<_>>().join(" ")),
        Value::Object(all) => {
            let pairs = all.iter().map(|(key, value)| format!("{key}:{}", printed(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
        other => shown(other),
    }
}

fn call(name: &str, values: &[Value]) -> Result<Value, Failure> {
    let wrong = || Failure::error(format!("wrong arguments for the template function {name}"));
    let joined = |values: &[Value]| values.iter().map(printed).collect::<Vec<_>>();
    Ok(match (name, values) {
        ("not", [value]) => Value::Bool(!is_true(value)),
        ("and", [.., last]) => values.iter().find(|value| !is_true(value)).unwrap_or(last).clone(),
        ("or", [.., last]) => values.iter().find(|value| is_true(value)).unwrap_or(last).clone(),
        ("eq", [first, others @ ..]) if !others.is_empty() => Value::Bool(others.contains(first)),
        ("ne", [left, right]) => Value::Bool(left != right),
        ("len", [Value::String(text)]) => Value::from(text.len()),
        ("len", [Value::Array(all)]) => Value::from(all.len()),
        ("len", [Value::Object(all)]) => Value::from(all.len()),
        ("index", [value, path @ ..]) => path
            .iter()
            .try_fold(value, |value, key| match key {
                Value::String(key) => value.get(key),
                key => value.get(usize::try_from(key.as_u64()?).ok()?),
            })
            .cloned()
            .unwrap_or_default(),
        ("print", values) => Value::String(joined(values).join("")),
        ("println", values) => Value::String(format!("{}\n", joined(values).join(" "))),
        ("printf", [Value::String(format), values @ ..]) => Value::String(formatted(format, values)?),
        ("base64decode", [Value::String(text)]) => {
            use base64::Engine;
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| wrong())?;
            Value::String(String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => return Err(wrong()),
    })
}

fn formatted(format: &str, values: &[Value]) -> Result<String, Failure> {
    let mut text = String::new();
    let mut values = values.iter();
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        match (c, if c == '%' { characters.next() } else { None }) {
            ('%', Some('%')) => text.push('%'),
            ('%', Some('s' | 'v' | 'd')) => text.push_str(&values.next().map_or("%!v(MISSING)".into(), printed)),
            ('%', Some('q')) => text.push_str(&format!("{:?}", values.next().map_or(String::new(), printed))),
            ('%', verb) => {
                let verb = verb.map(String::from).unwrap_or_default();
                return Err(Failure::error(format!(
                    "printf: %{verb} is not supported here: expected %s, %v, %d, %q or %%"
                )));
            }
            (c, _) => text.push(c),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filled(template: &str) -> String {
        let object = json!({"items": [{"n": "a", "x": 1}, {"n": "b"}], "data": {"k": "aGk="}, "list": []});
        match Template::parse(template).and_then(|template| template.render(&object)) {
            Ok(text) => text,
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn templates_are_filled() {
        for (template, expected) in [
            ("{{range .items}}{{.n}}{{\"\\n\"}}{{end}}", "a\nb\n"),
            ("{{range $i, $e := .items}}{{$i}}{{$e.n}} {{end}}", "0a 1b "),
            ("{{range .items}}{{if .x}}yes{{else}}no{{end}},{{end}}", "yes,no,"),
            ("{{range .list}}x{{else}}none{{end}}", "none"),
            ("{{.data.k | base64decode}}", "hi"),
            ("{{index .items 1 \"n\"}} {{len .items}}", "b 2"),
            ("{{if and .items (not .list)}}ok{{end}}", "ok"),
            ("{{ printf \"%s-%v\" .data.k 3 }}", "aGk=-3"),
            ("a {{- .missing -}} b", "a<no value>b"),
            ("{{with .data}}{{.k}}{{$.data.k}}{{end}}", "aGk=aGk="),
            ("{{if eq 1 2}}a{{else if eq 1 1}}b{{end}}", "b"),
        ] {
            assert_eq!(filled(template), expected, "{template}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for template in ["{{.a", "{{if .a}}", "{{end}}", "{{nope .a}}", "{{define \"x\"}}", "{{.a | }}", "{{(.a}}"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
