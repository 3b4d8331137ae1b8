//! Tokens to a syntax tree. CEL language definition, "Syntax" and "Macros"; two-variable macros, `cel.bind` and
//! optionals are cel-go's extension libraries, which kube-apiserver enables.
use super::ast::{Bind, Call, Comprehension, Entry, Expr, Field, Macro, Operator, Position};
use super::lexer::{Token, tokens};
use super::{CompileError, MAX_DEPTH};
use kube_cel::cel::Value;
use kube_cel::cel::common::ast as template;
use std::sync::Arc;

/// Most arguments of a call; no function of any library takes more.
const MAX_ARGUMENTS: usize = 32;
/// Words that are no variables (CEL language definition, RESERVED).
const RESERVED: [&str; 18] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "var",
    "void",
    "while",
];

pub(super) fn parse(source: &str) -> Result<Expr, CompileError> {
    let mut parser = Parser { source, tokens: tokens(source)?, next: 0, depth: 0, height: 0 };
    let expr = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(expr),
        other => {
            let message = format!("Syntax error: extraneous input '{}' expecting <EOF>", other.describe());
            parser.fail(message)
        }
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<(Token, Position)>,
    next: usize,
    /// How deep the parser stands.
    depth: usize,
    /// How high the tree is that was just built. Trees are walked and dropped by recursion, so none may be higher
    /// than [`MAX_DEPTH`].
    height: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |(token, _)| token)
    }

    fn at(&self) -> Position {
        self.tokens.get(self.next).map_or(self.source.len(), |(_, at)| *at)
    }

    fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError::new(self.source, self.at(), message))
    }

    fn takes(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        if found {
            self.next += 1;
        }
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), CompileError> {
        match self.takes(symbol) {
            true => Ok(()),
            false => {
                let found = self.peek().describe();
                self.fail(format!("Syntax error: mismatched input '{found}' expecting '{symbol}'"))
            }
        }
    }

    /// A tree was built over trees of these heights.
    fn built(&mut self, below: usize) -> Result<(), CompileError> {
        self.height = below + 1;
        match self.height > MAX_DEPTH {
            true => self.fail(format!("expression recursion limit exceeded: {MAX_DEPTH}")),
            false => Ok(()),
        }
    }

    fn expression(&mut self) -> Result<Expr, CompileError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(format!("expression recursion limit exceeded: {MAX_DEPTH}"));
        }
        let condition = self.operation()?;
        let expr = match self.takes("?") {
            false => condition,
            true => {
                let mut height = self.height;
                let then = self.operation()?;
                height = height.max(self.height);
                self.expect(":")?;
                let other = self.expression()?;
                self.built(height.max(self.height))?;
                Expr::Conditional(Box::new([condition, then, other]))
            }
        };
        self.depth -= 1;
        Ok(expr)
    }

    /// Operands with operators between them. They are read in a row and grouped by precedence afterwards, so that a
    /// level of nesting takes few frames of the stack.
    fn operation(&mut self) -> Result<Expr, CompileError> {
        let mut operands = vec![(self.unary()?, self.height)];
        let mut operators = Vec::new();
        while let Some(infix) = infix(self.peek()) {
            self.next += 1;
            operators.push(infix);
            operands.push((self.unary()?, self.height));
        }
        for level in 0..=LOWEST {
            if operators.is_empty() {
                break;
            }
            (operands, operators) = self.grouped(operands, operators, level)?;
        }
        let (expr, height) = operands.swap_remove(0);
        self.height = height;
        Ok(expr)
    }

    /// Puts together what operators of one precedence connect.
    fn grouped(&mut self, operands: Vec<(Expr, usize)>, operators: Vec<Infix>, level: u8) -> Result<Row, CompileError> {
        let (mut out, mut left) = (Vec::new(), Vec::new());
        let mut operators = operators.into_iter().peekable();
        let mut operands = operands.into_iter();
        while let Some((first, mut height)) = operands.next() {
            let mut rest = Vec::new();
            while let Some(infix) = operators.next_if(|infix| infix.level() == level) {
                let Some((operand, above)) = operands.next() else { break };
                height = height.max(above);
                rest.push((infix, operand));
            }
            if !rest.is_empty() {
                self.built(height)?;
                height = self.height;
            }
            out.push((group(first, rest), height));
            left.extend(operators.next());
        }
        Ok((out, left))
    }

    fn unary(&mut self) -> Result<Expr, CompileError> {
        let (mut nots, mut minuses) = (0usize, 0usize);
        while self.takes("!") {
            nots += 1;
        }
        while nots == 0 && self.takes("-") {
            minuses += 1;
        }
        if minuses > 0 {
            // A minus in front of a number is part of it.
            let literal = match self.peek() {
                Token::Int(n) => Some(Value::Int(-*n)),
                Token::IntMinMagnitude => Some(Value::Int(i64::MIN)),
                Token::Double(n) => Some(Value::Float(-*n)),
                _ => None,
            };
            if let Some(value) = literal {
                self.next += 1;
                self.height = 1;
                let operand = self.postfix(Expr::Literal(value))?;
                return self.negated(operand, minuses - 1);
            }
        }
        let operand = self.member()?;
        if nots % 2 == 1 {
            self.built(self.height)?;
            return Ok(Expr::Not(Box::new(operand)));
        }
        if nots > 0 {
            self.built(self.height + 1)?;
            return Ok(Expr::Not(Box::new(Expr::Not(Box::new(operand)))));
        }
        self.negated(operand, minuses)
    }

    /// Pairs of minuses cancel out, but the type must still be one that has a minus.
    fn negated(&mut self, operand: Expr, minuses: usize) -> Result<Expr, CompileError> {
        let layers = if minuses == 0 { 0 } else { 2 - minuses % 2 };
        let mut expr = operand;
        for _ in 0..layers {
            self.built(self.height)?;
            expr = Expr::Negate(Box::new(expr));
        }
        Ok(expr)
    }

    fn member(&mut self) -> Result<Expr, CompileError> {
        let primary = self.primary()?;
        self.postfix(primary)
    }

    fn postfix(&mut self, mut expr: Expr) -> Result<Expr, CompileError> {
        loop {
            let height = self.height;
            if self.takes(".") {
                let at = self.at();
                let (name, quoted) = self.field_name()?;
                if !quoted && self.takes("(") {
                    let arguments = self.arguments(")")?;
                    let below = height.max(self.height);
                    expr = self.call(name, at, Some(expr), arguments)?;
                    self.built(below)?;
                    continue;
                }
                if !quoted
                    && matches!(self.peek(), Token::Symbol("{" | "{?"))
                    && let Some(prefix) = dotted(&expr)
                {
                    expr = self.message(format!("{prefix}.{name}"), at)?;
                    continue;
                }
                expr = Expr::Select { operand: Box::new(expr), field: field(name, quoted), optional: false };
                self.built(height)?;
            } else if self.takes(".?") {
                let (name, quoted) = self.field_name()?;
                expr = Expr::Select { operand: Box::new(expr), field: field(name, quoted), optional: true };
                self.built(height)?;
            } else if matches!(self.peek(), Token::Symbol("[" | "[?")) {
                let optional = self.advance() == Token::Symbol("[?");
                let index = self.expression()?;
                self.expect("]")?;
                expr = Expr::Index { operand: Box::new(expr), index: Box::new(index), optional };
                self.built(height.max(self.height))?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn field_name(&mut self) -> Result<(String, bool), CompileError> {
        match self.advance() {
            Token::Ident(name) => Ok((name, false)),
            Token::Quoted(name) => Ok((name, true)),
            other => {
                self.next -= 1;
                self.fail(format!("Syntax error: mismatched input '{}' expecting IDENTIFIER", other.describe()))
            }
        }
    }

    /// Expressions up to a closing symbol, which is taken. The height is that of the highest.
    fn arguments(&mut self, close: &str) -> Result<Vec<Expr>, CompileError> {
        let (mut arguments, mut height) = (Vec::new(), 0);
        while !self.takes(close) {
            if !arguments.is_empty() {
                self.expect(",")?;
            }
            if arguments.len() >= MAX_ARGUMENTS {
                return self.fail(format!("too many arguments: limit {MAX_ARGUMENTS}"));
            }
            arguments.push(self.expression()?);
            height = height.max(self.height);
        }
        self.height = height;
        Ok(arguments)
    }

    fn primary(&mut self) -> Result<Expr, CompileError> {
        let at = self.at();
        let token = self.advance();
        self.height = 1;
        let literal = |value| Ok(Expr::Literal(value));
        match token {
            Token::Int(n) => literal(Value::Int(n)),
            Token::Uint(n) => literal(Value::UInt(n)),
            Token::Double(n) => literal(Value::Float(n)),
            Token::String(text) => literal(Value::String(Arc::new(text))),
            Token::Bytes(bytes) => literal(Value::Bytes(Arc::new(bytes))),
            Token::Symbol("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("[") => self.list(),
            Token::Symbol("[?") => {
                self.next -= 1;
                self.optional_list()
            }
            Token::Symbol("{" | "{?") => {
                self.next -= 1;
                self.map()
            }
            // A leading dot says that the name stands at the root, where all names stand here.
            Token::Symbol(".") => {
                let at = self.at();
                match self.advance() {
                    Token::Ident(name) => self.identifier(name, at),
                    other => {
                        self.next -= 1;
                        let found = other.describe();
                        self.fail(format!("Syntax error: mismatched input '{found}' expecting IDENTIFIER"))
                    }
                }
            }
            Token::Ident(name) => self.identifier(name, at),
            other => {
                self.next -= 1;
                if other == Token::IntMinMagnitude {
                    return self.fail("invalid int literal");
                }
                let expecting = "expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
                self.fail(format!("Syntax error: mismatched input '{}' {expecting}", other.describe()))
            }
        }
    }

    fn identifier(&mut self, name: String, at: Position) -> Result<Expr, CompileError> {
        match name.as_str() {
            "true" => return Ok(Expr::Literal(Value::Bool(true))),
            "false" => return Ok(Expr::Literal(Value::Bool(false))),
            "null" => return Ok(Expr::Literal(Value::Null)),
            word if RESERVED.contains(&word) => {
                return Err(CompileError::new(self.source, at, format!("reserved identifier: {word}")));
            }
            _ => {}
        }
        if self.takes("(") {
            let arguments = self.arguments(")")?;
            let below = self.height;
            let call = self.call(name, at, None, arguments)?;
            self.built(below)?;
            return Ok(call);
        }
        if matches!(self.peek(), Token::Symbol("{" | "{?")) {
            return self.message(name, at);
        }
        Ok(Expr::Ident(name, at))
    }

    fn list(&mut self) -> Result<Expr, CompileError> {
        self.next -= 1;
        self.optional_list()
    }

    /// `[a, ?b]`; stands at the bracket.
    fn optional_list(&mut self) -> Result<Expr, CompileError> {
        let mut optional = self.advance() == Token::Symbol("[?");
        let (mut items, mut height) = (Vec::new(), 0);
        while optional || !self.takes("]") {
            optional |= self.takes("?");
            items.push((self.expression()?, optional));
            optional = false;
            height = height.max(self.height);
            if !self.takes(",") {
                self.expect("]")?;
                break;
            }
        }
        self.built(height)?;
        Ok(Expr::List(items))
    }

    fn map(&mut self) -> Result<Expr, CompileError> {
        let mut optional = self.advance() == Token::Symbol("{?");
        let (mut entries, mut height) = (Vec::new(), 0);
        while optional || !self.takes("}") {
            optional |= self.takes("?");
            let key = self.expression()?;
            height = height.max(self.height);
            self.expect(":")?;
            let value = self.expression()?;
            height = height.max(self.height);
            entries.push(Entry { key, value, optional });
            optional = false;
            if !self.takes(",") {
                self.expect("}")?;
                break;
            }
        }
        self.built(height)?;
        Ok(Expr::Map(entries))
    }

    fn message(&mut self, name: String, at: Position) -> Result<Expr, CompileError> {
        let mut optional = self.advance() == Token::Symbol("{?");
        let (mut fields, mut height) = (Vec::new(), 0);
        while optional || !self.takes("}") {
            optional |= self.takes("?");
            let (key, quoted) = self.field_name()?;
            self.expect(":")?;
            let value = self.expression()?;
            height = height.max(self.height);
            fields.push((field(key, quoted), value, optional));
            optional = false;
            if !self.takes(",") {
                self.expect("}")?;
                break;
            }
        }
        self.built(height)?;
        Ok(Expr::Message { name, at, fields })
    }

    /// A call, or what a macro of that name stands for.
    fn call(
        &mut self,
        function: String,
        at: Position,
        target: Option<Expr>,
        arguments: Vec<Expr>,
    ) -> Result<Expr, CompileError> {
        let wrong = |message: &str| Err(CompileError::new(self.source, at, message));
        if target.is_none() && function == "has" {
            let [argument]: [Expr; 1] = match arguments.try_into() {
                Ok(one) => one,
                Err(_) => return wrong("invalid argument to has() macro"),
            };
            return match argument {
                Expr::Select { operand, field, optional: false } => Ok(Expr::Has { operand, field }),
                _ => wrong("invalid argument to has() macro"),
            };
        }
        let Some(target) = target else { return Ok(plain_call(function, at, None, arguments)) };
        if function == "bind" && matches!(&target, Expr::Ident(name, _) if name == "cel") {
            let Ok([variable, value, body]) = <[Expr; 3]>::try_from(arguments) else {
                return wrong("cel.bind() takes a variable, its value and an expression");
            };
            let Expr::Ident(variable, _) = variable else {
                return wrong("cel.bind() variable names must be simple identifiers");
            };
            return Ok(Expr::Bind(Box::new(Bind { variable, value, body })));
        }
        if matches!(function.as_str(), "optMap" | "optFlatMap") && arguments.len() == 2 {
            let flat = function == "optFlatMap";
            let Ok([variable, body]) = <[Expr; 2]>::try_from(arguments) else { return wrong("invalid argument") };
            let Expr::Ident(variable, _) = variable else {
                return wrong("optMap() variable name must be a simple identifier");
            };
            return Ok(Expr::OptionalMap { bind: Box::new(Bind { variable, value: target, body }), flat });
        }
        let Some((kind, two, condition)) = macro_of(&function, &arguments) else {
            return Ok(plain_call(function, at, Some(target), arguments));
        };
        let mut arguments = arguments.into_iter();
        let mut variable = || match arguments.next() {
            Some(Expr::Ident(name, _)) => Ok(name),
            _ => Err(CompileError::new(self.source, at, "argument must be a simple name")),
        };
        let first = variable()?;
        let second = if two { Some(variable()?) } else { None };
        let condition = if condition { arguments.next() } else { None };
        let Some(body) = arguments.next() else { return wrong("missing argument") };
        Ok(Expr::Comprehension(Box::new(Comprehension { kind, range: target, first, second, condition, body })))
    }
}

/// The macro of a name with so many arguments: whether it has two variables, and a condition before the body.
fn macro_of(function: &str, arguments: &[Expr]) -> Option<(Macro, bool, bool)> {
    Some(match (function, arguments.len()) {
        ("all", 2) => (Macro::All, false, false),
        ("all", 3) => (Macro::All, true, false),
        ("exists", 2) => (Macro::Exists, false, false),
        ("exists", 3) => (Macro::Exists, true, false),
        ("exists_one" | "existsOne", 2) => (Macro::ExistsOne, false, false),
        ("exists_one" | "existsOne", 3) => (Macro::ExistsOne, true, false),
        ("filter", 2) => (Macro::Filter, false, false),
        ("map", 2) => (Macro::Map, false, false),
        ("map", 3) => (Macro::Map, false, true),
        ("transformList", 3) => (Macro::TransformList, true, false),
        ("transformList", 4) => (Macro::TransformList, true, true),
        ("transformMap", 3) => (Macro::TransformMap, true, false),
        ("transformMap", 4) => (Macro::TransformMap, true, true),
        ("transformMapEntry", 3) => (Macro::TransformMapEntry, true, false),
        ("transformMapEntry", 4) => (Macro::TransformMapEntry, true, true),
        _ => return None,
    })
}

fn plain_call(function: String, at: Position, target: Option<Expr>, arguments: Vec<Expr>) -> Expr {
    // `math.ceil(x)` is a function of a library, unless `math` is a variable: then the name fits no function.
    let (function, target) = match target {
        Some(Expr::Ident(library, _)) if super::library::is_known(&format!("{library}.{function}")) => {
            (format!("{library}.{function}"), None)
        }
        target => (function, target),
    };
    let ident = |name: String| template::IdedExpr { id: 0, expr: template::Expr::Ident(name) };
    let template = template::IdedExpr {
        id: 0,
        expr: template::Expr::Call(template::CallExpr {
            func_name: function.clone(),
            target: target.as_ref().map(|_| Box::new(ident("@t".into()))),
            args: (0..arguments.len()).map(|index| ident(format!("@{index}"))).collect(),
        }),
    };
    Expr::Call(Box::new(Call { function, at, target, arguments, template }))
}

/// Operands with their heights, and the operators between them.
type Row = (Vec<(Expr, usize)>, Vec<Infix>);

/// An operator between two operands.
#[derive(Clone, Copy, Debug)]
enum Infix {
    Or,
    And,
    Other(Operator),
}

/// The precedence of `||`.
const LOWEST: u8 = 4;

impl Infix {
    /// Products bind first (0), then sums, relations, `&&`, and `||`.
    fn level(self) -> u8 {
        match self {
            Self::Or => LOWEST,
            Self::And => 3,
            Self::Other(Operator::Multiply | Operator::Divide | Operator::Modulo) => 0,
            Self::Other(Operator::Add | Operator::Subtract) => 1,
            Self::Other(_) => 2,
        }
    }
}

fn infix(token: &Token) -> Option<Infix> {
    let symbol = match token {
        Token::Symbol(symbol) => *symbol,
        Token::Ident(word) if word == "in" => "in",
        _ => return None,
    };
    Some(Infix::Other(match symbol {
        "||" => return Some(Infix::Or),
        "&&" => return Some(Infix::And),
        "==" => Operator::Equal,
        "!=" => Operator::NotEqual,
        "<" => Operator::Less,
        "<=" => Operator::LessOrEqual,
        ">" => Operator::Greater,
        ">=" => Operator::GreaterOrEqual,
        "in" => Operator::In,
        "+" => Operator::Add,
        "-" => Operator::Subtract,
        "*" => Operator::Multiply,
        "/" => Operator::Divide,
        "%" => Operator::Modulo,
        _ => return None,
    }))
}

/// One node of operands that operators of one precedence connect.
fn group(first: Expr, rest: Vec<(Infix, Expr)>) -> Expr {
    let kind = rest.first().map(|(infix, _)| *infix);
    let parts =
        |first, rest: Vec<(Infix, Expr)>| std::iter::once(first).chain(rest.into_iter().map(|(_, e)| e)).collect();
    match kind {
        None => first,
        Some(Infix::Or) => Expr::Or(parts(first, rest)),
        Some(Infix::And) => Expr::And(parts(first, rest)),
        Some(Infix::Other(_)) => {
            let rest = rest.into_iter().filter_map(|(infix, operand)| match infix {
                Infix::Other(operator) => Some((operator, operand)),
                Infix::Or | Infix::And => None,
            });
            Expr::Chain { first: Box::new(first), rest: rest.collect() }
        }
    }
}

/// `a.b.c` of plain selections.
fn dotted(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Ident(name, _) => Some(name.clone()),
        Expr::Select { operand, field, optional: false } => Some(format!("{}.{}", dotted(operand)?, field.name)),
        _ => None,
    }
}

/// A field, with what its name means when it is escaped as custom resources' rules escape names
/// (Kubernetes documentation, "Validation rules", table of escaped names).
fn field(name: String, quoted: bool) -> Field {
    let unescaped = if quoted || !name.contains("__") { None } else { unescape(&name) };
    Field { name, unescaped }
}

fn unescape(name: &str) -> Option<String> {
    if let Some(word) = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"))
        && (RESERVED.contains(&word) || matches!(word, "true" | "false" | "null"))
    {
        return Some(word.to_owned());
    }
    let text = name
        .replace("__underscores__", "\0")
        .replace("__dot__", ".")
        .replace("__dash__", "-")
        .replace("__slash__", "/")
        .replace('\0', "__");
    (text != name).then_some(text)
}
