//! `-o custom-columns=TITLE:PATH,...`.

use serde_json::Value;

use super::jsonpath::{Path, shown};
use crate::failure::Failure;

/// Titles and the paths of what stands below them.
#[derive(Debug, Clone)]
pub(crate) struct CustomColumns(Vec<(String, Path)>);

impl CustomColumns {
    /// Reads `TITLE:PATH,TITLE:PATH`.
    pub(crate) fn parse(spec: &str) -> Result<Self, Failure> {
        if spec.is_empty() {
            return Err(Failure::error("custom-columns format specified but no custom columns given"));
        }
        let columns = spec.split(',').map(|part| match part.split_once(':') {
            Some((title, path)) if !path.is_empty() => Ok((title.to_owned(), Path::parse(path)?)),
            _ => Err(Failure::error(format!(
                "unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"
            ))),
        });
        Ok(Self(columns.collect::<Result<_, _>>()?))
    }

    /// Reads a file of two lines: titles and paths, each set apart by spaces.
    pub(crate) fn parse_file(text: &str) -> Result<Self, Failure> {
        let mut lines = text.lines();
        let (titles, paths) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let (titles, paths): (Vec<&str>, Vec<&str>) =
            (titles.split_whitespace().collect(), paths.split_whitespace().collect());
        if titles.is_empty() || titles.len() != paths.len() {
            return Err(Failure::error("expected a line of titles and a line with as many paths"));
        }
        let columns = titles.iter().zip(paths).map(|(title, path)| Ok(((*title).to_owned(), Path::parse(path)?)));
        Ok(Self(columns.collect::<Result<_, Failure>>()?))
    }

    /// The line of titles.
    pub(crate) fn titles(&self) -> Vec<String> {
        self.0.iter().map(|(title, _)| title.clone()).collect()
    }

    /// The row of an object.
    pub(crate) fn row(&self, object: &Value) -> Vec<String> {
        let cell = |path: &Path| {
            let found: Vec<String> = path
                .find(object)
                .into_iter()
                .map(|value| if value.is_null() { "<none>".to_owned() } else { shown(value) })
                .collect();
            if found.is_empty() { "<none>".to_owned() } else { found.join(",") }
        };
        self.0.iter().map(|(_, path)| super::table::cell_text(&cell(path))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_follow_their_paths() {
        let columns = match CustomColumns::parse("NAME:.metadata.name,P:{.ports[*].p},X:x") {
            Ok(columns) => columns,
            Err(failure) => panic!("{failure}"),
        };
        assert_eq!(columns.titles(), ["NAME", "P", "X"]);
        assert_eq!(
            columns.row(&json!({"metadata": {"name": "a"}, "ports": [{"p": 1}, {"p": 2}]})),
            ["a", "1,2", "<none>"]
        );
        assert!(CustomColumns::parse("NAME").is_err());
        assert!(CustomColumns::parse_file("A B\n.a").is_err());
    }
}
