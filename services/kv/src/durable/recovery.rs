//! Reading: which area counts, what it says, and where it ends.

use alloc::{vec, vec::Vec};
use core::fmt;

use super::{
    Log, LogError, Medium, Usage,
    frame::{AreaHead, Change, FRAME_HEAD, FrameHead},
    log::last_start,
};

/// What was found at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Nothing was there: the medium has been made ready.
    pub fresh: bool,
    pub frames: u64,
    pub changes: u64,
    pub bytes: u64,
    /// The last frame is torn: a commit that was not acknowledged, which is not served.
    pub torn: bool,
    /// A compaction had been begun and not ended.
    pub compaction_undone: bool,
}

/// Why a log is not opened. Nothing has been written to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<E> {
    Log(LogError<E>),
    /// The medium holds something that isn't a log, and nobody said that it may go.
    Foreign,
    /// An acknowledged frame is damaged: it and those behind it, up to the last one that is there, can't be served as they were.
    Damaged {
        epoch: u64,
        first_lost: u64,
        last_seen: u64,
    },
    /// The area that counts can't be read to its seal, and the one before it has given way to it.
    SnapshotDamaged {
        epoch: u64,
        at: u64,
    },
    /// The log was made with areas of another size, in blocks.
    Resized {
        was: u64,
        is: u64,
    },
}

impl<E> From<E> for Refusal<E> {
    fn from(error: E) -> Self {
        Refusal::Log(LogError::Medium(error))
    }
}

impl<E: fmt::Debug> fmt::Display for Refusal<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Log(error) => write!(f, "the log's medium: {error:?}"),
            Refusal::Foreign => f.write_str("the medium holds something that is no log"),
            Refusal::Damaged { epoch, first_lost, last_seen } => {
                write!(
                    f,
                    "the log is damaged: of epoch {epoch} commit {first_lost} is lost, and those up to {last_seen} came after it"
                )
            }
            Refusal::Resized { was, is } => {
                write!(f, "the log was made with areas of {was} blocks, not {is}: give it the size that it had")
            }
            Refusal::SnapshotDamaged { epoch, at } => {
                write!(f, "the log is damaged: epoch {epoch} can't be read beyond frame {at}, which is before its seal")
            }
        }
    }
}

/// An area as it was found.
struct Found {
    head: AreaHead,
    place: u64,
    /// Where the first frame is that isn't whole, and its number.
    end: u64,
    sequence: u64,
    /// The block behind the seal, if that has been reached.
    sealed: Option<u64>,
    /// The number of a frame behind that.
    later: Option<u64>,
    /// Whether something lies where the next frame would.
    tail: bool,
}

/// Opens the log: calls `apply` with every change that counts, in order; a flush comes between what turned out not to count and what does, and after an error nothing counts. A
/// medium that is all zeroes where the log would begin is made ready.
pub fn open<M: Medium>(
    medium: &mut M,
    nonce: u64,
    mut apply: impl FnMut(Change),
) -> Result<(Log, Report), Refusal<M::Error>> {
    let (area_blocks, block_size) = (medium.blocks() / 2, medium.block_size());
    let mut heads = [None; 2];
    let mut foreign = false;
    for (place, head) in heads.iter_mut().enumerate() {
        let mut block = vec![0; block_size];
        medium.read(place as u64 * area_blocks, &mut block)?;
        *head = AreaHead::read(&block).map(|head| (place as u64, head));
        foreign |= head.is_none() && block.iter().any(|&byte| byte != 0);
    }
    let mut known: Vec<(u64, AreaHead)> = heads.into_iter().flatten().collect();
    known.sort_by_key(|(_, head)| core::cmp::Reverse(head.epoch));
    let Some(&(place, newest)) = known.first() else {
        return if foreign { Err(Refusal::Foreign) } else { format(medium, nonce) };
    };
    if let Some((_, head)) = known.iter().find(|(_, head)| head.blocks != area_blocks) {
        return Err(Refusal::Resized { was: head.blocks, is: area_blocks });
    }
    let mut report = Report::default();
    let mut changes = 0;
    let mut count = |change: Change| {
        changes += 1;
        apply(change);
    };
    let mut found = scan(medium, place, newest, &mut count)?;
    if found.sealed.is_none() {
        match known.get(1) {
            // A power loss amid a compaction: the older area is still the one that counts.
            Some(&(place, older)) if !older.superseded => {
                report.compaction_undone = true;
                count(Change::Flushed { date: 0 });
                found = scan(medium, place, older, &mut count)?;
                if found.sealed.is_none() {
                    return Err(Refusal::SnapshotDamaged { epoch: older.epoch, at: found.sequence });
                }
            }
            Some(_) => return Err(Refusal::SnapshotDamaged { epoch: newest.epoch, at: found.sequence }),
            // A power loss amid the very first words; unless somebody has gone on behind them.
            None if newest.epoch == 1 && found.later.is_none() && !foreign => return format(medium, nonce),
            None => return Err(Refusal::SnapshotDamaged { epoch: newest.epoch, at: found.sequence }),
        }
    }
    if newest.superseded && !report.compaction_undone {
        // The area that it gave way to is gone.
        return Err(Refusal::SnapshotDamaged { epoch: newest.epoch + 1, at: 0 });
    }
    if let Some(last_seen) = found.later {
        return Err(Refusal::Damaged { epoch: found.head.epoch, first_lost: found.sequence, last_seen });
    }
    report.changes = changes;
    // What has been read may stand in a cache only: it is served from here on, so it must not be lost any more.
    medium.flush()?;
    (report.frames, report.bytes, report.torn) = (found.sequence, found.end * block_size as u64, found.tail);
    let log = Log {
        area: found.head,
        place: found.place,
        area_blocks,
        block_size,
        next: found.end,
        sequence: found.sequence,
        sealed: found.sealed.unwrap_or(found.end),
        changes: Vec::new(),
        usage: Usage::default(),
    };
    Ok((log, report))
}

fn format<M: Medium>(medium: &mut M, nonce: u64) -> Result<(Log, Report), Refusal<M::Error>> {
    let area = AreaHead { epoch: 1, nonce, superseded: false, blocks: medium.blocks() / 2 };
    let begun = Log::begin(medium, 0, area, Usage::default()).and_then(|mut log| log.seal(medium).map(|()| log));
    Ok((begun.map_err(Refusal::Log)?, Report { fresh: true, ..Report::default() }))
}

/// Reads an area's frames in order, as far as they are whole, and looks whether there are any behind the first that isn't.
fn scan<M: Medium>(
    medium: &mut M,
    place: u64,
    head: AreaHead,
    apply: &mut impl FnMut(Change),
) -> Result<Found, M::Error> {
    let mut reader = Reader::new(medium, place);
    let mut found = frames(&mut reader, place, head, apply)?;
    // Frames of this area behind the end: damage, since a frame is begun only when the one before it is flushed. Before the seal that isn't so.
    let block_size = reader.medium.block_size();
    let last = found.sealed.map_or(reader.blocks - 1, |sealed| last_start(sealed, reader.blocks, block_size));
    for at in found.end..=last {
        match FrameHead::read(reader.block(at)?, &head) {
            Some(frame) if frame.sequence > found.sequence => found.later = found.later.max(Some(frame.sequence)),
            Some(_) if at == found.end => found.tail = true,
            _ => {}
        }
    }
    Ok(found)
}

/// The frames alone.
fn frames<M: Medium>(
    reader: &mut Reader<M>,
    place: u64,
    head: AreaHead,
    apply: &mut impl FnMut(Change),
) -> Result<Found, M::Error> {
    let block_size = reader.medium.block_size() as u64;
    let mut found = Found { head, place, end: 1, sequence: 0, sealed: None, later: None, tail: false };
    while found.end < reader.blocks {
        let frame = FrameHead::read(reader.block(found.end)?, &head);
        let Some(frame) = frame.filter(|frame| frame.sequence == found.sequence) else { break };
        let blocks = (FRAME_HEAD as u64 + u64::from(frame.len)).div_ceil(block_size);
        if found.end + blocks > reader.blocks {
            break;
        }
        let bytes = reader.read(found.end, blocks)?;
        let changes = &bytes[FRAME_HEAD..FRAME_HEAD + frame.len as usize];
        if !frame.checks(changes, &head) {
            break;
        }
        let mut rest = changes;
        let mut seals = false;
        while let Some((change, behind)) = Change::read(rest) {
            seals |= change == Change::Sealed;
            apply(change);
            rest = behind;
        }
        (found.end, found.sequence) = (found.end + blocks, found.sequence + 1);
        if seals {
            found.sealed.get_or_insert(found.end);
        }
    }
    Ok(found)
}

/// Reads an area from its beginning on, in pieces larger than what is asked for: disks are slow to answer, and quick to tell more.
struct Reader<'a, M: Medium> {
    medium: &'a mut M,
    /// Of the area: where it begins, and how many there are.
    base: u64,
    blocks: u64,
    /// What has been read last, and the block that it begins with.
    window: Vec<u8>,
    first: u64,
}

/// Bytes read at once.
const WINDOW: usize = 512 * 1024;

impl<'a, M: Medium> Reader<'a, M> {
    fn new(medium: &'a mut M, place: u64) -> Self {
        let blocks = medium.blocks() / 2;
        Reader { medium, base: place * blocks, blocks, window: Vec::new(), first: 0 }
    }

    fn block(&mut self, at: u64) -> Result<&[u8], M::Error> {
        self.read(at, 1)
    }

    /// So many blocks, all of which are the area's.
    fn read(&mut self, at: u64, blocks: u64) -> Result<&[u8], M::Error> {
        let block_size = self.medium.block_size();
        let read = (self.window.len() / block_size) as u64;
        if at < self.first || at + blocks > self.first + read {
            let wanted = blocks.max((WINDOW / block_size) as u64).min(self.blocks - at);
            // What is known of it already isn't read again.
            let behind = at.checked_sub(self.first).map_or(read, |gone| gone.min(read));
            self.window.drain(..behind as usize * block_size);
            let known = self.window.len();
            self.window.resize(wanted as usize * block_size, 0);
            self.first = at;
            self.medium.read(self.base + at + (known / block_size) as u64, &mut self.window[known..])?;
        }
        let from = (at - self.first) as usize * block_size;
        Ok(&self.window[from..from + blocks as usize * block_size])
    }
}
