//! What is told besides the answer: `Warning` headers to the client, annotations to the audit log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Characters of all warnings of one answer; beyond that each is cut (apiserver, endpoints/filters/warning.go).
const TOTAL: usize = 4 * 1024;
const CUT: usize = 256;

/// The warnings of one request, each once, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    pub(crate) fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !text.is_empty() && !all.contains(&text) {
            all.push(text);
        }
    }

    /// All of them, cut where they are too much for a header.
    pub(crate) fn take(&self) -> Vec<String> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if all.iter().map(String::len).sum::<usize>() <= TOTAL {
            return all;
        }
        let mut left = TOTAL;
        let cut = all.into_iter().map(|text| text.chars().take(CUT).collect::<String>());
        cut.take_while(|text| {
            let fits = text.len() <= left;
            left = left.saturating_sub(text.len());
            fits
        })
        .collect()
    }
}

/// The longest value of an annotation, in bytes (apiserver, audit annotations of policies).
const LONGEST_ANNOTATION: usize = 10 * 1024;

/// What admission tells the audit log of one request, by name; the first value of a name stays.
#[derive(Debug, Clone, Default)]
pub(crate) struct Annotations(Arc<Mutex<BTreeMap<String, String>>>);

impl Annotations {
    pub(crate) fn add(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut value: String = value.into();
        value.truncate(value.floor_char_boundary(LONGEST_ANNOTATION));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.into()).or_insert(value);
    }

    pub(crate) fn take(&self) -> BTreeMap<String, String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
