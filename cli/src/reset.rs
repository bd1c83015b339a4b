//! Where `brooklet group reset-offsets` moves a group: options in, offsets out.

use std::time::Duration;

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The oldest record.
    Earliest,
    /// The next one to come.
    Latest,
    /// Where it is: what would be read is written anew, or for the first time.
    Current,
    /// This offset, or the nearest there is.
    Offset(i64),
    /// So far from where it is, or the nearest there is.
    Shift(i64),
    /// The first record at or after this time, in milliseconds since 1970; the end if there is none.
    Time(i64),
}

/// What is known of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) committed: Option<i64>,
    pub(crate) start: i64,
    pub(crate) end: i64,
    /// Answer to a `Target::Time`.
    pub(crate) at_time: Option<i64>,
}

/// The offset to commit, or why there is none.
pub(crate) fn offset(target: Target, partition: Partition) -> Result<i64, &'static str> {
    let Partition {
        committed,
        start,
        end,
        at_time,
    } = partition;
    let within = |offset: i64| offset.clamp(start, end.max(start));
    match target {
        Target::Earliest => Ok(start),
        Target::Latest => Ok(end),
        Target::Current => Ok(within(committed.unwrap_or(end))),
        Target::Offset(offset) => Ok(within(offset)),
        Target::Shift(by) => match committed {
            Some(committed) => Ok(within(committed.saturating_add(by))),
            None => Err("nothing is committed that could be shifted"),
        },
        Target::Time(_) => Ok(within(at_time.filter(|offset| *offset >= 0).unwrap_or(end))),
    }
}

/// `2026-02-28T12:30:00.000`, with `Z` or `+01:00` behind it or, as UTC, nothing; as milliseconds since 1970.
pub(crate) fn parse_time(text: &str) -> Result<i64, String> {
    parsed_time(text).ok_or_else(|| format!("{text:?} is not like 2026-02-28T12:30:00.000Z"))
}

fn parsed_time(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let (time, zone_minutes) = match time.find(['Z', '+', '-']) {
        Some(at) => (time.get(..at)?, zone_minutes(time.get(at..)?)?),
        None => (time, 0),
    };
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute) = (clock.next()??, clock.next()??);
    let second = clock.next().unwrap_or(Some(0))?;
    let in_range = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..60).contains(&second);
    if !in_range || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - zone_minutes;
    Some((minutes * 60 + second) * 1000 + millis)
}

fn zone_minutes(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let zone = zone.get(1..)?;
    let (hours, minutes) = match zone.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None => (zone.get(..2)?, zone.get(2..)?),
    };
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    ((0..=18).contains(&hours) && (0..60).contains(&minutes))
        .then_some(sign * (hours * 60 + minutes))
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years are counted from March, so that the leap day is the last.
    let years = if month <= 2 { year - 1 } else { year };
    let months = (month + 9) % 12;
    let leap_days = years / 4 - years / 100 + years / 400;
    years * 365 + leap_days + (months * 153 + 2) / 5 + day - 719_469
}

/// `P1DT2H3M4S`, or parts of it.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    parsed_duration(text).ok_or_else(|| format!("{text:?} is not like P1DT2H30M or PT15M"))
}

fn parsed_duration(text: &str) -> Option<Duration> {
    let rest = text.strip_prefix('P')?;
    let (days, clock) = match rest.split_once('T') {
        Some((_, "")) => return None,
        Some((days, clock)) => (days, clock),
        None => (rest, ""),
    };
    let mut seconds = 0.0;
    let mut any = false;
    for (part, units) in [(days, &[('D', 86_400.0)][..]), (clock, &CLOCK[..])] {
        let mut part = part;
        for (unit, unit_seconds) in units {
            if let Some((number, rest)) = part.split_once(*unit) {
                let number: f64 = number.parse().ok().filter(|number| *number >= 0.0)?;
                seconds += number * unit_seconds;
                any = true;
                part = rest;
            }
        }
        if !part.is_empty() {
            return None;
        }
    }
    any.then(|| Duration::try_from_secs_f64(seconds).ok())?
}

const CLOCK: [(char, f64); 3] = [('H', 3600.0), ('M', 60.0), ('S', 1.0)];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_target_stays_within_the_partition() {
        let partition = Partition {
            committed: Some(50),
            start: 10,
            end: 100,
            at_time: Some(70),
        };
        for (target, expected) in [
            (Target::Earliest, 10),
            (Target::Latest, 100),
            (Target::Current, 50),
            (Target::Offset(60), 60),
            (Target::Offset(5), 10),
            (Target::Offset(500), 100),
            (Target::Shift(-5), 45),
            (Target::Shift(-500), 10),
            (Target::Shift(i64::MAX), 100),
            (Target::Time(0), 70),
        ] {
            assert_eq!(offset(target, partition), Ok(expected), "{target:?}");
        }
        let new = Partition {
            committed: None,
            at_time: None,
            ..partition
        };
        assert_eq!(offset(Target::Time(0), new), Ok(100));
        assert!(offset(Target::Shift(1), new).is_err());
    }

    #[test]
    fn times_are_read_in_utc_or_their_zone() {
        for (text, expected) in [
            ("1970-01-01T00:00:00.000", 0),
            ("1970-01-01T00:00:01Z", 1000),
            ("2000-02-29T12:00", 951_825_600_000),
            ("2026-11-22T18:45:00.5Z", 1_795_373_100_500),
            ("2026-11-22T19:45:00.500+01:00", 1_795_373_100_500),
            ("1969-12-31T23:59:59.999Z", -1),
        ] {
            assert_eq!(parse_time(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "2026-11-22",
            "2026-13-01T00:00:00",
            "2023-02-29T00:00",
            "2026-01-01T24:00",
            "2026-01-01T00:00:00.x",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_kafkas() {
        for (text, seconds) in [("PT15M", 900), ("P1DT2H3M4S", 93_784), ("P7D", 604_800)] {
            assert_eq!(parse_duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "P", "PT", "15M", "PT1D", "PT-1S", "PT1M2H"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
