//! Values in a domain's `config` table that carry a unit: durations and sizes, written as strings (`"1ms"`, `"64MiB"`).

use core::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A span of time in nanoseconds, written `"250ms"`; units ns, us, ms, s, m, h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Duration(pub u64);

/// A number of bytes, written `"64MiB"`; units B, KiB, MiB, GiB, kB, MB, GB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Size(pub u64);

/// A text that is no duration or size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitError {
    expected: &'static str,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.expected)
    }
}

impl core::error::Error for UnitError {}

const DURATION_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];
const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

fn parse(text: &str, units: &[(&str, u64)], expected: &'static str) -> Result<u64, UnitError> {
    let error = UnitError { expected };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| error)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start()).ok_or(error)?;
    number.checked_mul(*factor).ok_or(error)
}

fn display(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let (name, factor) = units
        .iter()
        .filter(|(_, factor)| value.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor)
        .unwrap_or(&units[0]);
    write!(f, "{}{}", value / factor, name)
}

macro_rules! with_unit {
    ($name:ident, $units:expr, $expected:literal) => {
        impl FromStr for $name {
            type Err = UnitError;
            fn from_str(text: &str) -> Result<Self, UnitError> {
                parse(text, $units, $expected).map($name)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                display(f, self.0, if self.0 == 0 { &$units[..1] } else { $units })
            }
        }
        impl Serialize for $name {
            /// As text for people, as a number in compiled manifests.
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_u64(self.0)
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
                    }
                }
                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(Visitor)
                } else {
                    u64::deserialize(deserializer).map($name)
                }
            }
        }
    };
}

with_unit!(Duration, DURATION_UNITS, "a duration with its unit, such as \"250ms\" (ns, us, ms, s, m, h)");
with_unit!(Size, SIZE_UNITS, "a size with its unit, such as \"64MiB\" (B, KiB, MiB, GiB, kB, MB, GB)");

impl Duration {
    pub const fn from_millis(millis: u64) -> Self {
        Duration(millis * 1_000_000)
    }

    /// The span in nanoseconds.
    pub const fn nanos(self) -> u64 {
        self.0
    }
}

/// What is wrong with a `config` table that has the right shape: where (a dotted path such as `vips[1].address`) and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub path: alloc::string::String,
    pub message: alloc::string::String,
}

/// A domain's configuration: what its `config` table in the manifest holds. `validate` says what serde's types can't; it runs at build
/// time, and all faults are shown at once.
pub trait Configuration: for<'de> Deserialize<'de> + Serialize {
    fn validate(&self) -> alloc::vec::Vec<Fault> {
        alloc::vec::Vec::new()
    }

    /// For a domain that drives a network card: the longest frame that it may bring, without check sequence. The box's packet buffers are made for the longest of all.
    fn longest_frame(&self) -> u16 {
        0
    }

    /// What is wrong with the manifest's wiring beside this table, `wired` being the names of the imports that are wired: for domains with imports that may be left unwired. In
    /// words for who wrote the manifest; at build time, after `validate`.
    fn wiring_faults(&self, _wired: &[&str]) -> alloc::vec::Vec<alloc::string::String> {
        alloc::vec::Vec::new()
    }

    /// The folders that go with the table into the bundle, each with the dotted path where it is named; the builder packs them.
    fn folders(&mut self) -> alloc::vec::Vec<(alloc::string::String, &mut crate::folder::Folder)> {
        alloc::vec::Vec::new()
    }
}

/// For domains that take no configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

impl Configuration for NoConfig {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_written_back() {
        for text in ["250ms", "1s", "64MiB", "0B"] {
            if let Ok(duration) = text.parse::<Duration>() {
                assert_eq!(alloc::format!("{duration}"), text);
            } else {
                assert_eq!(alloc::format!("{}", text.parse::<Size>().unwrap()), text);
            }
        }
        assert_eq!("90m".parse::<Duration>().unwrap().nanos(), 5_400_000_000_000);
    }

    #[test]
    fn bare_numbers_unknown_units_and_overflow_are_refused() {
        for text in ["250", "", "ms", "-1ms", "1.5s", "1 parsec", "18446744073709551615h"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
        assert!("64mib".parse::<Size>().is_err());
    }
}
