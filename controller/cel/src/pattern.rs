//! Regular expressions: linear in the text, bounded in the program's size, and compiled once.
use super::EvaluationError;
use super::budget::Budget;
use regex::{Regex, RegexBuilder};
use std::cell::RefCell;
use std::collections::HashMap;

/// Bytes that a compiled expression may take.
const MAX_PROGRAM: usize = 1 << 20;
/// How many are kept per thread.
const KEPT: usize = 64;
/// What it costs to compile one, and again for each byte.
const COMPILE_COST: usize = 1_000;

thread_local! {
    static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default();
}

/// Compiles an expression in RE2's syntax, within bounds.
pub fn compile(source: &str) -> Result<Regex, String> {
    RegexBuilder::new(source)
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_PROGRAM)
        .nest_limit(100)
        .build()
        .map_err(|error| format!("error parsing regexp: {error}"))
}

/// The expression of a source.
pub(super) fn compiled(source: &str, budget: &Budget<'_>) -> Result<Regex, EvaluationError> {
    if let Some(found) = COMPILED.with_borrow(|kept| kept.get(source).cloned()) {
        return Ok(found);
    }
    budget.charge(COMPILE_COST + 20 * source.len())?;
    let regex = compile(source).map_err(EvaluationError::Function)?;
    COMPILED.with_borrow_mut(|kept| {
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(source.to_owned(), regex.clone());
    });
    Ok(regex)
}
