//! Columns as kubectl sets them: three spaces apart, at least six wide, the last one ragged.
//! The server's `Table` becomes such columns here.

use serde_json::Value;

use crate::screen;

const PADDING: usize = 3;
const MIN_WIDTH: usize = 6;

/// Widths that only grow, so that the rows of a watch stay in line.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    /// Sets rows; widths of earlier calls are kept.
    pub(crate) fn set(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (column, cell) in row.iter().enumerate() {
                let width = (cell.chars().count() + PADDING).max(MIN_WIDTH);
                match self.widths.get_mut(column) {
                    Some(known) => *known = width.max(*known),
                    None => self.widths.push(width),
                }
            }
        }
        let mut text = String::new();
        for row in rows {
            for (column, cell) in row.iter().enumerate() {
                text.push_str(cell);
                if column + 1 < row.len() {
                    let width = self.widths.get(column).copied().unwrap_or(0);
                    text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// What of a table is shown.
#[derive(Debug, Default, Clone)]
pub(crate) struct Shown {
    /// Columns of every priority.
    pub(crate) wide: bool,
    /// A first column with the namespace.
    pub(crate) namespace: bool,
    /// `pod/` before names.
    pub(crate) prefix: Option<String>,
    /// Labels as columns.
    pub(crate) label_columns: Vec<String>,
    /// All labels as the last column.
    pub(crate) labels: bool,
}

/// The columns of a server's table: title, whether it is shown, whether it is the name.
#[derive(Debug, Default, Clone)]
pub(crate) struct Head {
    columns: Vec<(String, bool, bool)>,
}

impl Head {
    /// Reads `columnDefinitions`; `None` where the table has none (later events of a watch).
    pub(crate) fn of(table: &Value, wide: bool) -> Option<Self> {
        let definitions = table.get("columnDefinitions")?.as_array().filter(|all| !all.is_empty())?;
        let columns = definitions.iter().map(|definition| {
            let name = definition.get("name").and_then(Value::as_str).unwrap_or_default();
            let priority = definition.get("priority").and_then(Value::as_i64).unwrap_or(0);
            let is_name = definition.get("format").and_then(Value::as_str) == Some("name");
            (name.to_uppercase(), wide || priority == 0, is_name)
        });
        Some(Self { columns: columns.collect() })
    }

    /// The line of titles.
    pub(crate) fn titles(&self, shown: &Shown) -> Vec<String> {
        let mut titles = Vec::new();
        if shown.namespace {
            titles.push("NAMESPACE".to_owned());
        }
        titles.extend(self.columns.iter().filter(|(_, shown, _)| *shown).map(|(title, ..)| cell_text(title)));
        for label in &shown.label_columns {
            titles.push(label.rsplit('/').next().unwrap_or(label).to_uppercase());
        }
        if shown.labels {
            titles.push("LABELS".to_owned());
        }
        titles
    }

    /// One row of the table.
    pub(crate) fn row(&self, row: &Value, shown: &Shown) -> Vec<String> {
        let metadata = row.pointer("/object/metadata");
        let mut cells = Vec::new();
        if shown.namespace {
            let namespace = metadata.and_then(|metadata| metadata.get("namespace")?.as_str());
            cells.push(cell_text(namespace.unwrap_or_default()));
        }
        let values = row.get("cells").and_then(Value::as_array);
        for (value, (_, is_shown, is_name)) in values.into_iter().flatten().zip(&self.columns) {
            if !is_shown {
                continue;
            }
            let text = match value {
                Value::Null => "<none>".to_owned(),
                Value::String(text) => cell_text(text),
                other => cell_text(&other.to_string()),
            };
            match &shown.prefix {
                Some(prefix) if *is_name => cells.push(format!("{prefix}/{text}")),
                _ => cells.push(text),
            }
        }
        let labels = metadata.and_then(|metadata| metadata.get("labels")?.as_object());
        let label = |key: &String| labels.and_then(|labels| labels.get(key)?.as_str()).unwrap_or_default();
        cells.extend(shown.label_columns.iter().map(|key| cell_text(label(key))));
        if shown.labels {
            let all = labels
                .into_iter()
                .flatten()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            let all = all.collect::<Vec<_>>().join(",");
            cells.push(if all.is_empty() { "<none>".to_owned() } else { cell_text(&all) });
        }
        cells
    }
}

/// One cell: the first line only, nothing that moves the columns or steers a terminal.
pub(crate) fn cell_text(text: &str) -> String {
    let (line, cut) = match text.split_once(['\n', '\r', '\x0c']) {
        Some((line, _)) => (line, "..."),
        None => (text, ""),
    };
    let line = line.replace('\t', " ");
    match screen::is_terminal() {
        true => format!("{}{cut}", screen::plain(&line)),
        false => format!("{line}{cut}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_are_padded_and_never_shrink() {
        let mut columns = Columns::default();
        assert_eq!(
            columns.set(&[row(&["NAME", "A", "Z"]), row(&["long-name", "1", "z"])]),
            concat!("NAME        A     Z\n", "long-name   1     z\n")
        );
        assert_eq!(columns.set(&[row(&["x", "1", "z"])]), "x           1     z\n");
    }

    #[test]
    fn a_table_becomes_rows() {
        let table = json!({"columnDefinitions": [
            {"name": "Name", "format": "name"}, {"name": "Node", "priority": 1}, {"name": "Ready"}]});
        let line = json!({"cells": ["a", "n", 1], "object": {"metadata": {"namespace": "d", "labels": {"x/k": "v"}}}});
        let head = Head::of(&table, false).unwrap_or_default();
        let shown = Shown {
            namespace: true,
            prefix: Some("pod".into()),
            label_columns: vec!["x/k".into()],
            labels: true,
            ..Shown::default()
        };
        assert_eq!(head.titles(&shown), row(&["NAMESPACE", "NAME", "READY", "K", "LABELS"]));
        assert_eq!(head.row(&line, &shown), row(&["d", "pod/a", "1", "v", "x/k=v"]));
        assert_eq!(cell_text("two\nlines"), "two...");
    }
}
