//! The classic commands.

use alloc::vec::Vec;

use runtime::text::push_number;

use crate::{
    command::{BAD_CHUNK, BAD_FORMAT, Context, NO_MEMORY, Next, Retrieval, TOO_LARGE, say},
    item::LONGEST_KEY,
    stats,
    store::{Counted, Delta, Mode, Stored, Storing},
    text::{self, signed, unsigned, unsigned32},
};

/// Protocol level, and whose it is: clients that look take the number.
pub const VERSION: &[u8] = b"VERSION 1.6.38-redleaf";

/// Where answers go, unless the client wants none.
struct Answer<'a> {
    out: &'a mut Vec<u8>,
    quiet: bool,
}

impl Answer<'_> {
    fn say(&mut self, line: &[u8]) -> Next {
        if !self.quiet {
            say(self.out, line);
        }
        Next::Done
    }
}

/// `line` is the whole line that `name` and `arguments` stand on.
pub fn execute(
    context: &Context,
    name: &[u8],
    arguments: &[&[u8]],
    line: &[u8],
    rest: &[u8],
    out: &mut Vec<u8>,
) -> Next {
    let quiet = arguments.last() == Some(&b"noreply".as_slice());
    let mut answer = Answer { out, quiet };
    match (name, arguments) {
        (b"get" | b"bget", [_, ..]) => retrieval(answer, line, false, None),
        (b"gets", [_, ..]) => retrieval(answer, line, true, None),
        (b"gat" | b"gats", [expires, ..]) => match signed(expires) {
            None => say_now(answer.out, b"CLIENT_ERROR invalid exptime argument"),
            Some(given) => retrieval(answer, line, name == b"gats", Some(context.clock.expiry(given))),
        },
        (b"set", [_, _, _, _] | [_, _, _, _, _]) => store(context, Mode::Set, arguments, rest, answer),
        (b"add", [_, _, _, _] | [_, _, _, _, _]) => store(context, Mode::Add, arguments, rest, answer),
        (b"replace", [_, _, _, _] | [_, _, _, _, _]) => store(context, Mode::Replace, arguments, rest, answer),
        (b"append", [_, _, _, _] | [_, _, _, _, _]) => store(context, Mode::Append(false), arguments, rest, answer),
        (b"prepend", [_, _, _, _] | [_, _, _, _, _]) => store(context, Mode::Prepend(false), arguments, rest, answer),
        (b"cas", [_, _, _, _, _] | [_, _, _, _, _, _]) => store(context, Mode::Cas, arguments, rest, answer),
        (b"incr" | b"decr", &[key, by] | &[key, by, _]) => count(context, name == b"incr", key, by, answer),
        (b"touch", &[key, expires] | &[key, expires, _]) => touch(context, key, expires, answer),
        (b"delete", [_] | [_, _] | [_, _, _]) => delete(context, arguments, answer),
        (b"flush_all", [] | [_] | [_, _]) => flush(context, arguments, answer),
        (b"verbosity", &[level] | &[level, _]) => match unsigned32(level) {
            // There is one verbosity: the domain's log.
            Some(_) => answer.say(b"OK"),
            None => answer.say(BAD_FORMAT),
        },
        (b"version", _) => say_now(answer.out, VERSION),
        (b"stats", _) => {
            stats::show(context, arguments, answer.out);
            Next::Done
        }
        (b"quit", _) => Next::Close,
        // A browser, or a request that was smuggled to us through one.
        (_, [.., last]) if last.starts_with(b"HTTP/") && !known(name) => Next::Close,
        _ => say_now(answer.out, b"ERROR"),
    }
}

/// Names with which a line that ends like a request of HTTP is just a wrong line.
fn known(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'a' | b'c' | b'd' | b'g' | b'i' | b'm' | b's' | b't'))
}

fn say_now(out: &mut Vec<u8>, line: &[u8]) -> Next {
    say(out, line);
    Next::Done
}

fn retrieval(answer: Answer, line: &[u8], with_cas: bool, touch: Option<u32>) -> Next {
    // Nothing is answered when a key is too long, so that is looked at first.
    let before = 1 + usize::from(touch.is_some());
    if text::words(line).skip(before).any(|(key, _)| key.len() > LONGEST_KEY) {
        return say_now(answer.out, BAD_FORMAT);
    }
    let at = text::words(line).nth(before - 1).map_or(line.len(), |(_, end)| end);
    Next::Retrieve(Retrieval { at, with_cas, touch })
}

/// One key of a retrieval.
pub fn retrieve_one(context: &Context, retrieval: &Retrieval, key: &[u8], out: &mut Vec<u8>) {
    let mut locked = context.store.lock(key, context.clock);
    let found = locked.find();
    let counts = locked.counts();
    *match (found, retrieval.touch) {
        (Some(_), None) => &mut counts.get_hits,
        (None, None) => &mut counts.get_misses,
        (Some(_), Some(_)) => &mut counts.touch_hits,
        (None, Some(_)) => &mut counts.touch_misses,
    } += 1;
    let Some(at) = found else { return };
    let mut item = locked.item(at);
    if let Some(expires) = retrieval.touch {
        item = locked.update(at, |item| item.expires = expires);
    }
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    push_number(out, item.flags.into());
    out.push(b' ');
    push_number(out, item.value_len.into());
    if retrieval.with_cas {
        out.push(b' ');
        push_number(out, item.cas);
    }
    out.extend_from_slice(b"\r\n");
    locked.copy_value(at, out);
    out.extend_from_slice(b"\r\n");
    locked.bump(at);
}

fn store(context: &Context, mode: Mode, arguments: &[&[u8]], rest: &[u8], mut answer: Answer) -> Next {
    let (key, compare) = (arguments[0], arguments.get(4).filter(|_| mode == Mode::Cas).map(|word| unsigned(word)));
    let numbers = (unsigned32(arguments[1]), signed(arguments[2]), signed(arguments[3]), compare.unwrap_or(Some(0)));
    let (Some(flags), Some(expires), Some(len @ 0..=0x7fff_fffd), Some(compare)) = numbers else {
        return answer.say(BAD_FORMAT);
    };
    if key.len() > LONGEST_KEY {
        return answer.say(BAD_FORMAT);
    }
    let len = len as usize;
    if len > context.store.limits().longest_value {
        context.store.lock(key, context.clock).refuse(Stored::TooLarge, mode);
        answer.say(TOO_LARGE);
        return Next::Swallow(len + 2);
    }
    let Some(block) = rest.get(..len + 2) else { return Next::More(len + 2) };
    let Some(value) = block.strip_suffix(b"\r\n") else {
        answer.say(BAD_CHUNK);
        return Next::Took(len + 2);
    };
    let expires = context.clock.expiry(expires);
    let storing = Storing { mode, value, flags, expires, compare, cas: None, bits: 0, stale: false };
    let (stored, ..) = context.store.lock(key, context.clock).store(storing);
    answer.say(match stored {
        Stored::Stored => b"STORED",
        Stored::NotStored => b"NOT_STORED",
        Stored::Exists => b"EXISTS",
        Stored::NotFound => b"NOT_FOUND",
        Stored::TooLarge => TOO_LARGE,
        Stored::NoMemory => NO_MEMORY,
    });
    Next::Took(len + 2)
}

fn count(context: &Context, increase: bool, key: &[u8], by: &[u8], mut answer: Answer) -> Next {
    if key.len() > LONGEST_KEY {
        return answer.say(BAD_FORMAT);
    }
    let Some(by) = unsigned(by) else { return answer.say(b"CLIENT_ERROR invalid numeric delta argument") };
    let mut locked = context.store.lock(key, context.clock);
    match locked.count(Delta { increase, by, compare: 0, cas: None }) {
        Counted::Now(number, _) => {
            let mut text = Vec::with_capacity(20);
            push_number(&mut text, number);
            answer.say(&text)
        }
        Counted::NotFound => {
            let counts = locked.counts();
            *(if increase { &mut counts.incr_misses } else { &mut counts.decr_misses }) += 1;
            answer.say(b"NOT_FOUND")
        }
        Counted::NotNumeric => answer.say(b"CLIENT_ERROR cannot increment or decrement non-numeric value"),
        Counted::NoMemory | Counted::Exists => answer.say(b"SERVER_ERROR out of memory"),
    }
}

fn touch(context: &Context, key: &[u8], expires: &[u8], mut answer: Answer) -> Next {
    if key.len() > LONGEST_KEY {
        return answer.say(BAD_FORMAT);
    }
    let Some(given) = signed(expires) else { return answer.say(b"CLIENT_ERROR invalid exptime argument") };
    let mut locked = context.store.lock(key, context.clock);
    match locked.find() {
        Some(at) => {
            locked.counts().touch_hits += 1;
            locked.update(at, |item| item.expires = context.clock.expiry(given));
            locked.bump(at);
            answer.say(b"TOUCHED")
        }
        None => {
            locked.counts().touch_misses += 1;
            answer.say(b"NOT_FOUND")
        }
    }
}

/// Besides `noreply` a zero may stand behind the key: the time that old clients sent.
fn delete(context: &Context, arguments: &[&[u8]], mut answer: Answer) -> Next {
    let valid = match arguments {
        [_] => true,
        [_, last] => *last == b"0" || answer.quiet,
        [_, zero, _] => *zero == b"0" && answer.quiet,
        _ => false,
    };
    if !valid {
        return answer.say(b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]");
    }
    let key = arguments[0];
    if key.len() > LONGEST_KEY {
        return answer.say(BAD_FORMAT);
    }
    let mut locked = context.store.lock(key, context.clock);
    match locked.find() {
        Some(at) => {
            locked.counts().delete_hits += 1;
            locked.remove(at);
            answer.say(b"DELETED")
        }
        None => {
            locked.counts().delete_misses += 1;
            answer.say(b"NOT_FOUND")
        }
    }
}

fn flush(context: &Context, arguments: &[&[u8]], mut answer: Answer) -> Next {
    let given = arguments.first().filter(|_| arguments.len() > usize::from(answer.quiet));
    let Some(delay) = given.map_or(Some(0), |word| signed(word)) else {
        return answer.say(b"CLIENT_ERROR invalid exptime argument");
    };
    if let Some(traffic) = context.traffic.first() {
        traffic.flushes.add(1);
    }
    let at = (delay > 0).then(|| context.clock.expiry(delay));
    context.store.flush(at, context.clock);
    answer.say(b"OK")
}
