//! kubectl's JSONPath templates: text with `{...}`; fields, indexes, slices, unions, wildcards, recursive descent,
//! filters with one comparison, `range` and `end`, quoted text. Not there: regular expressions in filters.

use serde_json::Value;

use crate::failure::Failure;

/// A template.
#[derive(Debug, Clone)]
pub(crate) struct JsonPath {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Path(Path),
    Range(Path, Vec<Part>),
}

/// A path without braces, as `--sort-by` and custom columns take it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// `$`: the whole object again, within a range.
    Root,
    Field(String),
    Wildcard,
    Descend,
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
    Union(Vec<Step>),
    Filter(Operand, Option<(Comparison, Operand)>),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Path),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

fn broken(what: impl std::fmt::Display) -> Failure {
    Failure::error(format!("error parsing jsonpath: {what}"))
}

impl JsonPath {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        // Ranges that are open: the path and what stands before them.
        let mut open: Vec<(Path, Vec<Part>)> = Vec::new();
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('{') {
            if start > 0 {
                parts.push(Part::Text(rest[..start].to_owned()));
            }
            let end = closing(&rest[start..]).ok_or_else(|| broken("unclosed action"))?;
            let action = rest[start + 1..start + end].trim();
            rest = &rest[start + end + 1..];
            if action == "end" {
                let (path, before) = open.pop().ok_or_else(|| broken("not in range, nothing to end"))?;
                let body = std::mem::replace(&mut parts, before);
                parts.push(Part::Range(path, body));
            } else if let Some(path) = action.strip_prefix("range ") {
                open.push((Path::parse(path.trim())?, std::mem::take(&mut parts)));
                if open.len() > 32 {
                    return Err(broken("too many ranges within each other"));
                }
            } else {
                action_parts(action, &mut parts)?;
            }
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        match open.is_empty() {
            true => Ok(Self { parts }),
            false => Err(broken("unclosed range")),
        }
    }

    /// Fills the template; fields that are missing are empty.
    pub(crate) fn render(&self, object: &Value) -> Result<String, Failure> {
        let mut text = String::new();
        render(&self.parts, object, object, &mut text);
        Ok(text)
    }
}

fn render(parts: &[Part], root: &Value, here: &Value, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path(path) => {
                let found: Vec<String> = path.find_from(root, here).into_iter().map(shown).collect();
                out.push_str(&found.join(" "));
            }
            Part::Range(path, body) => {
                path.find_from(root, here).into_iter().for_each(|item| render(body, root, item, out));
            }
        }
    }
}

/// A value as text: strings as they are, the rest as JSON.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Where the `}` of an action stands, quotes and inner braces respected.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0_usize;
    let mut escaped = false;
    for (position, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') => {
                depth -= 1;
                if depth == 0 {
                    return Some(position);
                }
            }
            (None, _) => {}
        }
    }
    None
}

/// `{.a}`, `{"text"}`, also several of them in one pair of braces.
fn action_parts(action: &str, parts: &mut Vec<Part>) -> Result<(), Failure> {
    let mut scanner = Scanner::new(action);
    loop {
        scanner.skip_spaces();
        match scanner.peek() {
            None => return Ok(()),
            Some('"' | '\'') => parts.push(Part::Text(scanner.quoted()?)),
            Some(_) => parts.push(Part::Path(Path(scanner.steps()?))),
        }
    }
}

impl Path {
    /// Reads a path, with or without braces and the first dot, as kubectl relaxes it.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(text);
        let mut scanner = Scanner::new(text);
        let steps = scanner.steps()?;
        scanner.skip_spaces();
        match scanner.peek() {
            None => Ok(Self(steps)),
            Some(c) => Err(broken(format!("unexpected {c:?} in {text:?}"))),
        }
    }

    /// All values that the path leads to.
    pub(crate) fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        self.find_from(object, object)
    }

    fn find_from<'a>(&self, root: &'a Value, here: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![here];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.follow(root, value)).collect();
        }
        found
    }
}

impl Step {
    fn follow<'a>(&self, root: &'a Value, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Root => vec![root],
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Wildcard => children(value).collect(),
            Self::Descend => {
                let mut all = vec![value];
                let mut next = 0;
                while let Some(value) = all.get(next).copied() {
                    all.extend(children(value).filter(|child| child.is_object() || child.is_array()));
                    next += 1;
                }
                all
            }
            Self::Index(index) => {
                let Some(all) = value.as_array() else { return Vec::new() };
                usize::try_from(from_end(*index, all.len())).ok().and_then(|index| all.get(index)).into_iter().collect()
            }
            Self::Slice(from, to, step) => {
                let Some(all) = value.as_array() else { return Vec::new() };
                let bound = |bound: i64| usize::try_from(from_end(bound, all.len())).unwrap_or(0).min(all.len());
                let from = from.map_or(0, bound);
                let to = to.map_or(all.len(), bound).max(from);
                all[from..to].iter().step_by(usize::try_from(*step).unwrap_or(1).max(1)).collect()
            }
            Self::Union(steps) => steps.iter().flat_map(|step| step.follow(root, value)).collect(),
            Self::Filter(left, test) => {
                children(value).filter(|child| passes(left, test.as_ref(), root, child)).collect()
            }
        }
    }
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(all) => Box::new(all.iter()),
        Value::Object(all) => Box::new(all.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn from_end(index: i64, length: usize) -> i64 {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    if index < 0 { index.saturating_add(length) } else { index }
}

fn passes(left: &Operand, test: Option<&(Comparison, Operand)>, root: &Value, item: &Value) -> bool {
    let value = |operand: &Operand| match operand {
        Operand::Literal(value) => Some(value.clone()),
        Operand::Path(path) => path.find_from(root, item).first().map(|value| (*value).clone()),
    };
    let (left, Some((comparison, right))) = (value(left), test) else { return value(left).is_some() };
    let (Some(left), Some(right)) = (left, value(right)) else { return false };
    let order = match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.partial_cmp(&right),
        _ => Some(shown(&left).cmp(&shown(&right))),
    };
    let Some(order) = order else { return false };
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    }
}

struct Scanner<'a> {
    text: &'a str,
    depth: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, depth: 0 }
    }

    fn peek(&self) -> Option<char> {
        self.text.chars().next()
    }

    fn take(&mut self, wanted: &str) -> bool {
        match self.text.strip_prefix(wanted) {
            Some(rest) => {
                self.text = rest;
                true
            }
            None => false,
        }
    }

    fn skip_spaces(&mut self) {
        self.text = self.text.trim_start();
    }

    fn word(&mut self, ends: impl Fn(char) -> bool) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek() {
            if ends(c) {
                break;
            }
            self.text = &self.text[c.len_utf8()..];
            // A backslash takes the special meaning from the next character: `.metadata.labels.a\.b`.
            match (c, self.peek()) {
                ('\\', Some(next)) => {
                    self.text = &self.text[next.len_utf8()..];
                    word.push(next);
                }
                _ => word.push(c),
            }
        }
        word
    }

    fn quoted(&mut self) -> Result<String, Failure> {
        let Some(quote) = self.peek() else { return Err(broken("expected a quoted text")) };
        self.text = &self.text[quote.len_utf8()..];
        let mut text = String::new();
        let mut characters = self.text.char_indices();
        while let Some((position, c)) = characters.next() {
            match c {
                c if c == quote => {
                    self.text = &self.text[position + c.len_utf8()..];
                    return Ok(text);
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, other)) => text.push(other),
                    None => break,
                },
                c => text.push(c),
            }
        }
        Err(broken("unterminated quoted string"))
    }

    fn steps(&mut self) -> Result<Vec<Step>, Failure> {
        let mut steps = Vec::new();
        if self.take("$") {
            steps.push(Step::Root);
        } else if !self.take("@") && self.peek().is_some_and(|c| c != '.' && c != '[') {
            // The first dot may be left out.
            steps.push(self.field()?);
        }
        loop {
            if self.take("..") {
                steps.push(Step::Descend);
                if self.peek().is_some_and(|c| c != '[') {
                    steps.push(self.field()?);
                }
            } else if self.take(".") {
                // `{.}` is the object itself; `.[0]` is what people write for `[0]`.
                if self.peek().is_some_and(|c| c != '[' && !ends_path(c)) {
                    steps.push(self.field()?);
                }
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(steps);
            }
        }
    }

    fn field(&mut self) -> Result<Step, Failure> {
        if self.take("*") {
            return Ok(Step::Wildcard);
        }
        let name = self.word(|c| c == '.' || c == '[' || ends_path(c));
        match name.is_empty() {
            true => Err(broken(format!("expected a field at {:?}", self.text))),
            false => Ok(Step::Field(name)),
        }
    }

    fn bracket(&mut self) -> Result<Step, Failure> {
        self.skip_spaces();
        if self.take("?(") {
            return self.filter();
        }
        let mut steps = Vec::new();
        loop {
            self.skip_spaces();
            steps.push(match self.peek() {
                Some('\'' | '"') => Step::Field(self.quoted()?),
                Some('*') => {
                    self.take("*");
                    Step::Wildcard
                }
                _ => index(&self.word(|c| c == ']' || c == ','))?,
            });
            self.skip_spaces();
            match (self.take("]"), steps.len()) {
                (true, 1) => return steps.pop().ok_or_else(|| broken("empty brackets")),
                (true, _) => return Ok(Step::Union(steps)),
                (false, _) if self.take(",") => {}
                (false, _) => return Err(broken("unterminated array")),
            }
        }
    }

    fn filter(&mut self) -> Result<Step, Failure> {
        self.depth += 1;
        if self.depth > 16 {
            return Err(broken("filters lie too deep within each other"));
        }
        let left = self.operand()?;
        self.skip_spaces();
        let signs = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let sign = signs.into_iter().find(|(sign, _)| self.take(sign)).map(|(_, comparison)| comparison);
        let test = match sign {
            Some(comparison) => Some((comparison, self.operand()?)),
            None => None,
        };
        self.skip_spaces();
        self.depth -= 1;
        match self.take(")]") {
            true => Ok(Step::Filter(left, test)),
            false => Err(broken(format!("unterminated filter at {:?}", self.text))),
        }
    }

    fn operand(&mut self) -> Result<Operand, Failure> {
        self.skip_spaces();
        match self.peek() {
            Some('\'' | '"') => Ok(Operand::Literal(Value::String(self.quoted()?))),
            Some('@' | '$' | '.') => Ok(Operand::Path(Path(self.steps()?))),
            _ => {
                let word = self.word(|c| ends_path(c) || c == ']');
                serde_json::from_str(&word)
                    .map(Operand::Literal)
                    .map_err(|_| broken(format!("{word:?}: expected @.path, a quoted text, a number, true or false")))
            }
        }
    }
}

fn ends_path(c: char) -> bool {
    c.is_whitespace() || matches!(c, ')' | '=' | '!' | '<' | '>' | ']' | '"' | '\'' | ',')
}

fn index(text: &str) -> Result<Step, Failure> {
    let text = text.trim();
    let number = |part: &str| part.trim().parse::<i64>().map_err(|_| broken(format!("invalid array index {text}")));
    let optional = |part: &str| if part.trim().is_empty() { Ok(None) } else { number(part).map(Some) };
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [one] => Ok(Step::Index(number(one)?)),
        [from, to] => Ok(Step::Slice(optional(from)?, optional(to)?, 1)),
        [from, to, step] => match optional(step)?.unwrap_or(1) {
            step if step > 0 => Ok(Step::Slice(optional(from)?, optional(to)?, step)),
            _ => Err(broken("step must be > 0")),
        },
        _ => Err(broken(format!("invalid array index {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filled(template: &str) -> String {
        let object = json!({"kind": "List", "items": [
            {"metadata": {"name": "a", "labels": {"x.y/z": "1"}}, "n": 1, "c": [{"type": "Ready", "status": "True"}]},
            {"metadata": {"name": "b"}, "n": 2, "c": [{"type": "Ready", "status": "False"}]}]});
        match JsonPath::parse(template).and_then(|path| path.render(&object)) {
            Ok(text) => text,
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn kubectls_templates_are_filled() {
        for (template, expected) in [
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0].metadata.labels.x\\.y/z}", "1"),
            ("{.items[0].metadata.labels['x.y/z']}", "1"),
            ("{.items[-1].n}", "2"),
            ("{.items[0:1].n}", "1"),
            ("{.items[0,1].n}", "1 2"),
            ("{..name}", "a b"),
            ("{.items[?(@.metadata.name==\"b\")].n}", "2"),
            ("{.items[?(@.n>1)].metadata.name}", "b"),
            ("{.items[*].c[?(@.type=='Ready')].status}", "True False"),
            ("{range .items[*]}{.metadata.name}{\"\\t\"}{.n}{\"\\n\"}{end}", "a\t1\nb\t2\n"),
            ("x{.missing.y}y", "xy"),
            ("{$.kind}", "List"),
            ("{.items[0].metadata.labels}", "{\"x.y/z\":\"1\"}"),
            (".kind", ".kind"),
            ("{kind}", "List"),
            ("{['items'][0]['n']}", "1"),
        ] {
            assert_eq!(filled(template), expected, "{template}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for template in
            ["{.a", "{range .a}", "{end}", "{.a[}", "{.a[x]}", "{.a[?(@.b==)]}", "{.a[::0]}", "{\"x}", "{.a)}"]
        {
            assert!(JsonPath::parse(template).is_err(), "{template}");
        }
    }
}
