//! Sets of processors as the kernel writes them: `0-3,5` (cpuset(7), "List format"). Pure.

use std::collections::BTreeSet;

/// Processors by the kernel's numbers.
pub type CpuSet = BTreeSet<usize>;

/// Higher than any machine counts.
const NUMBER_MAX: usize = 8191;

/// Reads a list. What cannot be read is told.
///
/// # Errors
///
/// A part that is neither a number nor a range from a lower to a higher number.
pub fn parse(text: &str) -> Result<CpuSet, String> {
    let mut set = CpuSet::new();
    for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || format!("{part:?}: expected processors such as 0-1,4");
        let number = |text: &str| text.parse::<usize>().ok().filter(|own| *own <= NUMBER_MAX).ok_or_else(wrong);
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        set.extend(first..=last);
    }
    Ok(set)
}

/// Writes a list.
pub(crate) fn show(set: &CpuSet) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &number in set {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown =
        |(first, last): (usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.into_iter().map(shown).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_has_them() {
        let set = parse(" 5,0-2, 3\n").unwrap();
        assert_eq!(show(&set), "0-3,5");
        assert_eq!((parse("").unwrap().len(), show(&CpuSet::new())), (0, String::new()));
        for wrong in ["x", "1-", "3-1", "-1", "99999", "0-99999999999"] {
            assert!(parse(wrong).unwrap_err().contains("expected processors such as 0-1,4"), "{wrong}");
        }
    }
}
