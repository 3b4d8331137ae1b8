//! Field selectors: `metadata.name=x,status.phase!=Running`.
use std::fmt;

/// One comparison with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Path of the field.
    pub path: String,
    /// `true` for `=`, `false` for `!=`.
    pub equal: bool,
    /// The value, unescaped.
    pub value: String,
}

/// All comparisons must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// The comparisons.
    pub requirements: Vec<Requirement>,
}

/// Why a text is no field selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldSelectorError {
    /// A term has no operator.
    #[error("invalid selector: '{text}'; can't understand '{term}'")]
    Term {
        /// The whole selector.
        text: String,
        /// The term.
        term: String,
    },
    /// A backslash stands before something that needs none.
    #[error("invalid field selector: invalid escape sequence: {sequence}")]
    Escape {
        /// The sequence.
        sequence: String,
    },
    /// Too long.
    #[error("field selector is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
}

const MAX_TEXT: usize = 64 * 1024;

impl FieldSelector {
    /// Reads the text form. `\\`, `\,` and `\=` stand for themselves.
    pub fn parse(text: &str) -> Result<Self, FieldSelectorError> {
        if text.len() > MAX_TEXT {
            return Err(FieldSelectorError::TooLong { limit: MAX_TEXT });
        }
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let Some((path, equal, value)) = split_term(term) else {
                return Err(FieldSelectorError::Term { text: text.to_owned(), term: term.to_owned() });
            };
            requirements.push(Requirement { path: path.to_owned(), equal, value: unescape(value)? });
        }
        Ok(Self { requirements })
    }

    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether every comparison holds; an absent field counts as empty.
    pub fn matches_with(&self, lookup: impl Fn(&str) -> Option<String>) -> bool {
        self.requirements.iter().all(|r| (lookup(&r.path).unwrap_or_default() == r.value) == r.equal)
    }

    /// The value that `path` must have, when the selector pins it.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equal && r.path == path).map(|r| r.value.as_str())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (path, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((path, false, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((path, true, value))
}

fn unescape(value: &str) -> Result<String, FieldSelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                other => {
                    let sequence = std::iter::once('\\').chain(other).collect();
                    return Err(FieldSelectorError::Escape { sequence });
                }
            },
            '=' => return Err(FieldSelectorError::Escape { sequence: value.to_owned() }),
            _ => out.push(c),
        }
    }
    Ok(out)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if r.equal { "=" } else { "!=" };
            let value = r.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", r.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let s = FieldSelector::parse("metadata.name=x,status.phase!=Running,a==b\\,c").unwrap();
        assert_eq!(s.requirements.len(), 3);
        assert_eq!(s.exact("metadata.name"), Some("x"));
        assert_eq!(s.exact("a"), Some("b,c"));
        assert!(!s.requirements[1].equal);
        assert_eq!(FieldSelector::parse(&s.to_string()).unwrap(), s);
        assert!(FieldSelector::parse("").unwrap().is_empty());
        for bad in ["a", "a!b", "a=b\\x", "a=b=c"] {
            assert!(FieldSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn matches() {
        let s = FieldSelector::parse("a=1,b!=2").unwrap();
        assert!(s.matches_with(|p| (p == "a").then(|| "1".to_owned())));
        assert!(!s.matches_with(|p| Some(if p == "a" { "1" } else { "2" }.to_owned())));
    }
}
