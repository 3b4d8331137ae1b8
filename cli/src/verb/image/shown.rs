//! Images as people read them.

use agent_image::store::Image;

/// A line for each image, under a head.
pub(super) fn list(images: Vec<Image>) -> String {
    let rows = images.into_iter().map(|image| {
        // A colon after the last slash begins a tag, one before it a port.
        let (name, tag) = match (image.name.split_once('@'), image.name.rsplit_once(':')) {
            (Some((name, _)), _) => (name.to_owned(), "<none>".to_owned()),
            (None, Some((name, tag))) if !tag.contains('/') => (name.to_owned(), tag.to_owned()),
            (None, _) => (image.name.clone(), String::new()),
        };
        let pinned = if image.pinned { "yes" } else { "no" };
        [name, tag, image.config.hex()[..12].to_owned(), size(image.size), pinned.to_owned()]
    });
    table(&["IMAGE", "TAG", "IMAGE ID", "SIZE", "PINNED"], rows.collect())
}

/// Bytes with three digits, as `crictl` shows them.
pub(super) fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match value {
        value if unit == 0 || value >= 100.0 => format!("{value:.0}{}", units[unit]),
        value => format!("{value:.1}{}", units[unit]),
    }
}

/// Columns padded as kubectl pads them.
fn table<const N: usize>(head: &[&str; N], rows: Vec<[String; N]>) -> String {
    let all: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let widths: Vec<usize> = (0..N).map(|column| all.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    all.iter()
        .map(|row| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("{}\n", cells.join("   ").trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_columns_are_readable() {
        assert_eq!(
            (size(999).as_str(), size(1_234_567).as_str(), size(123_456_789).as_str()),
            ("999B", "1.2MB", "123MB")
        );
        let text = table(&["A", "B"], vec![["long cell".into(), "x".into()]]);
        assert_eq!(text, "A           B\nlong cell   x\n");
    }
}
