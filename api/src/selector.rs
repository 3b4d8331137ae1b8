//! Label selectors: the text form of queries and `metav1.LabelSelector`, compiled to one list of requirements.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;
use std::fmt;

/// How a requirement compares the label's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// One of the values.
    In(Vec<String>),
    /// Absent, or none of the values.
    NotIn(Vec<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// An integer above.
    GreaterThan(i64),
    /// An integer below.
    LessThan(i64),
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
}

/// All requirements must hold; none means everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The conditions.
    pub requirements: Vec<Requirement>,
}

/// Why a selector cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text has another form.
    #[error("unable to parse requirement: found '{found}', expected: {expected}")]
    Syntax {
        /// What stands there.
        found: String,
        /// What could have stood there.
        expected: &'static str,
    },
    /// A key breaks the rules of label keys.
    #[error("key: Invalid value: {key:?}: {reason}")]
    Key {
        /// The key.
        key: String,
        /// The rule.
        reason: String,
    },
    /// A value breaks the rules of label values.
    #[error("values[0][{key}]: Invalid value: {value:?}: {reason}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The rule.
        reason: String,
    },
    /// `>` and `<` compare integers.
    #[error("values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer")]
    Integer {
        /// The value.
        value: String,
    },
    /// A LabelSelector names an operator that does not exist.
    #[error("{operator:?} is not a valid label selector operator")]
    Operator {
        /// The operator.
        operator: String,
    },
    /// `In` and `NotIn` need values, the others have none.
    #[error("values: Invalid value: {values:?}: {expected}")]
    Values {
        /// The values.
        values: Vec<String>,
        /// What they should be.
        expected: &'static str,
    },
    /// Too long to be a selector.
    #[error("selector is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
}

const MAX_TEXT: usize = 64 * 1024;

impl Requirement {
    fn checked(key: &str, operator: Operator) -> Result<Self, SelectorError> {
        if let Some(reason) = crate::name::qualified_name(key).into_iter().next() {
            return Err(SelectorError::Key { key: key.to_owned(), reason });
        }
        if let Operator::In(values) | Operator::NotIn(values) = &operator {
            for value in values {
                if let Some(reason) = crate::name::label_value(value).into_iter().next() {
                    return Err(SelectorError::Value { key: key.to_owned(), value: value.clone(), reason });
                }
            }
        }
        Ok(Self { key: key.to_owned(), operator })
    }

    /// Whether a label with this value (or none) meets the condition.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Operator::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *bound),
            Operator::LessThan(bound) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *bound),
        }
    }
}

impl Selector {
    /// Reads the text form, as in `a=b,c in (x,y),!d`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_TEXT {
            return Err(SelectorError::TooLong { limit: MAX_TEXT });
        }
        let mut lexer = Lexer { rest: text };
        let mut requirements = Vec::new();
        if lexer.peek() == Token::End {
            return Ok(Self::default());
        }
        loop {
            requirements.push(parse_requirement(&mut lexer)?);
            match lexer.next() {
                Token::End => break,
                Token::Comma => {
                    if !matches!(lexer.peek(), Token::Word(_) | Token::Not) {
                        return Err(lexer.peek().unexpected("identifier after ','"));
                    }
                }
                other => return Err(other.unexpected("',' or 'end of string'")),
            }
        }
        Ok(Self { requirements })
    }

    /// Compiles a `LabelSelector`. `None` selects nothing in Kubernetes; callers decide that.
    pub fn from_label_selector(selector: &LabelSelector) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::checked(key, Operator::In(vec![value.clone()]))?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let operator = expression_operator(&expression.operator, values)?;
            requirements.push(Requirement::checked(&expression.key, operator)?);
        }
        Ok(Self { requirements })
    }

    /// Compiles a `LabelSelector` given as JSON.
    pub fn from_value(selector: &serde_json::Value) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(|v| v.as_object()) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                requirements.push(Requirement::checked(key, Operator::In(vec![value]))?);
            }
        }
        for expression in selector.get("matchExpressions").and_then(|v| v.as_array()).into_iter().flatten() {
            let text = |name: &str| expression.get(name).and_then(|v| v.as_str()).unwrap_or_default();
            let values = expression.get("values").and_then(|v| v.as_array());
            let values = values.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
            let operator = expression_operator(text("operator"), values)?;
            requirements.push(Requirement::checked(text("key"), operator)?);
        }
        Ok(Self { requirements })
    }

    /// Exact equality on every given label.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirements = labels
            .into_iter()
            .map(|(k, v)| Requirement { key: k.clone(), operator: Operator::In(vec![v.clone()]) })
            .collect();
        Self { requirements }
    }

    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether these labels meet every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// The same, with labels looked up through a function.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.matches(lookup(&r.key)))
    }
}

fn expression_operator(operator: &str, values: Vec<String>) -> Result<Operator, SelectorError> {
    let expected = |expected| SelectorError::Values { values: values.clone(), expected };
    match operator {
        "In" | "NotIn" if values.is_empty() => Err(expected("for 'in', 'notin' operators, values set can't be empty")),
        "In" => Ok(Operator::In(values)),
        "NotIn" => Ok(Operator::NotIn(values)),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            Err(expected("values set must be empty for exists and does not exist"))
        }
        "Exists" => Ok(Operator::Exists),
        "DoesNotExist" => Ok(Operator::DoesNotExist),
        _ => Err(SelectorError::Operator { operator: operator.to_owned() }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Comma,
    Open,
    Close,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    End,
}

impl Token<'_> {
    fn unexpected(self, expected: &'static str) -> SelectorError {
        let found = match self {
            Self::Word(word) => word,
            Self::Comma => ",",
            Self::Open => "(",
            Self::Close => ")",
            Self::Not => "!",
            Self::Equals => "=",
            Self::NotEquals => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::End => "",
        };
        SelectorError::Syntax { found: found.to_owned(), expected }
    }
}

#[derive(Clone, Copy)]
struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn peek(&self) -> Token<'a> {
        let mut copy = *self;
        copy.next()
    }

    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        for (text, token) in [
            ("!=", Token::NotEquals),
            ("==", Token::Equals),
            ("=", Token::Equals),
            ("!", Token::Not),
            (",", Token::Comma),
            ("(", Token::Open),
            (")", Token::Close),
            (">", Token::Greater),
            ("<", Token::Less),
        ] {
            if let Some(rest) = self.rest.strip_prefix(text) {
                self.rest = rest;
                return token;
            }
        }
        let special = |c: char| " \t\r\n=!,()><".contains(c);
        let end = self.rest.find(special).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() { Token::End } else { Token::Word(word) }
    }
}

fn parse_requirement(lexer: &mut Lexer<'_>) -> Result<Requirement, SelectorError> {
    let mut token = lexer.next();
    let negated = token == Token::Not;
    if negated {
        token = lexer.next();
    }
    let Token::Word(key) = token else {
        return Err(token.unexpected("identifier"));
    };
    if negated {
        return Requirement::checked(key, Operator::DoesNotExist);
    }
    match lexer.peek() {
        Token::End | Token::Comma => return Requirement::checked(key, Operator::Exists),
        _ => {}
    }
    let operator = match lexer.next() {
        Token::Equals => Operator::In(vec![single_value(lexer)?]),
        Token::NotEquals => Operator::NotIn(vec![single_value(lexer)?]),
        Token::Greater => Operator::GreaterThan(integer(&single_value(lexer)?)?),
        Token::Less => Operator::LessThan(integer(&single_value(lexer)?)?),
        Token::Word("in") => Operator::In(value_set(lexer)?),
        Token::Word("notin") => Operator::NotIn(value_set(lexer)?),
        other => return Err(other.unexpected("in, notin, =, ==, !=, gt, lt")),
    };
    Requirement::checked(key, operator)
}

fn integer(text: &str) -> Result<i64, SelectorError> {
    text.parse().map_err(|_| SelectorError::Integer { value: text.to_owned() })
}

fn single_value(lexer: &mut Lexer<'_>) -> Result<String, SelectorError> {
    match lexer.peek() {
        Token::End | Token::Comma => Ok(String::new()),
        _ => match lexer.next() {
            Token::Word(word) => Ok(word.to_owned()),
            other => Err(other.unexpected("identifier")),
        },
    }
}

fn value_set(lexer: &mut Lexer<'_>) -> Result<Vec<String>, SelectorError> {
    match lexer.next() {
        Token::Open => {}
        other => return Err(other.unexpected("'('")),
    }
    let mut values = Vec::new();
    loop {
        match lexer.next() {
            Token::Word(word) => {
                values.push(word.to_owned());
                match lexer.next() {
                    Token::Close => break,
                    Token::Comma => {}
                    other => return Err(other.unexpected("',' or ')'")),
                }
            }
            Token::Comma => values.push(String::new()),
            Token::Close => {
                values.push(String::new());
                break;
            }
            other => return Err(other.unexpected("',', ')' or identifier")),
        }
    }
    values.sort();
    values.dedup();
    Ok(values)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let key = &requirement.key;
            match &requirement.operator {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan(bound) => write!(f, "{key}>{bound}")?,
                Operator::LessThan(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn parses_and_matches() {
        let all = labels(&[("a", "b"), ("c", "x"), ("n", "7"), ("empty", "")]);
        for (text, want) in [
            ("", true),
            ("a=b", true),
            ("a==b", true),
            ("a = b", true),
            ("a!=b", false),
            ("z!=b", true),
            ("a", true),
            ("!a", false),
            ("!z", true),
            ("c in (x,y)", true),
            ("c in (y)", false),
            ("c notin (x)", false),
            ("z notin (x)", true),
            ("n>6", true),
            ("n<7", false),
            ("a=b,c=x", true),
            ("a=b,c=y", false),
            ("empty=", true),
            ("a>1", false),
            ("c in (x)", true),
        ] {
            let selector = Selector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.matches(&all), want, "{text}");
            assert_eq!(Selector::parse(&selector.to_string()).as_ref(), Ok(&selector), "{text}");
        }
    }

    #[test]
    fn refuses() {
        for text in [
            "a b",
            "a in x",
            "a in (x",
            "=b",
            ",",
            "a,",
            "a=b=c",
            "a>x",
            "a/b/c=d",
            "a=-b",
            "a in (x y)",
            "!",
            "!a=b",
            "a=(b)",
        ] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn label_selector_forms() {
        let value = serde_json::json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["y"]}]});
        let selector = Selector::from_value(&value).unwrap();
        assert!(selector.matches(&labels(&[("a", "b")])));
        assert!(!selector.matches(&labels(&[("a", "b"), ("c", "y")])));
        let typed: LabelSelector = serde_json::from_value(value).unwrap();
        assert_eq!(Selector::from_label_selector(&typed).unwrap(), selector);
        for bad in ["In", "Nope"] {
            let bad = serde_json::json!({"matchExpressions": [{"key": "c", "operator": bad}]});
            assert!(Selector::from_value(&bad).is_err());
        }
    }
}
