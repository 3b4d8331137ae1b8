//! Standard output for people and pipes: a closed pipe is a normal end, and text that comes from elsewhere
//! cannot steer the terminal.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};

use crate::failure::Failure;

/// Writes text to standard output at once.
pub(crate) fn put(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(error) => Err(Failure::error(format!("cannot write to standard output: {error}"))),
    }
}

/// Writes a line to standard output at once.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    put(format!("{}\n", text.as_ref()))
}

/// Writes a line to standard error; nobody listening there is no failure.
pub(crate) fn note(text: impl AsRef<str>) {
    drop(writeln!(std::io::stderr(), "{}", text.as_ref()));
}

/// Whether a person looks at standard output.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether colours help: a person looks, and does not forbid them (no-color.org), and the terminal has some.
pub(crate) fn is_colourful() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Text without the characters that a terminal obeys; tabs and line ends stay.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\x1b' => clean.push_str("^["),
            '\r' => clean.push_str("\\r"),
            c if obeyed(c) => clean.extend(c.escape_unicode()),
            c => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\rc\u{9b}d\te"), "a^[[2Jb\\rc\\u{9b}d\te");
        assert!(matches!(plain("über"), Cow::Borrowed(_)));
    }
}
