//! The date, as the battery-backed clock's registers say it (MC146818A; Intel's chipsets have its successor, ACPI 6.5 §5.2.9 the century's place).

/// Days from 1970-01-01 to the first day of a year (Gregorian).
fn days_before(year: i64) -> i64 {
    let years = year - 1;
    let leap_days = years / 4 - years / 100 + years / 400;
    // 1969 has 477 leap days before its end.
    (year - 1970) * 365 + leap_days - 477
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Register B: values are binary rather than decimal digits; hours go to 24.
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
/// Of the hour's register where hours go to 12.
const AFTERNOON: u8 = 1 << 7;

/// The registers that say the date, read while the clock wasn't at work on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    pub second: u8,
    pub minute: u8,
    pub hour: u8,
    pub day: u8,
    pub month: u8,
    pub year: u8,
    /// Where the firmware says that there is one.
    pub century: Option<u8>,
    pub format: u8,
}

impl Registers {
    /// Seconds since 1970, taken for UTC; `None` if that is no date (no clock there, or one whose battery is dead).
    pub fn date(&self) -> Option<i64> {
        let number = |register: u8| match self.format & BINARY != 0 {
            true => Some(i64::from(register)),
            false => (register & 0xf < 10 && register >> 4 < 10)
                .then(|| i64::from(register >> 4) * 10 + i64::from(register & 0xf)),
        };
        let hour = if self.format & HOURS_24 != 0 {
            number(self.hour)?
        } else {
            // Twelve is the hour before one.
            let hour = number(self.hour & !AFTERNOON).filter(|hour| (1..=12).contains(hour))? % 12;
            if self.hour & AFTERNOON != 0 { hour + 12 } else { hour }
        };
        let (second, minute) = (number(self.second)?, number(self.minute)?);
        let (day, month, year) = (number(self.day)?, number(self.month)?, number(self.year)?);
        // A century that can't be is none: firmware is known to name a register that nobody keeps.
        let century = self.century.and_then(number).filter(|century| (20..=29).contains(century)).unwrap_or(20);
        let year = century * 100 + year;
        let february = if is_leap(year) { 29 } else { 28 };
        let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let length = *months.get(usize::try_from(month - 1).ok()?)?;
        let well = (1..=length).contains(&day) && hour < 24 && minute < 60 && second < 60;
        let days = days_before(year) + months.iter().take(month as usize - 1).sum::<i64>() + day - 1;
        well.then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECIMAL: Registers = Registers {
        second: 0x20,
        minute: 0x13,
        hour: 0x22,
        day: 0x14,
        month: 0x11,
        year: 0x23,
        century: Some(0x20),
        format: HOURS_24,
    };

    /// The same moment in each of the chip's formats.
    #[test]
    fn every_format_is_read() {
        assert_eq!(DECIMAL.date(), Some(1_700_000_000));
        let binary = Registers {
            second: 20,
            minute: 13,
            hour: 22,
            day: 14,
            month: 11,
            year: 23,
            century: Some(20),
            format: BINARY | HOURS_24,
        };
        assert_eq!(binary.date(), Some(1_700_000_000));
        assert_eq!(Registers { hour: 0x10 | AFTERNOON, format: 0, ..DECIMAL }.date(), Some(1_700_000_000));
        let noon = Registers { hour: 0x12 | AFTERNOON, format: 0, ..DECIMAL }.date().unwrap();
        let midnight = Registers { hour: 0x12, format: 0, ..DECIMAL }.date().unwrap();
        assert_eq!(noon - midnight, 12 * 3600);
        assert_eq!(Registers { century: None, ..DECIMAL }.date(), DECIMAL.date());
        assert_eq!(Registers { century: Some(0), ..DECIMAL }.date(), DECIMAL.date());
    }

    /// Leap years and ends of months are counted as the calendar has them.
    #[test]
    fn days_are_the_calendars() {
        let on = |century, year, month, day| {
            Registers {
                second: 0,
                minute: 0,
                hour: 0,
                day,
                month,
                year,
                century: Some(century),
                format: BINARY | HOURS_24,
            }
            .date()
        };
        assert_eq!(on(20, 0, 2, 29), Some(951_782_400));
        assert_eq!(on(20, 24, 3, 1), Some(1_709_251_200));
        assert_eq!(on(21, 0, 3, 1), Some(4_107_542_400));
        assert_eq!(
            (on(20, 23, 2, 29), on(21, 0, 2, 29), on(20, 23, 4, 31), on(20, 23, 13, 1)),
            (None, None, None, None)
        );
    }

    /// Ports at which nobody answers read all ones; a dead battery leaves anything behind.
    #[test]
    fn what_is_no_date_is_none() {
        let of = |byte| Registers {
            second: byte,
            minute: byte,
            hour: byte,
            day: byte,
            month: byte,
            year: byte,
            century: Some(byte),
            format: byte,
        };
        assert_eq!((of(0xff).date(), of(0).date()), (None, None));
        assert_eq!(Registers { second: 0x5a, ..DECIMAL }.date(), None);
        assert_eq!(Registers { hour: 0x24, ..DECIMAL }.date(), None);
    }
}
