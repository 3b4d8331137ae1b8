use super::*;
use proptest::prelude::*;

fn schedule(text: &str) -> Schedule {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The next times as they are written in UTC.
fn next(text: &str, zone_name: &str, from: &str, count: usize) -> Vec<String> {
    let (schedule, zone) = (schedule(text), zone(zone_name).unwrap());
    let mut time = at(from);
    (0..count)
        .map(|_| {
            time = schedule.next(time, &zone).unwrap();
            time.to_string()
        })
        .collect()
}

#[test]
fn fields_have_lists_ranges_steps_and_names() {
    let utc = |text, count| next(text, "UTC", "2026-11-26T10:07:30Z", count);
    assert_eq!(utc("*/15 * * * *", 2), ["2026-11-26T10:15:00Z", "2026-11-26T10:30:00Z"]);
    assert_eq!(utc("5/20 11 * * ?", 4)[3], "2026-11-27T11:05:00Z");
    assert_eq!(utc("0 8-10/2,23 * * *", 3), ["2026-11-26T23:00:00Z", "2026-11-27T08:00:00Z", "2026-11-27T10:00:00Z"]);
    assert_eq!(utc("0 0 1 JAN-mar *", 2), ["2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"]);
    assert_eq!(utc("30 6 * * MON,5", 2), ["2026-11-27T06:30:00Z", "2026-11-30T06:30:00Z"]);
    assert_eq!(utc("0 0 29 2 *", 1), ["2028-02-29T00:00:00Z"]);
    assert_eq!(utc("7 10 26 11 *", 1), ["2027-11-26T10:07:00Z"], "what is past is past");
    assert_eq!(utc("@hourly", 1), ["2026-11-26T11:00:00Z"]);
    assert_eq!(utc("@weekly", 1), ["2026-11-29T00:00:00Z"]);
    assert_eq!(utc("@every 1h30m", 2), ["2026-11-26T11:37:30Z", "2026-11-26T13:07:30Z"]);
}

#[test]
fn either_kind_of_day_is_enough_where_both_are_given() {
    let utc = |text| next(text, "UTC", "2026-11-26T10:00:00Z", 3);
    assert_eq!(utc("0 0 1 * FRI"), ["2026-11-27T00:00:00Z", "2026-12-01T00:00:00Z", "2026-12-04T00:00:00Z"]);
    assert_eq!(utc("0 0 */31 * FRI"), ["2026-11-27T00:00:00Z", "2026-12-01T00:00:00Z", "2026-12-04T00:00:00Z"]);
    assert_eq!(utc("0 0 * * FRI")[1], "2026-12-04T00:00:00Z");
}

#[test]
fn clocks_that_are_changed_skip_and_repeat() {
    // In New York the clocks leap from 2:00 to 3:00 on 2026-03-08, and back from 2:00 to 1:00 on 2026-11-01.
    let skipped = next("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 1);
    assert_eq!(skipped, ["2026-03-09T06:30:00Z"]);
    let twice = next("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 3);
    assert_eq!(twice, ["2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z", "2026-11-02T06:30:00Z"]);
    let noon = next("0 12 * * *", "Asia/Kolkata", "2026-11-26T10:00:00Z", 1);
    assert_eq!(noon, ["2026-11-27T06:30:00Z"]);
}

#[test]
fn zones_are_known_by_their_own_names() {
    assert!(zone("Europe/Berlin").is_some() && zone("UTC").is_some() && zone("Etc/UTC").is_some());
    assert!(zone("europe/berlin").is_none() && zone("Local").is_none() && zone("Europe/Nowhere").is_none());
}

#[test]
fn what_is_no_schedule_is_told_why() {
    let error = |text: &str| text.parse::<Schedule>().unwrap_err().to_string();
    assert_eq!(error("* * * *"), "expected exactly 5 fields, found 4: [* * * *]");
    assert_eq!(error(""), "empty spec string");
    assert_eq!(error("60 * * * *"), "60-60 is not within 0-59: 60");
    assert_eq!(error("* * 0 * *"), "0-0 is not within 1-31: 0");
    assert_eq!(error("* * * * 7"), "7-7 is not within 0-6: 7");
    assert_eq!(error("5-3 * * * *"), "5-3 is not within 0-59: 5-3");
    assert_eq!(error("*/0 * * * *"), "step of range should be a positive number: */0");
    assert_eq!(error("1-2-3 * * * *"), "too many hyphens or slashes: 1-2-3");
    assert_eq!(error("x * * * *"), "failed to parse number: \"x\"");
    assert_eq!(error(", * * * *"), "failed to parse number: \",\"");
    assert_eq!(error("@sometimes"), "unrecognized descriptor: @sometimes");
    assert_eq!(error("@every soon"), "failed to parse duration soon");
    assert_eq!(schedule("0 0 31 2 *").next(at("2026-01-01T00:00:00Z"), &TimeZone::UTC), None);
}

#[test]
fn what_is_due_is_the_latest_of_what_was_missed() {
    let due = |text: &str, from: &str, now: &str| schedule(text).due(at(from), at(now), &TimeZone::UTC);
    let one = |latest: &str, are_too_many| Some(Due { latest: at(latest), are_too_many });
    assert_eq!(due("0 * * * *", "2026-01-01T10:00:00Z", "2026-01-01T10:59:59Z"), None);
    assert_eq!(due("0 * * * *", "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z"), one("2026-01-01T11:00:00Z", false));
    assert_eq!(due("0 * * * *", "2026-01-01T10:00:00Z", "2026-01-03T12:30:00Z"), one("2026-01-03T12:00:00Z", false));
    assert_eq!(due("* * * * *", "2026-01-01T10:00:00Z", "2026-01-03T12:30:30Z"), one("2026-01-03T12:30:00Z", true));
    assert_eq!(due("@every 10s", "2026-01-01T10:00:00Z", "2026-01-03T12:30:35Z"), one("2026-01-03T12:30:30Z", true));
}

proptest! {
    /// Against the obvious way: minute by minute, by what the clocks show.
    #[test]
    fn the_next_time_is_the_first_that_fits(
        minute in 0i8..60, hour in 0i8..24, step in 1i8..30, start in 1_700_000_000i64..1_800_000_000,
        zone_name in prop::sample::select(vec!["UTC", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo"]),
    ) {
        let zone = zone(zone_name).unwrap();
        let text = format!("{minute}/{step} {hour} * * *");
        let start = Timestamp::from_second(start).unwrap();
        let found = schedule(&text).next(start, &zone).unwrap();
        let mut time = Timestamp::from_second(start.as_second() / 60 * 60 + 60).unwrap();
        loop {
            let shown = time.to_zoned(zone.clone());
            if shown.hour() == hour && shown.minute() >= minute && (shown.minute() - minute) % step == 0 {
                break;
            }
            time += SignedDuration::from_mins(1);
        }
        prop_assert_eq!(found, time);
    }

    #[test]
    fn no_text_breaks_it(text in "[@*?/0-9a-z, -]{0,30}") {
        if let Ok(schedule) = text.parse::<Schedule>() {
            prop_assert!(schedule.next(at("2026-01-01T00:00:00Z"), &TimeZone::UTC).is_none_or(|next| next > at("2026-01-01T00:00:00Z")));
        }
    }
}
