//! The pieces that HTTP's fields are made of (RFC 9110 §5.6).

/// Which bytes are letters, digits or among `others`.
pub const fn class(others: &[u8]) -> [bool; 256] {
    let mut class = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        class[others[at] as usize] = true;
        at += 1;
    }
    class
}

/// `tchar` (RFC 9110 §5.6.2).
pub fn is_token_byte(byte: u8) -> bool {
    const TOKEN: [bool; 256] = class(b"!#$%&'*+-.^_`|~");
    TOKEN[usize::from(byte)]
}

pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_byte(byte))
}

/// Without the blanks (`OWS`, §5.6.3) round it.
pub fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The elements of a list (§5.6.1), empty ones left out; a comma inside a quoted string is none.
pub fn list(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    core::iter::from_fn(move || {
        loop {
            let text = rest?;
            let mut quoted = false;
            let mut escaped = false;
            let end = text.iter().position(|&byte| {
                let comma = byte == b',' && !quoted;
                if escaped {
                    escaped = false;
                } else {
                    escaped = quoted && byte == b'\\';
                    quoted ^= byte == b'"';
                }
                comma
            });
            let element = trim(&text[..end.unwrap_or(text.len())]);
            rest = end.map(|end| &text[end + 1..]);
            if !element.is_empty() {
                return Some(element);
            }
        }
    })
}

/// Digits only, and not more than fit.
pub fn number(text: &[u8]) -> Option<u64> {
    let digit = |sum: u64, &byte: &u8| {
        byte.is_ascii_digit().then_some(())?;
        sum.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit) }
}

/// A weight (§12.4.2) in thousandths.
pub fn weight(text: &[u8]) -> Option<u32> {
    let (whole, fraction) = match text {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', fraction @ ..] if fraction.len() <= 3 => (whole, fraction),
        _ => return None,
    };
    let digit = |(sum, place): (u32, u32), &byte: &u8| {
        byte.is_ascii_digit().then(|| (sum + u32::from(byte - b'0') * place, place / 10))
    };
    let (fraction, _) = fraction.iter().try_fold((0, 100), digit)?;
    let weight = u32::from(whole - b'0') * 1000 + fraction;
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn lists_keep_quoted_commas_and_skip_empty_elements() {
        let elements: Vec<_> = list(b" a, ,\"b,\\\",c\" ,, d ").collect();
        assert_eq!(elements, [b"a".as_slice(), b"\"b,\\\",c\"", b"d"]);
        assert_eq!(list(b"").count(), 0);
    }

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for text in [b"".as_slice(), b"+1", b"-1", b"1 ", b"0x1", b"18446744073709551616", b"1_0"] {
            assert_eq!(number(text), None);
        }
    }

    #[test]
    fn weights_are_thousandths() {
        let cases = [
            ("1", Some(1000)),
            ("0.5", Some(500)),
            ("0.001", Some(1)),
            ("1.000", Some(1000)),
            ("0.", Some(0)),
            ("1.001", None),
            ("0.0001", None),
            ("2", None),
            (".5", None),
        ];
        cases.iter().for_each(|(text, right)| assert_eq!(weight(text.as_bytes()), *right, "{text}"));
    }
}
