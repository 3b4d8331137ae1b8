//! How metrics are told: OpenMetrics 1.0 to who asks for it, the older text format 0.0.4 to everybody else.
//! Facts from the OpenMetrics specification and the Prometheus documentation, "Exposition formats".

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Text,
}

impl Format {
    /// The format for a scraper that sends this `Accept` header.
    pub fn accepted(accept: Option<&str>) -> Format {
        let wants = |clause: &str| {
            let mut parts = clause.split(';').map(str::trim);
            let is_open = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            let refused = |part: &str| part.strip_prefix("q=").is_some_and(|q| q.parse::<f32>() == Ok(0.0));
            is_open && !parts.any(refused)
        };
        match accept.is_some_and(|accept| accept.split(',').any(wants)) {
            true => Format::OpenMetrics,
            false => Format::Text,
        }
    }

    /// What `Content-Type` says.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// An exposition in OpenMetrics, in this format.
    pub fn render(self, open_metrics: String) -> String {
        match self {
            Format::OpenMetrics => open_metrics,
            Format::Text => older(&open_metrics),
        }
    }
}

/// In the older format a counter's family has the name of its samples, and there are no units and no end mark.
fn older(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 16);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let words = |line: &str| -> Option<(String, String, String)> {
            let (keyword, rest) = line.strip_prefix("# ")?.split_once(' ')?;
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            Some((keyword.to_owned(), name.to_owned(), rest.to_owned()))
        };
        let is_counter = |type_line: &str, name: &str| {
            words(type_line).is_some_and(|(keyword, own, kind)| keyword == "TYPE" && own == name && kind == "counter")
        };
        match words(line) {
            Some((keyword, name, rest)) => {
                let is_counter = is_counter(line, &name) || lines.peek().is_some_and(|next| is_counter(next, &name));
                let total = if is_counter && !name.ends_with("_total") { "_total" } else { "" };
                out.push_str(&format!("# {keyword} {name}{total} {rest}\n"));
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapers_get_what_they_understand() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
        for plain in [None, Some("*/*"), Some("text/plain"), Some("application/openmetrics-text;q=0, text/plain")] {
            assert_eq!(Format::accepted(plain), Format::Text, "{plain:?}");
        }
    }

    #[test]
    fn counters_have_their_samples_name_in_the_older_format() {
        let open = "# HELP a Things.\n# TYPE a counter\na_total{x=\"# TYPE\"} 1\n# HELP b_seconds Time.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 2\n# EOF\n";
        let text = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"# TYPE\"} 1\n# HELP b_seconds Time.\n# TYPE b_seconds gauge\nb_seconds 2\n";
        assert_eq!(Format::Text.render(open.to_owned()), text);
        assert_eq!(Format::OpenMetrics.render(open.to_owned()), open);
    }
}
