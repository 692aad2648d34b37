//! The protocol over UDP: each datagram begins with a frame header of request number, sequence number, count and a reserved word (protocol.txt, "UDP protocol").
//! A request is one datagram; an answer is as many as it takes, up to a limit, since who asks from a forged address makes us answer somebody else.

use alloc::vec::Vec;

use crate::{
    command::{Context, say},
    session::{Session, Wants},
};

const HEADER: usize = 8;
/// Bytes of an answer's datagram, header included: what passes everywhere in one piece.
pub const LONGEST: usize = 1400;

/// Answers the request in `datagram`: calls `send` with each datagram of the answer. False if it is no request.
pub fn answer(context: &Context, datagram: &[u8], longest_answer: usize, mut send: impl FnMut(&[u8])) -> bool {
    let Some((header, request)) = datagram.split_first_chunk::<HEADER>() else { return false };
    let [high, low, _, _, 0, 1, ..] = *header else { return false };
    let mut session = Session::default();
    if request.is_empty() || request.len() > session.room() {
        return false;
    }
    session.receive(request);
    let mut out = Vec::new();
    // A limit that is reached only by going beyond it, so that what remains is known to be too much.
    if session.work(context, &mut out, longest_answer + 1) == Wants::Output || out.len() > longest_answer {
        out.clear();
        say(&mut out, b"SERVER_ERROR response too large for UDP");
    }
    let pieces = out.chunks(LONGEST - HEADER);
    let count = pieces.len() as u16;
    let mut piece_with_header = Vec::with_capacity(LONGEST);
    for (sequence, piece) in pieces.enumerate() {
        let [sequence_high, sequence_low] = (sequence as u16).to_be_bytes();
        let [count_high, count_low] = count.to_be_bytes();
        piece_with_header.clear();
        piece_with_header.extend_from_slice(&[high, low, sequence_high, sequence_low, count_high, count_low, 0, 0]);
        piece_with_header.extend_from_slice(piece);
        send(&piece_with_header);
    }
    true
}
