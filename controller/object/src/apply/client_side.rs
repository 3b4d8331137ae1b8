//! The way from client-side to server-side apply: what `kubectl apply` noted on the object is no conflict for the same
//! `kubectl`, and the note is kept up, so that the way back stays open.
//! (apimachinery, managedfields/internal/{lastapplied,lastappliedmanager,lastappliedupdater}.go)
use super::Manager;
use super::set::FieldSet;
use crate::schema::Cursor;
use crate::tree::text;
use serde_json::Value;

/// Where client-side apply notes what it sent.
const NOTE: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The one manager whose applies go on from the note; others keep out of it.
const KUBECTL: &str = "kubectl";
/// The most that all annotations of an object may have, in bytes (apimachinery, `TotalAnnotationSizeLimitB`).
const MAX_ANNOTATIONS: usize = 256 * 1024;

fn note<'a>(live: &'a Value, manager: &Manager) -> Option<&'a str> {
    text(live, &["metadata", "annotations", NOTE]).filter(|_| manager.name == KUBECTL)
}

/// The fields that client-side apply set and nobody changed since: `kubectl` may take them from whoever owns them.
pub(super) fn pledged(cursor: Cursor<'_>, live: &Value, manager: &Manager) -> Option<FieldSet> {
    let noted: Value = serde_json::from_str(note(live, manager)?).ok()?;
    let mut pledged = FieldSet::of(cursor, &noted);
    pledged.subtract(&FieldSet::changed(cursor, Some(live), &noted));
    Some(pledged)
}

/// Notes what was applied, where there was a note.
pub(super) fn keep_up(live: &Value, applied: &Value, merged: &mut Value, manager: &Manager) {
    if note(live, manager).is_none() {
        return;
    }
    let mut noted = applied.clone();
    if let Some(annotations) = noted.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(NOTE);
    }
    let Some(annotations) = merged.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    let noted = format!("{noted}\n");
    let others: usize = annotations
        .iter()
        .filter(|(key, _)| *key != NOTE)
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    let fits = others + NOTE.len() + noted.len() <= MAX_ANNOTATIONS;
    // An empty note says that there is none, and that there was one.
    annotations.insert(NOTE.to_owned(), if fits { noted } else { String::new() }.into());
}
