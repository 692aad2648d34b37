//! Which of a file's representations a client gets, and how much of it: content negotiation (RFC 9110 §12.5.3), preconditions (§13) and ranges (§14).

use alloc::vec::Vec;

use interfaces::folder::{Coding, File, Representation};

use crate::{
    date,
    grammar::{list, number, trim, weight},
    head::{Head, Method, Name},
};

/// Ranges of a request at most: who wants more gets the whole (§14.2 lets a server ignore the field).
const MOST_RANGES: usize = 16;

/// The acceptable representation that the client likes best, among equals the shortest; none if it accepts none.
pub fn choose<'f, 'a>(head: &Head, file: &'f File<'a>) -> Option<&'f Representation<'a>> {
    let mut given = head.values(Name::AcceptEncoding).peekable();
    if given.peek().is_none() {
        return file.representations.first();
    }
    let preferences: Vec<(&[u8], u32)> = given.flat_map(list).map(preference).collect();
    let of = |name: &str| preferences.iter().find(|(coding, _)| coding.eq_ignore_ascii_case(name.as_bytes()));
    let quality = |coding: Coding| match (of(coding.name()), of("*")) {
        (Some((_, quality)), _) | (None, Some((_, quality))) => *quality,
        // What isn't named isn't acceptable, but for the file as it is: that comes last.
        (None, None) => u32::from(coding == Coding::Identity),
    };
    // A client that names gzip alone without a weight would have anything, and likes gzip better than the file as it is.
    file.representations
        .iter()
        .filter(|representation| quality(representation.coding) > 0)
        .max_by_key(|representation| (quality(representation.coding), core::cmp::Reverse(representation.bytes.len())))
}

/// An element of Accept-Encoding: a coding and its weight. A malformed weight counts as none given.
fn preference(element: &[u8]) -> (&[u8], u32) {
    let mut parts = element.split(|&byte| byte == b';').map(trim);
    let coding = parts.next().unwrap_or_default();
    let given = parts.find_map(|part| part.strip_prefix(b"q=").or(part.strip_prefix(b"Q="))).and_then(weight);
    (coding, given.unwrap_or(1000))
}

/// The tag as a field has it (§8.8.3). Each coding of a file has a tag of its own.
pub fn tag(representation: &Representation) -> [u8; 18] {
    let mut text = [b'"'; 18];
    for (at, digit) in text[1..17].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(representation.tag >> (60 - 4 * at)) as usize & 15];
    }
    text
}

/// What the preconditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Proceed,
    NotModified,
    Failed,
}

/// Evaluates the preconditions in their order (§13.2.2).
pub fn judge(head: &Head, file: &File, representation: &Representation, today: Option<i64>) -> Verdict {
    let own = tag(representation);
    let dated = |name| head.single(name).and_then(|text| date::read(text, today));
    // 1 and 2. The date is looked at only where no tag is asked for.
    if head.values(Name::IfMatch).next().is_some() {
        let any = head.elements(Name::IfMatch).any(|given| given == b"*" || given == own);
        if !any {
            return Verdict::Failed;
        }
    } else if dated(Name::IfUnmodifiedSince).is_some_and(|date| file.modified > date) {
        return Verdict::Failed;
    }
    // 3 and 4. Weak comparison (§8.8.3.2): a tag that is marked weak may match.
    if head.values(Name::IfNoneMatch).next().is_some() {
        let strip = |given: &[u8]| given.strip_prefix(b"W/").unwrap_or(given) == own;
        if head.elements(Name::IfNoneMatch).any(|given| given == b"*" || strip(given)) {
            return if head.method == Method::Options { Verdict::Failed } else { Verdict::NotModified };
        }
    } else if dated(Name::IfModifiedSince).is_some_and(|date| file.modified <= date) {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// A run of bytes: the first, and the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: usize,
    pub end: usize,
}

impl Range {
    pub fn len(self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(self) -> bool {
        self.end == self.start
    }
}

/// How much of a representation is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    Whole,
    Parts(Vec<Range>),
    Unsatisfiable,
}

/// Reads Range and If-Range (§14.2, §13.1.5). What isn't understood is ignored, as is what would cost more than it is worth.
pub fn ranges(head: &Head, file: &File, representation: &Representation, today: Option<i64>) -> Ranges {
    // Range is defined for GET alone.
    let Some(given) = head.single(Name::Range).filter(|_| head.method == Method::Get) else { return Ranges::Whole };
    if head.values(Name::IfRange).next().is_some() {
        // A tag is compared strongly, a date exactly.
        let current = head.single(Name::IfRange).is_some_and(|validator| {
            validator == tag(representation) || date::read(validator, today) == Some(file.modified)
        });
        if !current {
            return Ranges::Whole;
        }
    }
    let unit = given.split_at_checked(6).filter(|(unit, _)| unit.eq_ignore_ascii_case(b"bytes="));
    let Some((_, set)) = unit else { return Ranges::Whole };
    let len = representation.bytes.len();
    let mut parts = Vec::new();
    for (at, element) in list(set).enumerate() {
        match range(element, len) {
            Some(part) if at < MOST_RANGES => parts.extend(part),
            _ => return Ranges::Whole,
        }
    }
    // Overlapping parts are an attack, or a mistake (§17.15).
    let overlap =
        |(at, part): (usize, &Range)| parts[..at].iter().any(|other| part.start < other.end && other.start < part.end);
    if parts.iter().enumerate().any(overlap) {
        return Ranges::Whole;
    }
    match (parts.is_empty(), list(set).next()) {
        (false, _) => Ranges::Parts(parts),
        (true, Some(_)) => Ranges::Unsatisfiable,
        (true, None) => Ranges::Whole,
    }
}

/// `first-last`, `first-` or `-suffix`. None if it is malformed; an inner none if there is nothing there.
fn range(element: &[u8], len: usize) -> Option<Option<Range>> {
    let dash = element.iter().position(|&byte| byte == b'-')?;
    let (first, last) = (&element[..dash], &element[dash + 1..]);
    // A number that doesn't fit is beyond every end.
    let large = |text: &[u8]| {
        let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        digits.then(|| number(text).and_then(|number| usize::try_from(number).ok()).unwrap_or(usize::MAX))
    };
    let range = match (first.is_empty(), last.is_empty()) {
        (true, _) => Range { start: len - large(last)?.min(len), end: len },
        (false, true) => Range { start: large(first)?, end: len },
        (false, false) => {
            let (first, last) = (large(first)?, large(last)?);
            if last < first {
                return None;
            }
            Range { start: first, end: last.saturating_add(1).min(len) }
        }
    };
    Some((range.start < range.end).then_some(range))
}
