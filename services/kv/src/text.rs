//! Numbers and words of the protocol's lines.

/// Words of a line at most that a command other than a retrieval looks at.
pub const MOST_WORDS: usize = 24;

/// The words of a line: what stands between blanks. Further ones than [`MOST_WORDS`] are left out.
pub struct Words<'a> {
    words: [&'a [u8]; MOST_WORDS],
    count: usize,
}

/// All words of a line, with where each ends.
pub fn words(line: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let mut at = 0;
    core::iter::from_fn(move || {
        while line.get(at) == Some(&b' ') {
            at += 1;
        }
        let rest = &line[at..];
        let len = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        at += len;
        (len > 0).then(|| (&rest[..len], at))
    })
}

impl<'a> Words<'a> {
    pub fn of(line: &'a [u8]) -> Words<'a> {
        let mut found = Words { words: [&[]; MOST_WORDS], count: 0 };
        for (place, (word, _)) in found.words.iter_mut().zip(words(line)) {
            *place = word;
            found.count += 1;
        }
        found
    }

    pub fn all(&self) -> &[&'a [u8]] {
        &self.words[..self.count]
    }
}

/// A number of at most 64 bits, with nothing before or after it.
pub fn unsigned(word: &[u8]) -> Option<u64> {
    let digits = word.strip_prefix(b"+").unwrap_or(word);
    let digit = |number: u64, &byte: &u8| {
        byte.is_ascii_digit().then_some(())?;
        number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, digit) }
}

/// A number of at most 32 bits.
pub fn unsigned32(word: &[u8]) -> Option<u32> {
    unsigned(word).and_then(|number| u32::try_from(number).ok())
}

/// A number of at most 64 bits with its sign.
pub fn signed(word: &[u8]) -> Option<i64> {
    match word.strip_prefix(b"-") {
        Some(digits) if !digits.starts_with(b"+") => unsigned(digits).and_then(|n| i64::try_from(-i128::from(n)).ok()),
        Some(_) => None,
        None => unsigned(word).and_then(|number| i64::try_from(number).ok()),
    }
}

/// The number that a value begins with: blanks before it and anything after a blank behind it don't count.
pub fn leading_number(value: &[u8]) -> Option<u64> {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = value.iter().position(|byte| !blank(byte))?;
    let rest = &value[start..];
    unsigned(&rest[..rest.iter().position(blank).unwrap_or(rest.len())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use runtime::text::Decimal;

    /// Malformed and overlong numbers are none.
    #[test]
    fn numbers_have_digits_only_and_do_not_overflow() {
        for word in ["", "+", "-", "1x", "x1", "18446744073709551616", "1 ", "0x1", "--1", "++1"] {
            assert_eq!(unsigned(word.as_bytes()), None, "{word}");
            assert_eq!(signed(word.as_bytes()), None, "{word}");
        }
        assert_eq!(signed(b"-+1"), None);
        assert_eq!((unsigned(b"18446744073709551615"), unsigned(b"+7")), (Some(u64::MAX), Some(7)));
        assert_eq!((signed(b"-9223372036854775808"), signed(b"9223372036854775808")), (Some(i64::MIN), None));
        assert_eq!((unsigned32(b"4294967295"), unsigned32(b"4294967296")), (Some(u32::MAX), None));
    }

    /// What memcached's own reading of a value as a number takes: blanks around it, and what comes after them.
    #[test]
    fn a_value_is_a_number_up_to_its_first_blank() {
        for (value, number) in [
            ("5", Some(5)),
            ("5 ", Some(5)),
            (" 5", Some(5)),
            ("5 a", Some(5)),
            ("5a", None),
            ("", None),
            (" ", None),
            ("-5", None),
        ] {
            assert_eq!(leading_number(value.as_bytes()), number, "{value:?}");
        }
    }

    #[test]
    fn words_stand_between_blanks() {
        assert_eq!(Words::of(b"  get  a b ").all(), [b"get".as_slice(), b"a", b"b"]);
        assert!(Words::of(b"   ").all().is_empty());
        assert_eq!(Words::of(&b"a ".repeat(100)).all().len(), MOST_WORDS);
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_they_are_written(number: u64) {
            prop_assert_eq!(unsigned(&Decimal::of(number)), Some(number));
        }
    }
}
