//! What has to be done about the files: pure.
use super::files::File;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// An object by its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Name {
    pub(super) api_version: String,
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What was done about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) digest: String,
    pub(super) objects: Vec<Name>,
}

/// What a file asks for now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Work {
    pub(super) file: String,
    pub(super) digest: String,
    /// To be applied, in their order.
    pub(super) apply: Vec<(Name, Value)>,
    /// Left the file since the last time.
    pub(super) delete: Vec<Name>,
}

/// The work that changed files make; a file that cannot be understood is named with the reason.
pub(super) fn plan(files: &[File], done: &BTreeMap<String, Record>) -> Vec<Result<Work, (String, String)>> {
    let changed = files.iter().filter(|file| done.get(&file.name).is_none_or(|record| record.digest != file.digest));
    changed
        .map(|file| {
            let apply = objects(&file.text).map_err(|reason| (file.name.clone(), reason))?;
            let before = done.get(&file.name).map(|record| record.objects.clone()).unwrap_or_default();
            let delete = before.into_iter().filter(|old| apply.iter().all(|(name, _)| name != old)).collect();
            Ok(Work { file: file.name.clone(), digest: file.digest.clone(), apply, delete })
        })
        .collect()
}

fn objects(text: &str) -> Result<Vec<(Name, Value)>, String> {
    let documents = api::yaml::documents(text).map_err(|error| api::causes::chain(&error))?;
    let mut objects = Vec::new();
    for document in documents {
        let is_list = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        match document.get("items").and_then(Value::as_array).filter(|_| is_list) {
            Some(items) => {
                items.iter().try_for_each(|item| named(item).map(|name| objects.push((name, item.clone()))))?
            }
            None => objects.push((named(&document)?, document)),
        }
    }
    Ok(objects)
}

fn named(object: &Value) -> Result<Name, String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let need = |pointer: &str| {
        text(pointer).map(str::to_owned).ok_or_else(|| {
            let field = pointer.trim_start_matches('/').replace('/', ".");
            format!("an object has no {field}")
        })
    };
    Ok(Name {
        api_version: need("/apiVersion")?,
        kind: need("/kind")?,
        namespace: text("/metadata/namespace").unwrap_or_default().to_owned(),
        name: need("/metadata/name")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(digest: &str, text: &str) -> File {
        File { name: "a.yaml".into(), digest: digest.into(), text: text.into() }
    }

    fn map(name: &str) -> String {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n")
    }

    fn record(work: &Work) -> BTreeMap<String, Record> {
        let objects = work.apply.iter().map(|(name, _)| name.clone()).collect();
        [(work.file.clone(), Record { digest: work.digest.clone(), objects })].into()
    }

    #[test]
    fn what_changed_is_applied_and_what_left_a_file_is_deleted() {
        let both = format!("{}---\n{}", map("one"), map("two"));
        let first = plan(&[file("1", &both)], &BTreeMap::new()).remove(0).unwrap();
        assert_eq!((first.apply.len(), first.delete.len()), (2, 0));
        let done = record(&first);
        assert!(plan(&[file("1", &both)], &done).is_empty(), "nothing changed");
        assert!(plan(&[], &done).is_empty(), "a file that is gone leaves its objects alone");
        let second = plan(&[file("2", &map("two"))], &done).remove(0).unwrap();
        assert_eq!(second.apply[0].0.name, "two");
        assert_eq!(second.delete.iter().map(|name| name.name.as_str()).collect::<Vec<_>>(), ["one"]);
    }

    #[test]
    fn lists_are_their_items() {
        let list = "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVersion\": \"v1\", \"kind\": \
                    \"Namespace\", \"metadata\": {\"name\": \"n\"}}]}";
        let work = plan(&[file("1", list)], &BTreeMap::new()).remove(0).unwrap();
        assert_eq!((work.apply[0].0.kind.as_str(), work.apply[0].0.name.as_str()), ("Namespace", "n"));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (text, expected) in
            [("a: [", ""), ("kind: Pod\n", "apiVersion"), ("apiVersion: v1\nkind: Pod\n", "metadata.name")]
        {
            let (name, reason) = plan(&[file("1", text)], &BTreeMap::new()).remove(0).unwrap_err();
            assert!(name == "a.yaml" && reason.contains(expected), "{text:?}: {reason}");
        }
    }
}
