//! What people are told of an error: itself and its causes on one line.

use std::error::Error;

/// An error and its causes, joined by `: `.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Foreign errors often repeat their cause.
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Step(&'static str, #[source] Option<Box<Step>>);

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let root = Step("no space", None);
        let middle = Step("write x: no space", Some(Box::new(root)));
        let top = Step("save", Some(Box::new(middle)));
        assert_eq!(chain(&top), "save: write x: no space");
    }
}
