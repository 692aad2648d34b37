//! The meta commands: mn, mg, ms, md, ma, me (protocol.txt, "Meta Commands").

use alloc::vec::Vec;
use core::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};

use runtime::text::push_number;

use crate::{
    command::{BAD_CHUNK, BAD_FORMAT, Context, NO_MEMORY, Next, TOO_LARGE, say},
    item::{Item, LONGEST_KEY, bit, chunks_for},
    shard::Fields,
    store::{Counted, Delta, Locked, Mode, Stored, Storing},
    text::{signed, unsigned, unsigned32},
};

/// The longest opaque flag, its letter included.
const LONGEST_OPAQUE: usize = 32;
/// Words of a meta command at most.
const MOST_WORDS: usize = 19;

const BAD_TOKEN: &[u8] = b"CLIENT_ERROR bad token in command line format";
const BAD_FLAG: &[u8] = b"CLIENT_ERROR invalid or duplicate flag";
const LONG_OPAQUE: &[u8] = b"CLIENT_ERROR opaque token too long";

/// What the flags of a command say together. Those that are answered are looked at again, in the client's order.
#[derive(Default)]
struct Flags {
    quiet: bool,
    value: bool,
    no_bump: bool,
    invalidate: bool,
    remove_value: bool,
    binary: bool,
    expires: Option<u32>,
    vivify: Option<u32>,
    recache: Option<u32>,
    compare: Option<u64>,
    cas: Option<u64>,
    client_flags: u32,
    mode: Option<u8>,
    delta: Option<u64>,
    initial: u64,
}

impl Flags {
    /// Reads all flags. The first fault that ends the reading wins; of the others the last is told.
    fn read(context: &Context, flags: &[&[u8]]) -> Result<Flags, &'static [u8]> {
        let mut read = Flags::default();
        let mut seen = 0u128;
        let mut fault = None;
        let expiry = |argument: &[u8]| signed(argument).map(|given| context.clock.expiry(given));
        for flag in flags {
            let (letter, argument) = (flag[0], &flag[1..]);
            if letter >= 127 || seen & 1 << letter != 0 {
                return Err(b"CLIENT_ERROR duplicate flag");
            }
            seen |= 1 << letter;
            let well = match letter {
                b'N' => expiry(argument).map(|second| read.vivify = Some(second)),
                b'T' => expiry(argument).map(|second| read.expires = Some(second)),
                b'R' => expiry(argument).map(|second| read.recache = Some(second)),
                b'C' => unsigned(argument).map(|cas| read.compare = Some(cas)),
                b'E' => unsigned(argument).map(|cas| read.cas = Some(cas)),
                b'J' | b'D' => match (letter, unsigned(argument)) {
                    (b'J', Some(number)) => set(&mut read.initial, number),
                    (_, Some(number)) => set(&mut read.delta, Some(number)),
                    (b'J', None) => {
                        fault = Some(b"CLIENT_ERROR invalid numeric initial value".as_slice());
                        continue;
                    }
                    _ => {
                        fault = Some(b"CLIENT_ERROR invalid numeric delta value".as_slice());
                        continue;
                    }
                },
                b'F' => match unsigned32(argument) {
                    Some(number) => set(&mut read.client_flags, number),
                    None => {
                        fault = fault.or(Some(BAD_FORMAT));
                        continue;
                    }
                },
                b'M' => match argument {
                    &[mode] => set(&mut read.mode, Some(mode)),
                    _ => {
                        fault = Some(b"CLIENT_ERROR incorrect length for M token".as_slice());
                        continue;
                    }
                },
                b'O' | b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'l' | b'h' => Some(()),
                b'b' => set(&mut read.binary, true),
                b'v' => set(&mut read.value, true),
                b'u' => set(&mut read.no_bump, true),
                b'q' => set(&mut read.quiet, true),
                b'x' => set(&mut read.remove_value, true),
                b'I' => set(&mut read.invalidate, true),
                _ => return Err(b"CLIENT_ERROR invalid flag"),
            };
            if well.is_none() {
                fault = Some(BAD_TOKEN);
            }
        }
        fault.map_or(Ok(read), Err)
    }

    fn binary_bit(&self) -> u8 {
        if self.binary { bit::BINARY_KEY } else { 0 }
    }
}

/// A command's key, as it came and as it is.
struct Key<'a> {
    given: &'a [u8],
    decoded: Option<Vec<u8>>,
}

impl<'a> Key<'a> {
    fn of(given: &'a [u8], binary: bool) -> Result<Key<'a>, &'static [u8]> {
        if !binary {
            return Ok(Key { given, decoded: None });
        }
        match STANDARD.decode(given) {
            Ok(decoded) if !decoded.is_empty() => Ok(Key { given, decoded: Some(decoded) }),
            _ => Err(b"CLIENT_ERROR error decoding key"),
        }
    }

    fn bytes(&self) -> &[u8] {
        self.decoded.as_deref().unwrap_or(self.given)
    }

    /// As an answer shows it: in base64, with the flag that says so, if it came so.
    fn show(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b" k");
        out.extend_from_slice(self.given);
        if self.decoded.is_some() {
            out.extend_from_slice(b" b");
        }
    }
}

/// Puts what a flag says in its place.
fn set<T>(place: &mut T, value: T) -> Option<()> {
    *place = value;
    Some(())
}

fn fail(out: &mut Vec<u8>, error: &[u8]) -> Next {
    say(out, error);
    Next::Done
}

fn long_opaque(flags: &[&[u8]]) -> bool {
    flags.iter().any(|flag| flag[0] == b'O' && flag.len() > LONGEST_OPAQUE)
}

/// Key and opaque, which all answers give back.
fn reflect(flags: &[&[u8]], key: &Key, out: &mut Vec<u8>) {
    for flag in flags {
        match flag[0] {
            b'O' => {
                out.push(b' ');
                out.extend_from_slice(flag);
            }
            b'k' => key.show(out),
            _ => {}
        }
    }
}

fn push_flag(out: &mut Vec<u8>, letter: u8, number: u64) {
    out.extend_from_slice(&[b' ', letter]);
    push_number(out, number);
}

/// Seconds that are left, or -1.
fn push_ttl(out: &mut Vec<u8>, item: &Item, now: u32) {
    match item.expires {
        0 => out.extend_from_slice(b" t-1"),
        expires => push_flag(out, b't', expires.saturating_sub(now).into()),
    }
}

/// `letter` is the command's second, `words` the line's words.
pub fn execute(context: &Context, letter: u8, words: &[&[u8]], rest: &[u8], out: &mut Vec<u8>) -> Next {
    if letter == b'n' {
        return fail(out, b"MN");
    }
    if !b"gsdae".contains(&letter) {
        return fail(out, b"ERROR");
    }
    let Some(&given) = words.get(1) else {
        return fail(out, if letter == b'e' { BAD_FORMAT } else { b"ERROR" });
    };
    if given.len() > LONGEST_KEY {
        return fail(out, BAD_FORMAT);
    }
    if words.len() > MOST_WORDS && letter != b'e' {
        let words: &[u8] = if letter == b'g' {
            b"CLIENT_ERROR options flags are too long"
        } else {
            b"CLIENT_ERROR options flags too long"
        };
        return fail(out, words);
    }
    match letter {
        b'g' => get(context, given, &words[2..], out),
        b's' => store(context, given, &words[2..], rest, out),
        b'd' => delete(context, given, &words[2..], out),
        b'a' => count(context, given, &words[2..], out),
        _ => debug(context, given, &words[2..], out),
    }
}

fn get(context: &Context, given: &[u8], words: &[&[u8]], out: &mut Vec<u8>) -> Next {
    let read = Flags::read(context, words).and_then(|flags| Ok((Key::of(given, flags.binary)?, flags)));
    let (key, flags) = match read {
        Ok(read) => read,
        Err(error) => return fail(out, error),
    };
    if long_opaque(words) {
        return fail(out, LONG_OPAQUE);
    }
    let mut locked = context.store.lock(key.bytes(), context.clock);
    let mut found = locked.find();
    let mut created = false;
    if let (None, Some(expires)) = (found, flags.vivify) {
        let cas = flags.cas.unwrap_or_else(|| locked.next_cas());
        let fields = Fields { flags: 0, expires, cas, bits: flags.binary_bit() };
        found = locked.put(None, &[], fields).ok();
        created = found.is_some();
    }
    let counts = locked.counts();
    counts.meta_commands += 1;
    *match (found, flags.expires) {
        (Some(_), Some(_)) => &mut counts.touch_hits,
        (Some(_), None) => &mut counts.get_hits,
        (None, Some(_)) => &mut counts.touch_misses,
        (None, None) => &mut counts.get_misses,
    } += 1;
    let Some(at) = found else {
        if !flags.quiet {
            out.extend_from_slice(b"EN");
            reflect(words, &key, out);
            say(out, b"");
        }
        return Next::Done;
    };
    hit(context, &mut locked, Hit { at, created, words, flags: &flags, key: &key }, out);
    if !flags.no_bump {
        locked.bump(at);
    }
    Next::Done
}

/// An item that an mg has found or made.
struct Hit<'a> {
    at: u32,
    created: bool,
    words: &'a [&'a [u8]],
    flags: &'a Flags,
    key: &'a Key<'a>,
}

fn hit(context: &Context, locked: &mut Locked, hit: Hit, out: &mut Vec<u8>) {
    let Hit { at, created, words, flags, key } = hit;
    let now = context.clock.second();
    let mut item = locked.item(at);
    // A client that has this very version already needs no value.
    let value = flags.value && flags.compare != Some(item.cas);
    if value {
        out.extend_from_slice(b"VA ");
        push_number(out, item.value_len.into());
    } else {
        out.extend_from_slice(b"HD");
    }
    let mut won = created;
    for word in words {
        match word[0] {
            b'T' => item = locked.update(at, |item| item.expires = flags.expires.unwrap_or(0)),
            b'R' => {
                let sent = item.bits & bit::TOKEN_SENT != 0;
                won |=
                    !sent && !created && item.expires != 0 && flags.recache.is_some_and(|second| item.expires < second);
            }
            b's' => push_flag(out, b's', item.value_len.into()),
            b't' => push_ttl(out, &item, now),
            b'c' => push_flag(out, b'c', item.cas),
            b'f' => push_flag(out, b'f', item.flags.into()),
            b'l' => push_flag(out, b'l', now.saturating_sub(item.touched).into()),
            b'h' => push_flag(out, b'h', u64::from(item.bits & bit::FETCHED != 0)),
            b'O' => {
                out.push(b' ');
                out.extend_from_slice(word);
            }
            b'k' => key.show(out),
            _ => {}
        }
    }
    if item.bits & bit::TOKEN_SENT != 0 {
        out.extend_from_slice(b" Z");
    }
    if item.bits & bit::STALE != 0 {
        out.extend_from_slice(b" X");
        won |= item.bits & bit::TOKEN_SENT == 0;
    }
    if won {
        out.extend_from_slice(b" W");
        locked.update(at, |item| item.bits |= bit::TOKEN_SENT);
    }
    say(out, b"");
    if value {
        locked.copy_value(at, out);
        say(out, b"");
    }
}

fn store(context: &Context, given: &[u8], words: &[&[u8]], rest: &[u8], out: &mut Vec<u8>) -> Next {
    let Some((len, words)) = words.split_first() else { return fail(out, BAD_FORMAT) };
    let Some(len @ 0..=0x7fff_fffd) = signed(len) else { return fail(out, BAD_FORMAT) };
    let len = len as usize;
    let read = Flags::read(context, words).and_then(|flags| Ok((Key::of(given, flags.binary)?, flags)));
    let read = read.and_then(|(key, flags)| Ok((mode(&flags)?, key, flags)));
    let read = read.and_then(|read| if long_opaque(words) { Err(LONG_OPAQUE) } else { Ok(read) });
    let (mode, key, flags) = match read {
        Ok(read) => read,
        Err(error) => {
            say(out, error);
            return Next::Swallow(len + 2);
        }
    };
    if len > context.store.limits().longest_value {
        // Whatever the mode: what is there now is not what the client wants there.
        context.store.lock(key.bytes(), context.clock).refuse(Stored::TooLarge, Mode::Set);
        say(out, TOO_LARGE);
        return Next::Swallow(len + 2);
    }
    let Some(block) = rest.get(..len + 2) else { return Next::More(len + 2) };
    let Some(value) = block.strip_suffix(b"\r\n") else {
        say(out, BAD_CHUNK);
        return Next::Took(len + 2);
    };
    let vivified = matches!(mode, Mode::Append(true) | Mode::Prepend(true));
    let storing = Storing {
        mode,
        value,
        flags: flags.client_flags,
        expires: if vivified { flags.vivify } else { flags.expires }.unwrap_or(0),
        compare: flags.compare.unwrap_or(0),
        cas: flags.cas,
        bits: flags.binary_bit(),
        stale: flags.invalidate && mode == Mode::Cas,
    };
    let mut locked = context.store.lock(key.bytes(), context.clock);
    locked.counts().meta_commands += 1;
    let (stored, cas, new_len) = locked.store(storing);
    let status = match stored {
        Stored::Stored if flags.quiet => return Next::Took(len + 2),
        Stored::Stored => b"HD",
        Stored::NotStored => b"NS",
        Stored::Exists => b"EX",
        Stored::NotFound => b"NF",
        Stored::TooLarge => {
            say(out, TOO_LARGE);
            return Next::Took(len + 2);
        }
        Stored::NoMemory => {
            say(out, NO_MEMORY);
            return Next::Took(len + 2);
        }
    };
    out.extend_from_slice(status);
    for word in words {
        match word[0] {
            b'c' => push_flag(out, b'c', cas),
            b's' => push_flag(out, b's', if stored == Stored::Stored { new_len.into() } else { len as u64 }),
            _ => reflect(&[word], &key, out),
        }
    }
    say(out, b"");
    Next::Took(len + 2)
}

/// The mode of an ms; a number to compare with makes a cas of a set or a replace.
fn mode(flags: &Flags) -> Result<Mode, &'static [u8]> {
    let mode = match flags.mode {
        None | Some(b'S') => Mode::Set,
        Some(b'E') => Mode::Add,
        Some(b'A') => Mode::Append(flags.vivify.is_some()),
        Some(b'P') => Mode::Prepend(flags.vivify.is_some()),
        Some(b'R') => Mode::Replace,
        Some(_) => return Err(b"CLIENT_ERROR invalid mode for ms M token"),
    };
    let compared = flags.compare.is_some() && matches!(mode, Mode::Set | Mode::Replace);
    Ok(if compared { Mode::Cas } else { mode })
}

fn delete(context: &Context, given: &[u8], words: &[&[u8]], out: &mut Vec<u8>) -> Next {
    let read = Flags::read(context, words).ok().and_then(|flags| Some((Key::of(given, flags.binary).ok()?, flags)));
    let Some((key, flags)) = read else { return fail(out, BAD_FLAG) };
    if long_opaque(words) {
        return fail(out, LONG_OPAQUE);
    }
    let mut locked = context.store.lock(key.bytes(), context.clock);
    locked.counts().meta_commands += 1;
    let status = match locked.find() {
        None => {
            locked.counts().delete_misses += 1;
            b"NF"
        }
        Some(at) if flags.compare.is_some_and(|cas| cas != locked.item(at).cas) => {
            locked.counts().delete_misses += 1;
            b"EX"
        }
        Some(mut at) => {
            if flags.remove_value {
                let cas = flags.cas.unwrap_or(locked.item(at).cas);
                let (client, expires) = (flags.client_flags, flags.expires.unwrap_or(0));
                let fields = Fields { flags: client, expires, cas, bits: flags.binary_bit() };
                match locked.put(Some(at), &[], fields) {
                    Ok(new) => at = new,
                    Err(_) => return fail(out, b"SERVER_ERROR out of memory"),
                }
            }
            if flags.invalidate {
                let cas = flags.cas.unwrap_or_else(|| locked.next_cas());
                locked.update(at, |item| {
                    item.expires = flags.expires.unwrap_or(item.expires);
                    item.cas = cas;
                    // The next client may win again.
                    item.bits = (item.bits | bit::STALE) & !bit::TOKEN_SENT;
                });
            } else {
                locked.counts().delete_hits += 1;
                if !flags.remove_value {
                    locked.remove(at);
                }
            }
            if flags.quiet {
                return Next::Done;
            }
            b"HD"
        }
    };
    out.extend_from_slice(status);
    reflect(words, &key, out);
    say(out, b"");
    Next::Done
}

fn count(context: &Context, given: &[u8], words: &[&[u8]], out: &mut Vec<u8>) -> Next {
    let read = Flags::read(context, words).ok().and_then(|flags| Some((Key::of(given, flags.binary).ok()?, flags)));
    let Some((key, flags)) = read else { return fail(out, BAD_FLAG) };
    let increase = match flags.mode {
        None | Some(b'I' | b'+') => true,
        Some(b'D' | b'-') => false,
        Some(_) => return fail(out, b"CLIENT_ERROR invalid mode for ma M token"),
    };
    if long_opaque(words) {
        return fail(out, LONG_OPAQUE);
    }
    let now = context.clock.second();
    let mut locked = context.store.lock(key.bytes(), context.clock);
    locked.counts().meta_commands += 1;
    let (by, compare) = (flags.delta.unwrap_or(1), flags.compare.unwrap_or(0));
    let counted = locked.count(Delta { increase, by, compare, cas: flags.cas });
    let (number, at, created) = match (counted, flags.vivify) {
        (Counted::Now(number, at), _) => (number, at, false),
        (Counted::NotFound, Some(expires)) => {
            let mut text = Vec::with_capacity(20);
            push_number(&mut text, flags.initial);
            let cas = flags.cas.unwrap_or_else(|| locked.next_cas());
            let fields = Fields { flags: 0, expires, cas, bits: flags.binary_bit() };
            match locked.put(None, &[&text], fields) {
                Ok(at) => (flags.initial, at, true),
                Err(_) => return fail(out, b"SERVER_ERROR Out of memory allocating new item"),
            }
        }
        (Counted::NotFound, None) => {
            let counts = locked.counts();
            *(if increase { &mut counts.incr_misses } else { &mut counts.decr_misses }) += 1;
            out.extend_from_slice(b"NF");
            reflect(words, &key, out);
            return fail(out, b"");
        }
        (Counted::Exists, _) => {
            out.extend_from_slice(b"EX");
            reflect(words, &key, out);
            return fail(out, b"");
        }
        (Counted::NotNumeric, _) => {
            return fail(out, b"CLIENT_ERROR cannot increment or decrement non-numeric value");
        }
        (Counted::NoMemory, _) => return fail(out, b"SERVER_ERROR out of memory"),
    };
    let mut text = Vec::with_capacity(20);
    push_number(&mut text, number);
    let mut answer = Vec::new();
    if flags.value {
        answer.extend_from_slice(b"VA ");
        push_number(&mut answer, text.len() as u64);
    } else {
        answer.extend_from_slice(b"HD");
    }
    for word in words {
        match word[0] {
            b'c' => push_flag(&mut answer, b'c', locked.item(at).cas),
            b't' => push_ttl(&mut answer, &locked.item(at), now),
            b'T' => _ = locked.update(at, |item| item.expires = flags.expires.unwrap_or(0)),
            _ => reflect(&[word], &key, &mut answer),
        }
    }
    // What was made on a miss is told even to a client that wants to hear of nothing that went well.
    if !flags.quiet || created {
        say(out, &answer);
        if flags.value {
            say(out, &text);
        }
    }
    Next::Done
}

/// The item's fields for people. `cls` is 1: there is one size of chunks.
fn debug(context: &Context, given: &[u8], words: &[&[u8]], out: &mut Vec<u8>) -> Next {
    let binary = words.first().is_some_and(|word| *word == b"b");
    let Ok(key) = Key::of(given, binary) else { return fail(out, BAD_FORMAT) };
    let now = context.clock.second();
    let mut locked = context.store.lock(key.bytes(), context.clock);
    locked.counts().meta_commands += 1;
    let Some(at) = locked.find() else { return fail(out, b"EN") };
    let item = locked.item(at);
    out.extend_from_slice(b"ME ");
    out.extend_from_slice(given);
    let left = if item.expires == 0 { -1 } else { i64::from(item.expires) - i64::from(now) };
    let size = chunks_for(item.key_len.into(), item.value_len as usize) * crate::arena::CHUNK;
    let fetched = if item.bits & bit::FETCHED != 0 { "yes" } else { "no" };
    let mut line = alloc::string::String::new();
    // Writing to a string doesn't fail.
    let _ = write!(
        line,
        " exp={left} la={} cas={} fetch={fetched} cls=1 size={size}",
        now.saturating_sub(item.touched),
        item.cas
    );
    fail(out, line.as_bytes())
}
