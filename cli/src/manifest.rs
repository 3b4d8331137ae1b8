//! Objects out of files: `-f FILE|DIR|-`, `-R`, several documents per file, lists of objects.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::client::Session;
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};

/// The largest file that is taken.
const FILE_LIMIT: u64 = 256 << 20;

/// Flags that say where manifests are.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FileArgs {
    /// File or directory with manifests, or - for standard input; may be repeated.
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_delimiter = ',')]
    pub(crate) filename: Vec<PathBuf>,
    /// Look into directories below as well.
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// An object of a manifest.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// The file that it stands in.
    pub(crate) source: String,
    pub(crate) value: Value,
}

/// An object of a manifest with its place in the API.
pub(crate) struct Placed<'a> {
    pub(crate) source: String,
    pub(crate) kind: &'a Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) value: Value,
}

impl Placed<'_> {
    /// `pod/x` or `deployment.apps/x`.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.kind.prefix(), self.name)
    }
}

impl FileArgs {
    /// Reads all objects of all files.
    pub(crate) fn read(&self) -> Result<Vec<Manifest>, Failure> {
        let mut manifests = Vec::new();
        for path in &self.filename {
            for file in self.files(path)? {
                let text = read_file(&file)?;
                let source = if file == Path::new("-") { "STDIN".to_owned() } else { file.display().to_string() };
                let documents = api::yaml::documents(&text).map_err(|error| {
                    Failure::error(format!("error parsing {source}: {}", crate::failure::chain(&error)))
                })?;
                for value in documents {
                    flatten(&source, value, &mut manifests, 0)?;
                }
            }
        }
        match manifests.is_empty() {
            true => Err(Failure::error("no objects passed")),
            false => Ok(manifests),
        }
    }

    fn files(&self, path: &Path) -> Result<Vec<PathBuf>, Failure> {
        let text = path.to_string_lossy();
        if text.starts_with("http://") || text.starts_with("https://") {
            return Err(Failure::error(format!("{text}: addresses are not read; fetch the file and give its path")));
        }
        if path == Path::new("-") {
            return Ok(vec![path.to_owned()]);
        }
        if !path.exists() {
            return Err(Failure::error(format!("the path \"{text}\" does not exist")));
        }
        let mut files = Vec::new();
        walk(path, self.recursive, true, &mut files)?;
        Ok(files)
    }
}

/// Manifests of a directory in the order of their names, as kubectl reads them.
fn walk(path: &Path, recursive: bool, named: bool, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::error(format!("{}: {error}", path.display()));
    if !path.is_dir() {
        let known = path.extension().and_then(|extension| extension.to_str());
        if named || matches!(known, Some("yaml" | "yml" | "json")) {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    if !named && (!recursive || path.is_symlink()) {
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(failed)?;
    let mut entries = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort();
    entries.iter().try_for_each(|entry| walk(entry, recursive, false, files))
}

fn read_file(path: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::error(format!("{}: {error}", path.display()));
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().lock().take(FILE_LIMIT).read_to_string(&mut text),
        false => std::fs::File::open(path).map_err(failed)?.take(FILE_LIMIT).read_to_string(&mut text),
    };
    read.map_err(failed)?;
    match text.len() as u64 >= FILE_LIMIT {
        true => Err(Failure::error(format!("{}: larger than 256 MiB", path.display()))),
        false => Ok(text),
    }
}

fn flatten(source: &str, value: Value, manifests: &mut Vec<Manifest>, depth: usize) -> Result<(), Failure> {
    let field = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let missing = |name: &str| {
        Failure::error(format!(
            "error validating \"{source}\": an object has no {name}: expected a text such as {}",
            if name == "kind" { "Pod" } else { "v1" }
        ))
    };
    if !value.is_object() {
        return Err(Failure::error(format!(
            "error validating \"{source}\": expected an object with apiVersion and kind"
        )));
    }
    let kind = field("kind").ok_or_else(|| missing("kind"))?;
    field("apiVersion").ok_or_else(|| missing("apiVersion"))?;
    let Some(items) = value.get("items").and_then(Value::as_array).filter(|_| kind.ends_with("List")) else {
        manifests.push(Manifest { source: source.to_owned(), value });
        return Ok(());
    };
    if depth > 8 {
        return Err(Failure::error(format!("error validating \"{source}\": lists lie too deep within each other")));
    }
    items.iter().try_for_each(|item| flatten(source, item.clone(), manifests, depth + 1))
}

/// Finds the place of a manifest in the API, and gives it the namespace of the command line where it has none.
pub(crate) fn place<'a>(session: &Session, catalog: &'a Catalog, manifest: Manifest) -> Result<Placed<'a>, Failure> {
    let Manifest { source, mut value } = manifest;
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind_name, own) = (text("/apiVersion"), text("/kind"), text("/metadata/namespace"));
    let name = text("/metadata/name");
    let kind = catalog.of_object(&api_version, &kind_name).ok_or_else(|| {
        Failure::error(format!(
            "resource mapping not found for name: \"{name}\" namespace: \"{own}\" from \"{source}\": \
             no matches for kind \"{kind_name}\" in version \"{api_version}\"\nensure CRDs are installed first"
        ))
    })?;
    if name.is_empty() && text("/metadata/generateName").is_empty() {
        return Err(Failure::error(format!(
            "error validating \"{source}\": {kind_name}: metadata.name: expected a name"
        )));
    }
    let namespace = if own.is_empty() { session.namespace.clone() } else { own.clone() };
    if kind.namespaced {
        if session.namespace_given && namespace != session.namespace {
            return Err(Failure::error(format!(
                "the namespace from the provided object \"{own}\" does not match the namespace \"{}\". \
                 You must pass '--namespace={own}' to perform this operation.",
                session.namespace
            )));
        }
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("namespace".into(), Value::String(namespace.clone()));
        }
    }
    Ok(Placed { source, kind, namespace, name, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Manifest>, String> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().map_err(|e| e.to_string())?;
        std::fs::write(file.path(), text).map_err(|e| e.to_string())?;
        let args = FileArgs { filename: vec![file.path().to_owned()], recursive: false };
        args.read().map_err(|failure| failure.to_string())
    }

    #[test]
    fn documents_and_lists_become_objects() {
        let text = "apiVersion: v1\nkind: Pod\n---\n# nothing\n---\napiVersion: v1\nkind: List\nitems:\n\
            - {apiVersion: v1, kind: Secret}\n- {apiVersion: v1, kind: ConfigMapList, items: [{apiVersion: v1, kind: ConfigMap}]}\n";
        let kinds = read(text).map(|all| all.iter().map(|m| m.value["kind"].to_string()).collect::<Vec<_>>());
        assert_eq!(kinds, Ok(vec!["\"Pod\"".into(), "\"Secret\"".into(), "\"ConfigMap\"".into()]));
    }

    #[test]
    fn bad_files_are_told() {
        assert!(read("").is_err_and(|text| text == "error: no objects passed"));
        assert!(read("kind: Pod").is_err_and(|text| text.contains("no apiVersion")));
        assert!(read("- a").is_err_and(|text| text.contains("expected an object")));
        assert!(read("a: [").is_err_and(|text| text.contains("error parsing")));
    }
}
