//! Calendar arithmetic for the real-time clock.

const SECONDS_PER_DAY: u64 = 86_400;

/// A date and time of the proleptic Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DateTime {
    pub year: u32,
    /// 1-12.
    pub month: u8,
    /// 1-31.
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    /// 0 is Sunday.
    pub weekday: u8,
}

/// Days from 0000-03-01 to 1970-01-01. Counting from March puts the leap day at a year's end.
const EPOCH_DAYS: u64 = 719_468;
/// Days in 400 years, after which the calendar repeats.
const DAYS_PER_ERA: u64 = 146_097;

/// Days from 0000-03-01 to the first of March of `year`.
fn days_to_march(year: u64) -> u64 {
    year * 365 + year / 4 - year / 100 + year / 400
}

/// Days before month `index` of a year that begins in March (0 is March).
fn days_before(index: u64) -> u64 {
    (index * 153 + 2) / 5
}

impl DateTime {
    pub fn from_seconds(seconds: u64) -> Self {
        let (days, rest) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
        let (era, in_era) = ((days + EPOCH_DAYS) / DAYS_PER_ERA, (days + EPOCH_DAYS) % DAYS_PER_ERA);
        // Without the leap days passed so far, every year has 365 days.
        let year_of_era = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
        let into_year = in_era - days_to_march(year_of_era);
        let index = (into_year * 5 + 2) / 153;
        let month = if index < 10 { index + 3 } else { index - 9 };
        let year = era * 400 + year_of_era + u64::from(index >= 10);
        Self {
            year: year as u32,
            month: month as u8,
            day: (into_year - days_before(index) + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
            weekday: ((days + 4) % 7) as u8,
        }
    }

    /// Seconds since 1970; fields out of range are brought into it.
    pub fn to_seconds(self) -> u64 {
        let month = u64::from(self.month.clamp(1, 12));
        let day = u64::from(self.day.clamp(1, 31));
        let year = u64::from(self.year.max(1970));
        let (march_year, index) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = days_to_march(march_year) + days_before(index) + day - 1 - EPOCH_DAYS;
        days * SECONDS_PER_DAY
            + u64::from(self.hour.min(23)) * 3600
            + u64::from(self.minute.min(59)) * 60
            + u64::from(self.second.min(59))
    }
}

/// The first moment after `seconds` whose hour, minute and second match; `None` in a field matches any. `None` if no
/// moment can match.
pub(super) fn next_match(
    seconds: u64,
    hour: Option<u8>,
    minute: Option<u8>,
    second: Option<u8>,
) -> Option<u64> {
    if hour.is_some_and(|hour| hour > 23) || minute.is_some_and(|m| m > 59) || second.is_some_and(|s| s > 59)
    {
        return None;
    }
    let matches = |field: Option<u8>, value: u64| field.is_none_or(|field| u64::from(field) == value);
    let mut at = seconds.checked_add(1)?;
    // Each step moves to the start of the next hour, minute or second; a match is less than a day ahead.
    for _ in 0..24 + 60 + 60 {
        if !matches(hour, at / 3600 % 24) {
            at = (at / 3600 + 1) * 3600;
        } else if !matches(minute, at / 60 % 60) {
            at = (at / 60 + 1) * 60;
        } else if !matches(second, at % 60) {
            at += 1;
        } else {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_convert_both_ways_for_centuries() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..200_000u64 {
            let date = DateTime::from_seconds(days * SECONDS_PER_DAY + 3_661);
            assert_eq!((date.year, date.month, date.day), (year, month, day), "day {days}");
            assert_eq!((date.hour, date.minute, date.second), (1, 1, 1));
            assert_eq!(date.to_seconds(), days * SECONDS_PER_DAY + 3_661);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u8::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }

    #[test]
    fn nonsense_is_brought_into_range() {
        let nonsense = DateTime { year: 0, month: 0, day: 0, hour: 99, minute: 99, second: 99, weekday: 9 };
        assert_eq!(nonsense.to_seconds(), 23 * 3600 + 59 * 60 + 59);
        let far = DateTime { year: 16_665, month: 255, day: 255, ..nonsense };
        assert_eq!(DateTime::from_seconds(far.to_seconds()).year, 16_665);
    }

    #[test]
    fn matches_are_found_within_a_day() {
        assert_eq!(next_match(0, None, None, None), Some(1));
        assert_eq!(next_match(0, Some(0), Some(0), Some(0)), Some(86_400));
        assert_eq!(next_match(86_399, Some(23), Some(59), Some(59)), Some(2 * 86_400 - 1));
        assert_eq!(next_match(100, None, None, Some(40)), Some(160));
        assert_eq!(next_match(3_599, Some(1), None, Some(59)), Some(3_659));
        assert_eq!(next_match(0, Some(24), None, None), None);
    }
}
