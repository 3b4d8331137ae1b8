//! The layout: nested `Name:  value` lines whose values stand in one column per level, as Go's tabwriter sets them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::output::table::cell_text;

/// A time of the API in the time zone of the reader (RFC 1123 with a numeric zone).
pub(crate) fn local_time(text: &str) -> String {
    match text.parse::<Timestamp>() {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
        Err(_) => text.to_owned(),
    }
}

/// A page that grows line by line.
#[derive(Debug, Default)]
pub(crate) struct Page {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    level: usize,
    cells: Vec<String>,
}

impl Page {
    /// `Name:  value`.
    pub(crate) fn field(&mut self, level: usize, name: &str, value: impl AsRef<str>) {
        self.cells(level, [format!("{name}:"), value.as_ref().to_owned()]);
    }

    /// `Name:` alone, before deeper lines.
    pub(crate) fn heading(&mut self, level: usize, name: &str) {
        self.cells(level, [format!("{name}:")]);
    }

    /// Any line.
    pub(crate) fn cells(&mut self, level: usize, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| cell_text(&cell)).collect();
        self.lines.push(Line { level, cells });
    }

    /// `Name:` with one value per line, or `<none>`.
    pub(crate) fn values(&mut self, level: usize, name: &str, values: &[String]) {
        let Some((first, rest)) = values.split_first() else { return self.field(level, name, "<none>") };
        self.field(level, name, first);
        rest.iter().for_each(|value| self.cells(level, [String::new(), value.clone()]));
    }

    /// The text. A column ends with the lines that have it: neighbours share its width, as in elastic tab stops.
    pub(crate) fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .lines
            .iter()
            .map(|line| {
                let mut cells = line.cells.clone();
                if let Some(first) = cells.first_mut() {
                    *first = format!("{}{first}", "  ".repeat(line.level));
                }
                cells
            })
            .collect();
        align(&rows)
    }
}

/// Elastic tab stops with two spaces between columns: a cell that is not the last of its line is as wide as the
/// widest of its block, the run of neighbouring lines that have such a cell.
fn align(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<Vec<usize>> = rows.iter().map(|row| vec![0; row.len()]).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut start = 0;
        while start < rows.len() {
            let run = rows[start..].iter().take_while(|row| row.len() > column + 1).count();
            let block = start..start + run;
            let width = rows[block.clone()].iter().map(|row| row[column].chars().count() + 2).max().unwrap_or(0);
            block.for_each(|row| widths[row][column] = width);
            start += run.max(1);
        }
    }
    let mut text = String::new();
    for (row, widths) in rows.iter().zip(&widths) {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let gap = widths[column].saturating_sub(cell.chars().count());
                text.extend(std::iter::repeat_n(' ', gap));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_neighbours_stand_in_one_column() {
        let mut page = Page::default();
        page.field(0, "Name", "x");
        page.values(0, "Annotations", &["a: b".into(), "c: d".into()]);
        page.heading(0, "Containers");
        page.field(2, "Image", "y");
        assert_eq!(
            page.text(),
            "Name:         x\nAnnotations:  a: b\n              c: d\nContainers:\n    Image:  y\n"
        );
    }
}
