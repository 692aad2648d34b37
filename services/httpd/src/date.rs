//! Dates as HTTP writes them (RFC 9110 §5.6.7): seconds since 1970 in UTC, written as `Sun, 06 Nov 1994 08:49:37 GMT`, and read in that form and the two
//! obsolete ones.

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const LONG_DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY: i64 = 86_400;
/// Seconds of the years 0 to 9999.
const FIRST: i64 = -62_167_219_200;
const LAST: i64 = 253_402_300_799;

/// Days from 1970 to a day of the proleptic Gregorian calendar.
fn days_to(year: i64, month: i64, day: i64) -> i64 {
    // A year that begins in March ends with its leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month (1 to 12) and day of a day since 1970.
fn day_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    if month < 10 { (era * 400 + year, month + 3, day) } else { (era * 400 + year + 1, month - 9, day) }
}

/// `IMF-fixdate`. It has years of four digits: what is earlier or later is written as the first or last second of them.
pub fn write(date: i64) -> [u8; 29] {
    let date = date.clamp(FIRST, LAST);
    let (days, seconds) = (date.div_euclid(DAY), date.rem_euclid(DAY));
    let (year, month, day) = day_of(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(DAYS[days.rem_euclid(7) as usize].as_bytes());
    text[8..11].copy_from_slice(MONTHS[month as usize - 1].as_bytes());
    let numbers =
        [(5..7, day), (12..16, year), (17..19, seconds / 3600), (20..22, seconds / 60 % 60), (23..25, seconds % 60)];
    for (place, mut number) in numbers {
        for digit in text[place].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
    text
}

/// Reads any of the three forms; `today` decides which century a year of two digits is in.
pub fn read(text: &[u8], today: Option<i64>) -> Option<i64> {
    let text = core::str::from_utf8(text).ok()?;
    let (name, rest) = text.split_once(' ')?;
    if let Some(name) = name.strip_suffix(',') {
        let rest = rest.strip_suffix(" GMT")?;
        if DAYS.contains(&name) {
            // 06 Nov 1994 08:49:37
            let mut parts = rest.split(' ');
            let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let whole = parts.next().is_none() && day.len() == 2 && year.len() == 4;
            return whole.then(|| moment(digits(year)?, month, digits(day)?, time))?;
        }
        // Sunday, 06-Nov-94 08:49:37 GMT
        let (date, time) = rest.split_once(' ').filter(|_| LONG_DAYS.contains(&name))?;
        let mut parts = date.split('-');
        let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = parts.next().is_none() && day.len() == 2 && year.len() == 2;
        return whole.then(|| moment(century(digits(year)?, today), month, digits(day)?, time))?;
    }
    // Sun Nov  6 08:49:37 1994
    let (month, rest) = rest.split_once(' ').filter(|_| DAYS.contains(&name))?;
    let (day, rest) = rest.split_at_checked(2)?;
    let (time, year) = rest.strip_prefix(' ')?.split_once(' ')?;
    if year.len() != 4 {
        return None;
    }
    moment(digits(year)?, month, digits(day.trim_start_matches(' '))?, time)
}

/// A year that seems to be more than 50 years ahead is the past one with the same last digits.
fn century(year: i64, today: Option<i64>) -> i64 {
    let this = day_of(today.unwrap_or(0).div_euclid(DAY)).0;
    let year = this - this.rem_euclid(100) + year;
    if year > this + 50 { year - 100 } else { year }
}

fn digits(text: &str) -> Option<i64> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok())?
}

fn moment(year: i64, month: &str, day: i64, time: &str) -> Option<i64> {
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let mut parts = time.split(':');
    let mut two = || parts.next().filter(|part| part.len() == 2).and_then(digits);
    let (hour, minute, second) = (two()?, two()?, two()?);
    // A leap second is the one after it.
    let well = parts.next().is_none() && hour < 24 && minute < 60 && second <= 60 && day >= 1;
    let days = days_to(year, month, day);
    let exists = day_of(days) == (year, month, day);
    (well && exists).then_some(days * DAY + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: i64 = 784_111_777;

    /// The three examples of §5.6.7.
    #[test]
    fn all_three_forms_are_read() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(read(text.as_bytes(), Some(EXAMPLE)), Some(EXAMPLE), "{text}");
        }
        assert_eq!(&write(EXAMPLE), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn years_have_four_digits() {
        assert_eq!(&write(i64::MIN), b"Sat, 01 Jan 0000 00:00:00 GMT");
        assert_eq!(&write(i64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn years_of_two_digits_are_not_far_ahead() {
        let today = Some(1_750_000_000); // 2025
        assert_eq!(read(b"Sunday, 06-Nov-94 08:49:37 GMT", today), Some(EXAMPLE));
        assert!(read(b"Monday, 06-Nov-30 08:49:37 GMT", today) > today);
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "0",
            "Sun",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Xxx, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun Nov 6",
            "Sun Nov  6 08:49:37 94",
            "Sun Nov ü 08:49:37 1994",
            "Sun, +6 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(read(text.as_bytes(), None), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(date in 0i64..253_402_300_800) {
            prop_assert_eq!(read(&write(date), None), Some(date));
        }

        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            read(&text, None);
        }
    }
}
