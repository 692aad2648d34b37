//! Durations and sizes as people write them: `"5ms"`, `"64MiB"`. A bare number is seconds or bytes.
//!
//! The same spelling holds in manifests' lab files and on the command line.

use std::time::Duration;

/// Text that isn't a duration or a size; says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("\"{0}\" is no duration; write a number and a unit, such as \"250ms\", \"20s\" or \"2min\"")]
    Duration(String),
    #[error("\"{0}\" is no size; write a number and a unit, such as \"512B\", \"64KiB\" or \"8MiB\"")]
    Size(String),
}

/// Units of time, longest suffix first where one ends with another.
const TIMES: [(&str, f64); 7] =
    [("min", 60.0), ("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("h", 3600.0), ("s", 1.0)];

/// Units of size; powers of 1,024 with the `i`, of 1,000 without.
const SIZES: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// Reads `"1.5s"`, `"250ms"`, `"2min"`, or a bare number of seconds.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || UnitError::Duration(text.to_owned());
    let trimmed = text.trim();
    let (number, scale) = TIMES
        .iter()
        .find_map(|(unit, scale)| trimmed.strip_suffix(unit).map(|number| (number, *scale)))
        .unwrap_or((trimmed, 1.0));
    let value: f64 = number.trim().parse().map_err(|_| wrong())?;
    // A century is more than any run lasts, and far from what `Duration` can't hold.
    if !value.is_finite() || value < 0.0 || value * scale > 3.2e9 {
        return Err(wrong());
    }
    Ok(Duration::from_nanos((value * scale * 1e9).round() as u64))
}

/// Reads `"64KiB"`, `"8MiB"`, `"1GB"`, or a bare number of bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let wrong = || UnitError::Size(text.to_owned());
    let trimmed = text.trim();
    let (number, scale) = SIZES
        .iter()
        .find_map(|(unit, scale)| trimmed.strip_suffix(unit).map(|number| (number, *scale)))
        .unwrap_or((trimmed, 1));
    let value: u64 = number.trim().parse().map_err(|_| wrong())?;
    value.checked_mul(scale).ok_or_else(wrong)
}

/// A duration in a lab file: a string with a unit.
pub(crate) mod duration_text {
    use super::{Duration, parse_duration};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(input)?).map_err(D::Error::custom)
    }

    pub fn serialize<S: Serializer>(value: &Duration, output: S) -> Result<S::Ok, S::Error> {
        output.collect_str(&format_args!("{}ns", value.as_nanos()))
    }
}

/// A size in a lab file: a string with a unit.
pub(crate) mod size_text {
    use super::parse_size;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
        parse_size(&String::deserialize(input)?).map_err(D::Error::custom)
    }

    pub fn serialize<S: Serializer>(value: &u64, output: S) -> Result<S::Ok, S::Error> {
        output.collect_str(&format_args!("{value}B"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, millis) in [
            ("250ms", 250),
            ("20s", 20_000),
            ("1.5s", 1_500),
            ("2min", 120_000),
            ("8", 8_000),
            ("1h", 3_600_000),
            (" 3 s ", 3_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("5us"), Ok(Duration::from_micros(5)));
        for text in ["", "ms", "-1s", "1x", "inf", "NaN", "1e99h"] {
            assert_eq!(parse_duration(text), Err(UnitError::Duration(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in
            [("512B", 512), ("64KiB", 65_536), ("8MiB", 8 << 20), ("1GB", 1_000_000_000), ("77", 77), ("3 kB", 3_000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1B", "1.5MiB", "99999999999GiB", "1 quart"] {
            assert_eq!(parse_size(text), Err(UnitError::Size(text.to_owned())), "{text}");
        }
    }

    proptest! {
        /// Options travel to the lab's inner process as text: nothing may be lost on the way.
        #[test]
        fn written_durations_and_sizes_read_back(nanos in 0u64..1_000_000_000_000, bytes in any::<u64>()) {
            let parsed = parse_duration(&format!("{nanos}ns")).unwrap();
            prop_assert!(parsed.abs_diff(Duration::from_nanos(nanos)) <= Duration::from_nanos(1));
            prop_assert_eq!(parse_size(&format!("{bytes}B")), Ok(bytes));
        }
    }
}
