//! Which segments are worth merging: a decision over numbers.

use std::ops::Range;

/// What a segment that is no longer written holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// Bytes of entries that are the newest of a key that exists.
    pub(super) live: u64,
    /// Bytes of deletions, which still cover older entries elsewhere.
    pub(super) deletions: u64,
}

/// A merge that frees less is not worth a file.
const LEAST_GAIN: u64 = 256 << 10;
/// What one more file costs, as bytes written: a longer run beats its best part when both write little.
const FILE_COST: u64 = 4 << 20;

/// Whether the files have grown beyond 1.75 times the live data, so that with the merge's own output they stay
/// within three times. `slack` bytes may always be dead: below, merging would be busy with nothing.
pub(super) fn is_over(bytes: u64, live: u64, slack: u64) -> bool {
    bytes > live + live / 4 * 3 + slack
}

/// Whether merging falls behind so far that writers must wait for it: with its output the files would pass three
/// times the live data.
pub(super) fn is_far_over(bytes: u64, live: u64, slack: u64) -> bool {
    bytes > live * 2 + slack * 2
}

/// The run of neighbours that frees most for each byte written again. A run from the oldest on drops deletions
/// too: nothing older is left that they would cover.
pub(super) fn choose(sealed: &[Weight]) -> Option<Range<usize>> {
    let mut best: Option<(u128, u128, Range<usize>)> = None;
    for start in 0..sealed.len() {
        let mut sum = Weight::default();
        for (end, weight) in sealed.iter().enumerate().skip(start) {
            sum.bytes += weight.bytes;
            sum.live += weight.live;
            sum.deletions += weight.deletions;
            let kept = if start == 0 { sum.live } else { sum.live + sum.deletions };
            let freed = sum.bytes.saturating_sub(kept);
            let (freed, cost) = (u128::from(freed), u128::from(kept) + u128::from(FILE_COST));
            let better = best.as_ref().is_none_or(|(gain, price, _)| freed * price > gain * cost);
            if freed >= u128::from(LEAST_GAIN) && better {
                best = Some((freed, cost, start..end + 1));
            }
        }
    }
    best.map(|(_, _, range)| range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(bytes: u64, live: u64, deletions: u64) -> Weight {
        Weight { bytes: bytes << 20, live: live << 20, deletions: deletions << 20 }
    }

    #[test]
    fn live_data_alone_is_never_merged() {
        assert!(!is_over(10 << 30, 10 << 30, 0));
        assert_eq!(choose(&[weight(32, 32, 0), weight(32, 32, 0)]), None);
    }

    #[test]
    fn the_cheapest_garbage_goes_first() {
        let sealed = [weight(32, 30, 0), weight(32, 2, 0), weight(32, 3, 0), weight(32, 31, 0)];
        assert_eq!(choose(&sealed), Some(1..3));
    }

    #[test]
    fn deletions_are_freed_from_the_oldest_on_only() {
        assert_eq!(choose(&[weight(32, 32, 0), weight(32, 0, 32)]), Some(0..2));
        assert_eq!(choose(&[weight(32, 0, 32)]), Some(0..1));
    }

    #[test]
    fn too_much_means_more_than_the_slack_and_three_quarters() {
        assert!(!is_over(64 << 20, 0, 64 << 20));
        assert!(is_over((64 << 20) + 1, 0, 64 << 20));
        assert!(!is_over(800 << 20, 421 << 20, 64 << 20));
        assert!(is_over(801 << 20, 421 << 20, 64 << 20));
    }
}
