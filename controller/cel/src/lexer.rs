//! Source to tokens. CEL language definition, "Syntax".
use super::CompileError;
use super::ast::Position;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Ident(String),
    /// An identifier in backticks: a field's name with any characters.
    Quoted(String),
    Int(i64),
    /// 9223372036854775808, which only a minus in front makes an int.
    IntMinMagnitude,
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    Symbol(&'static str),
    End,
}

impl Token {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Ident(name) | Self::Quoted(name) => name.clone(),
            Self::Int(n) => n.to_string(),
            Self::IntMinMagnitude => "9223372036854775808".into(),
            Self::Uint(n) => format!("{n}u"),
            Self::Double(n) => n.to_string(),
            Self::String(text) => format!("{text:?}"),
            Self::Bytes(_) => "bytes".into(),
            Self::Symbol(symbol) => (*symbol).into(),
            Self::End => "<EOF>".into(),
        }
    }
}

/// Longer ones first.
const SYMBOLS: [&str; 26] = [
    "&&", "||", "==", "!=", "<=", ">=", "[?", "{?", ".?", "<", ">", "(", ")", "[", "]", "{", "}", ".", ",", ":", "?",
    "!", "+", "-", "*", "/",
];

pub(super) fn tokens(source: &str) -> Result<Vec<(Token, Position)>, CompileError> {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let at = lexer.at;
        let token = lexer.token()?;
        let done = token == Token::End;
        tokens.push((token, at));
        if done {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError::new(self.source, at, message))
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn token(&mut self) -> Result<Token, CompileError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        if let Some((raw, bytes, prefix)) = literal_prefix(rest) {
            return self.quoted(raw, bytes, prefix);
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            self.at += end;
            return Ok(Token::Ident(rest.get(..end).unwrap_or_default().to_owned()));
        }
        if first == '`' {
            let name = rest.get(1..).and_then(|text| text.split_once('`')).map(|(name, _)| name);
            let Some(name) = name.filter(|name| !name.is_empty()) else {
                return self.fail(self.at, "Syntax error: unterminated quoted identifier");
            };
            self.at += name.len() + 2;
            return Ok(Token::Quoted(name.to_owned()));
        }
        let digit_follows = rest.get(1..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if first.is_ascii_digit() || first == '.' && digit_follows {
            return self.number();
        }
        if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
            self.at += symbol.len();
            return Ok(Token::Symbol(symbol));
        }
        if first == '%' {
            self.at += 1;
            return Ok(Token::Symbol("%"));
        }
        self.fail(self.at, format!("Syntax error: token recognition error at: '{first}'"))
    }

    fn number(&mut self) -> Result<Token, CompileError> {
        let (at, rest) = (self.at, self.rest());
        let hex = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"));
        if let Some(digits) = hex {
            let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
            self.at += 2 + end;
            return self.integer(at, digits.get(..end).unwrap_or_default(), 16);
        }
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let mut end = digits(rest);
        let mut double = false;
        let tail = rest.get(end..).unwrap_or_default();
        if let Some(fraction) = tail.strip_prefix('.').filter(|tail| tail.starts_with(|c: char| c.is_ascii_digit())) {
            double = true;
            end += 1 + digits(fraction);
        }
        let tail = rest.get(end..).unwrap_or_default();
        if let Some(exponent) = tail.strip_prefix(['e', 'E']) {
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits(unsigned) > 0 {
                double = true;
                end += 1 + (exponent.len() - unsigned.len()) + digits(unsigned);
            }
        }
        self.at += end;
        let text = rest.get(..end).unwrap_or_default();
        if double {
            return match text.parse() {
                Ok(number) => Ok(Token::Double(number)),
                Err(_) => self.fail(at, "invalid double literal"),
            };
        }
        self.integer(at, text, 10)
    }

    fn integer(&mut self, at: usize, digits: &str, radix: u32) -> Result<Token, CompileError> {
        let unsigned = self.rest().starts_with(['u', 'U']);
        if unsigned {
            self.at += 1;
        }
        match u64::from_str_radix(digits, radix) {
            Ok(number) if unsigned => Ok(Token::Uint(number)),
            Ok(number) => match i64::try_from(number) {
                Ok(number) => Ok(Token::Int(number)),
                Err(_) if number == i64::MIN.unsigned_abs() => Ok(Token::IntMinMagnitude),
                Err(_) => self.fail(at, "invalid int literal"),
            },
            Err(_) => self.fail(at, if unsigned { "invalid uint literal" } else { "invalid int literal" }),
        }
    }

    fn quoted(&mut self, raw: bool, bytes: bool, prefix: usize) -> Result<Token, CompileError> {
        let start = self.at;
        self.at += prefix;
        let rest = self.rest();
        let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| rest.starts_with(quote)).unwrap_or("'");
        self.at += quote.len();
        let mut out: Vec<u8> = Vec::new();
        let mut push = |c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        let mut raw_bytes: Vec<(usize, u8)> = Vec::new();
        let mut length = 0;
        loop {
            let rest = self.rest();
            if rest.starts_with(quote) {
                self.at += quote.len();
                break;
            }
            let Some(c) = rest.chars().next() else {
                return self.fail(start, "Syntax error: unterminated string literal");
            };
            if quote.len() == 1 && (c == '\n' || c == '\r') {
                return self.fail(start, "Syntax error: unterminated string literal");
            }
            if c == '\\' && !raw {
                match self.escape(bytes)? {
                    Escape::Char(c) => {
                        push(c);
                        length += c.len_utf8();
                    }
                    Escape::Byte(byte) => {
                        raw_bytes.push((length, byte));
                        push('\0');
                        length += 1;
                    }
                }
                continue;
            }
            self.at += c.len_utf8();
            push(c);
            length += c.len_utf8();
        }
        for (index, byte) in raw_bytes {
            if let Some(place) = out.get_mut(index) {
                *place = byte;
            }
        }
        match bytes {
            true => Ok(Token::Bytes(out)),
            false => Ok(Token::String(String::from_utf8_lossy(&out).into_owned())),
        }
    }

    fn escape(&mut self, bytes: bool) -> Result<Escape, CompileError> {
        let at = self.at;
        let rest = self.rest();
        let Some(kind) = rest.chars().nth(1) else { return self.fail(at, "Syntax error: unterminated string literal") };
        let simple = match kind {
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            '\\' | '\'' | '"' | '`' | '?' => Some(kind),
            _ => None,
        };
        if let Some(c) = simple {
            self.at += 2;
            return Ok(Escape::Char(c));
        }
        let (skip, count, radix) = match kind {
            'x' | 'X' => (2, 2, 16),
            'u' => (2, 4, 16),
            'U' => (2, 8, 16),
            '0'..='3' => (1, 3, 8),
            _ => return self.fail(at, "Syntax error: unable to unescape string"),
        };
        let digits = rest.get(skip..skip + count).filter(|text| text.chars().all(|c| c.is_digit(radix)));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok());
        self.at += skip + count;
        match code {
            Some(code) if bytes && count <= 3 => match u8::try_from(code) {
                Ok(byte) => Ok(Escape::Byte(byte)),
                Err(_) => self.fail(at, "Syntax error: unable to unescape string"),
            },
            Some(code) => match char::from_u32(code) {
                Some(c) => Ok(Escape::Char(c)),
                None => self.fail(at, "Syntax error: unable to unescape string"),
            },
            None => self.fail(at, "Syntax error: unable to unescape string"),
        }
    }
}

enum Escape {
    Char(char),
    Byte(u8),
}

/// Whether a string or bytes literal begins here: (raw, bytes, length of the letters in front).
fn literal_prefix(rest: &str) -> Option<(bool, bool, usize)> {
    let letters = rest.bytes().take(3).position(|byte| matches!(byte, b'"' | b'\''))?;
    match rest.get(..letters)?.to_ascii_lowercase().as_str() {
        "" => Some((false, false, 0)),
        "r" => Some((true, false, 1)),
        "b" => Some((false, true, 1)),
        "rb" | "br" => Some((true, true, 2)),
        _ => None,
    }
}
