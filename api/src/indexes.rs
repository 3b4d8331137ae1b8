//! Sets of completion indexes as a Job's status and policies write them: `1,3-5,7`.
use std::fmt;

/// A set of indexes, kept as runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes {
    /// First and last of each run, ascending; between two runs at least one index is missing.
    runs: Vec<(u32, u32)>,
}

/// Why a text is no set of indexes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexesError {
    /// A part is no number.
    #[error("cannot convert string to integer for index: {0:?}")]
    Number(String),
    /// A part has more than one hyphen.
    #[error(
        "the fragment {0:?} violates the requirement that an index interval can have at most two parts separated by '-'"
    )]
    Hyphens(String),
    /// An index is as large as the number of completions, or larger.
    #[error("too large index: {0:?}")]
    TooLarge(String),
    /// The numbers do not ascend.
    #[error("non-increasing order, previous: {previous}, current: {current}")]
    Order {
        /// What stands before.
        previous: u32,
        /// What stands after it.
        current: u32,
    },
}

impl Indexes {
    /// Reads what somebody wrote; every index must be below `end`.
    pub fn parse(text: &str, end: u32) -> Result<Self, IndexesError> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        let mut last: Option<u32> = None;
        let number = |part: &str| part.parse::<u32>().map_err(|_| IndexesError::Number(part.to_owned()));
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let mut ends = part.split('-');
            let first = number(ends.next().unwrap_or_default())?;
            let second = ends.next().map(number).transpose()?;
            if ends.next().is_some() {
                return Err(IndexesError::Hyphens(part.to_owned()));
            }
            for index in [Some(first), second].into_iter().flatten() {
                if index >= end {
                    return Err(IndexesError::TooLarge(index.to_string()));
                }
                if let Some(previous) = last.filter(|previous| *previous >= index) {
                    return Err(IndexesError::Order { previous, current: index });
                }
                last = Some(index);
            }
            push(&mut runs, (first, second.unwrap_or(first)));
        }
        Ok(Self { runs })
    }

    /// Reads a status: what is unreadable, or not below `end`, is left out.
    pub fn lenient(text: &str, end: u32) -> Self {
        let mut runs = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else { continue };
            if first < end && first <= last {
                runs.push((first, last.min(end.saturating_sub(1))));
            }
        }
        Self::of_runs(runs)
    }

    fn of_runs(mut runs: Vec<(u32, u32)>) -> Self {
        runs.sort_unstable();
        let mut joined = Vec::with_capacity(runs.len());
        for run in runs {
            push(&mut joined, run);
        }
        Self { runs: joined }
    }

    /// Whether the index is in it.
    pub fn contains(&self, index: u32) -> bool {
        let after = self.runs.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).is_some_and(|at| self.runs[at].1 >= index)
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.runs.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// All that are in one of the two.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::of_runs(self.runs.iter().chain(&other.runs).copied().collect())
    }

    /// How many are in both.
    pub fn count_common(&self, other: &Self) -> u32 {
        let (mut mine, mut theirs) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        let mut count = 0;
        while let (Some((first, last)), Some((start, end))) = (mine.peek(), theirs.peek()) {
            count += (*last.min(end) + 1).saturating_sub(*first.max(start));
            if last < end {
                mine.next();
            } else {
                theirs.next();
            }
        }
        count
    }

    /// The first `most` indexes below `end` that are not in it.
    pub fn absent(&self, end: u32, most: usize) -> Vec<u32> {
        let mut found = Vec::new();
        let mut next = 0;
        for (first, last) in self.runs.iter().copied().chain([(end, end)]) {
            found.extend((next..first.min(end)).take(most - found.len()));
            if found.len() >= most {
                break;
            }
            next = last.saturating_add(1);
        }
        found
    }
}

/// Appends a run that begins where the last one began or later.
fn push(runs: &mut Vec<(u32, u32)>, (first, last): (u32, u32)) {
    match runs.last_mut() {
        Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
        Some(_) | None => runs.push((first, last)),
    }
}

impl FromIterator<u32> for Indexes {
    fn from_iter<I: IntoIterator<Item = u32>>(indexes: I) -> Self {
        Self::of_runs(indexes.into_iter().map(|index| (index, index)).collect())
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.runs.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                // Two are named, three or more are a range.
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn three_in_a_row_are_a_range() {
        let set: Indexes = [7, 1, 4, 3, 5, 5].into_iter().collect();
        assert_eq!(set.to_string(), "1,3-5,7");
        assert_eq!(Indexes::lenient("1,3,4", 10).to_string(), "1,3,4");
        assert_eq!(Indexes::lenient("1,x,3-9", 5).to_string(), "1,3,4");
        assert_eq!(Indexes::default().to_string(), "");
    }

    #[test]
    fn what_people_write_is_read_strictly() {
        assert_eq!(Indexes::parse("0,2-4", 5).unwrap().count(), 4);
        assert_eq!(Indexes::parse("", 5), Ok(Indexes::default()));
        assert_eq!(Indexes::parse("1,1", 5), Err(IndexesError::Order { previous: 1, current: 1 }));
        assert_eq!(Indexes::parse("3-2", 5), Err(IndexesError::Order { previous: 3, current: 2 }));
        assert_eq!(Indexes::parse("5", 5), Err(IndexesError::TooLarge("5".into())));
        assert_eq!(Indexes::parse("1-2-3", 5), Err(IndexesError::Hyphens("1-2-3".into())));
        assert_eq!(Indexes::parse("a", 5), Err(IndexesError::Number("a".into())));
    }

    proptest! {
        #[test]
        fn it_is_a_set(
            one in prop::collection::btree_set(0u32..40, 0..30),
            other in prop::collection::btree_set(0u32..40, 0..30),
            most in 0usize..20,
        ) {
            let (a, b): (Indexes, Indexes) = (one.iter().copied().collect(), other.iter().copied().collect());
            prop_assert_eq!(Indexes::parse(&a.to_string(), 40), Ok(a.clone()));
            prop_assert_eq!(Indexes::lenient(&a.to_string(), 40), a.clone());
            prop_assert_eq!(a.count() as usize, one.len());
            prop_assert_eq!(a.count_common(&b) as usize, one.intersection(&other).count());
            let both: BTreeSet<u32> = one.union(&other).copied().collect();
            prop_assert_eq!(a.union(&b), both.iter().copied().collect());
            prop_assert!((0..40).all(|index| a.contains(index) == one.contains(&index)));
            let free: Vec<u32> = (0..40).filter(|index| !one.contains(index)).take(most).collect();
            prop_assert_eq!(a.absent(40, most), free);
        }
    }
}
