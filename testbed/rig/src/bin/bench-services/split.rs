//! Where a request's cycles go: the service's part of them, measured by feeding its session the same bytes without a network.
//!
//! Of the store: the *parser* is all of the session but the *store*, which is the same deeds done without one. Of the web server: the *parser* reads head and target, the *answer* is
//! the rest of the session.

use std::hint::black_box;

use httpd::{
    connection::{self, Connection, Service},
    head, target,
};
use interfaces::folder::Files;
use kv::{
    clock::Clock,
    command::Context,
    session::{self, Session},
    statistics::Traffic,
    store::{Mode, Store, Storing},
};

use rig::bench::{cpu_time, median, rate};

use crate::{client::Question, workload::Workload};

/// Blocks of requests that are timed, after some that aren't; and the most requests of one.
const BLOCKS: usize = 31;
const WARM_UP: usize = 3;
const MOST: usize = 2_000;
/// With so many bytes of answers a connection has enough for now.
const ENOUGH: usize = runtime::serving::ENOUGH;

/// Cycles a request of the parts of a workload, by their names.
pub type Parts = Vec<(&'static str, f64)>;

/// Cycles a request of a whole and of a part of it, by blocks in turn: what disturbs a busy machine falls on both.
fn cycles<'a>(
    workload: &'a Workload,
    requests: usize,
    mut whole: impl FnMut(&'a Question),
    mut part: impl FnMut(&'a Question),
) -> (f64, f64) {
    let requests = requests.min(MOST);
    let block = |questions: &mut dyn Iterator<Item = &'a Question>, deed: &mut dyn FnMut(&'a Question)| {
        let begun = cpu_time(libc::CLOCK_THREAD_CPUTIME_ID);
        questions.take(requests).for_each(deed);
        (cpu_time(libc::CLOCK_THREAD_CPUTIME_ID) - begun) as f64 * rate() / requests as f64
    };
    // Far from each other, so that neither finds in the caches what the other has just had.
    let (mut of_whole, mut of_part) = (workload.sequence(), workload.sequence().skip(workload.questions.len() / 2));
    let blocks = (0..WARM_UP + BLOCKS).map(|_| (block(&mut of_whole, &mut whole), block(&mut of_part, &mut part)));
    let (wholes, parts) = blocks.skip(WARM_UP).unzip();
    (median(wholes), median(parts))
}

/// What stands in a request of the store's workloads: the key, and what is to be stored under it.
fn deed(request: &[u8]) -> (&[u8], Option<&[u8]>) {
    let line = request.iter().position(|&byte| byte == b'\n').unwrap_or(request.len());
    let key = request[..line].split(|byte| b" \r".contains(byte)).nth(1).unwrap_or_default();
    let value = request.starts_with(b"set ").then(|| &request[line + 1..request.len() - 2]);
    (key, value)
}

/// The store's parts of all workloads.
pub fn of_store(config: &kv::Config, workloads: &[Workload], requests: usize) -> Vec<Parts> {
    let store = Store::new(config.limits(1), 1, None);
    let clock = Clock::new(100, Some(1_700_000_000));
    let traffic = [Traffic::default()];
    let context = Context { store: &store, clock, uptime: clock.uptime(), date: clock.date(), traffic: &traffic };
    let (mut session, mut out) = (Session::default(), Vec::new());
    let mut answer = |question: &Question| {
        session.receive(&question.request);
        while session.work(&context, &mut out, ENOUGH) == session::Wants::Output {}
        // What was asked is what is answered, here as on the wire.
        debug_assert_eq!(out, question.answer);
        black_box(&out);
        out.clear();
    };
    workloads.iter().flat_map(|workload| &workload.questions).for_each(&mut answer);
    let mut value = Vec::new();
    let parts = workloads.iter().map(|workload| {
        let deeds: Vec<_> = workload.questions.iter().map(|question| (question, deed(&question.request))).collect();
        let first = std::ptr::from_ref(&workload.questions[0]).addr();
        let (whole, inside) = cycles(workload, requests, &mut answer, |question| {
            // By its place, so that finding the deed costs next to nothing.
            let at = (std::ptr::from_ref(question).addr() - first) / size_of::<Question>();
            match deeds[at].1 {
                (key, None) => {
                    let mut locked = store.lock(key, clock);
                    let at = locked.find().expect("it has been stored");
                    locked.counts().get_hits += 1;
                    black_box(locked.item(at));
                    locked.copy_value(at, &mut value);
                    locked.bump(at);
                    black_box(&value);
                    value.clear();
                }
                (key, Some(value)) => {
                    let storing = Storing {
                        mode: Mode::Set,
                        value,
                        flags: 0,
                        expires: 0,
                        compare: 0,
                        cas: None,
                        bits: 0,
                        stale: false,
                    };
                    black_box(store.lock(key, clock).store(storing));
                }
            }
        });
        vec![("parser", whole - inside), ("store", inside)]
    });
    parts.collect()
}

/// The web server's parts of all workloads.
pub fn of_site(config: &httpd::Config, workloads: &[Workload], requests: usize) -> Vec<Parts> {
    let content = Files::read(config.content.archive()).expect("an archive of ours");
    let limits = config.limits();
    let service = Service { content: &content, limits: &limits, date: Some(1_700_000_000), lines: false };
    let parts = workloads.iter().map(|workload| {
        let (mut connection, mut out) = (Connection::default(), Vec::new());
        let mut left = limits.requests;
        let answer = |question: &Question| {
            if left == 1 {
                (connection, left) = (Connection::default(), limits.requests);
            }
            left -= 1;
            connection.receive(&question.request);
            while connection.work(&service, &mut out, ENOUGH) == connection::Wants::Output {
                black_box(&out);
                out.clear();
            }
            connection.take_log().for_each(|access| _ = black_box(access));
            out.clear();
        };
        let (whole, parser) = cycles(workload, requests, answer, |question| {
            let (head, _) = head::read(&question.request, &limits.head).expect("a good head").expect("a whole one");
            black_box(target::read(head.target).expect("a good target"));
        });
        vec![("parser", parser), ("answer", whole - parser)]
    });
    parts.collect()
}
