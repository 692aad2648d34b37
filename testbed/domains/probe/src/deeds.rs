//! What a probe does on request, all of it in safe code: the ways in which a domain goes wrong by itself, and the things that it can hold when it does.

use alloc::{sync::Arc, vec::Vec};
use core::{
    fmt,
    hint::black_box,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::work;
use interfaces::{
    CallError, Cancelled, Cap, Nested, Port, RRef,
    collections::{Bytes, Deque},
    packet::Batch,
    probe::{Deed, Parcel, Probe, ProbeHandle, Word},
    want_back,
};
use runtime::{
    env::Env,
    sync::{Event, Mutex, NEVER},
    thread, time,
};

/// A probe's memory: what it was told to keep.
pub struct State {
    pub env: Env,
    /// The probe behind this one, if this isn't the last.
    pub next: Option<Port<dyn Probe>>,
    words: Mutex<Vec<RRef<Word>>>,
    batches: Mutex<Vec<RRef<Batch>>>,
    parcels: Mutex<Vec<RRef<Parcel>>>,
    capabilities: Mutex<Vec<Cap<dyn ProbeHandle>>>,
    handles: AtomicU64,
    /// Closed while somebody sleeps here on request: a handle is made only after, so that its asker can die meanwhile.
    door: Mutex<()>,
    /// Somebody computes for ever, as it was told to.
    stays: AtomicBool,
    /// Handles wait for ever when they are dropped.
    clings: AtomicBool,
    /// A thread naps, or is about to.
    naps: AtomicBool,
    /// Held in some places where a deed is done.
    pub(crate) lock: Mutex<()>,
}

impl State {
    pub fn new(env: Env, next: Option<Port<dyn Probe>>) -> Arc<Self> {
        Arc::new(State {
            env,
            next,
            words: Mutex::new(Vec::new()),
            batches: Mutex::new(Vec::new()),
            parcels: Mutex::new(Vec::new()),
            capabilities: Mutex::new(Vec::new()),
            handles: AtomicU64::new(0),
            door: Mutex::new(()),
            stays: AtomicBool::new(false),
            clings: AtomicBool::new(false),
            naps: AtomicBool::new(false),
            lock: Mutex::new(()),
        })
    }

    pub fn keep(&self, word: RRef<Word>) {
        self.words.lock().push(word);
    }

    pub fn hold(&self, handle: Cap<dyn ProbeHandle>) {
        self.capabilities.lock().push(handle);
    }

    pub fn post(&self, parcel: RRef<Parcel>) {
        self.parcels.lock().push(parcel);
    }

    /// The sum of the words in the parcels that are kept, and how many those are.
    pub fn weigh(&self) -> (u64, u64) {
        let parcels = self.parcels.lock();
        let sum = parcels.iter().filter_map(|parcel| parcel.word.get()).map(|word| word.0).sum();
        (sum, parcels.len() as u64)
    }

    /// Sleeps here, on a visitor's behalf.
    pub fn linger(&self, nanos: u64) -> Result<(), CallError> {
        if nanos == 0 { Ok(()) } else { sleep(time::now().saturating_add(nanos)) }
    }

    /// Makes a handle, which is counted while it lives.
    pub fn handle(self: &Arc<Self>) -> Handle {
        let _door = self.door.lock();
        self.handles.fetch_add(1, Relaxed);
        Handle(self.clone())
    }

    pub fn handles(&self) -> u64 {
        self.handles.load(Relaxed)
    }

    pub fn is_staying(&self) -> bool {
        self.stays.load(Relaxed)
    }

    pub fn act(self: &Arc<Self>, deed: Deed) -> Result<(), CallError> {
        match deed {
            Deed::Nothing => Ok(()),
            Deed::Panic => panic!("a probe was told to panic"),
            Deed::IndexOutOfBounds => finished([1u8, 2, 3][black_box(3)]),
            Deed::Unwrap => finished(black_box(None::<u8>).unwrap()),
            Deed::Overflow => finished(black_box(u8::MAX) + black_box(1)),
            Deed::DivideByZero => finished(1 / black_box(0u32)),
            Deed::StackOverflow => finished(recurse(self.next, 0)),
            Deed::Hoard => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(alloc::vec![0u8; 16 * 1024]);
                    black_box(&hoard);
                }
            }
            Deed::HoardExchange => {
                while let Ok(word) = RRef::new(Word(0)) {
                    self.words.lock().push(word);
                }
                Ok(())
            }
            Deed::HoardResults => {
                let next = self.next.ok_or(CallError::Gone)?;
                loop {
                    match next.make(0) {
                        Ok(word) => self.keep(word),
                        Err(CallError::Overloaded) => break,
                        Err(error) => return Err(error),
                    }
                }
                let word = self.words.lock().pop().ok_or(CallError::Gone)?;
                self.keep(next.pass(word)?);
                Ok(())
            }
            Deed::Spin => loop {
                core::hint::spin_loop();
            },
            Deed::SpinWithCalls => loop {
                match self.next {
                    Some(next) => finished(next.next(0))?,
                    None => finished(time::now())?,
                }
            },
            Deed::Sleep(nanos) => {
                let _door = self.door.try_lock();
                sleep(time::now().saturating_add(nanos))
            }
            Deed::SpawnSpinner => self.spawn(Deed::Spin),
            Deed::SpawnSleeper => self.spawn(Deed::WaitForever),
            Deed::SpawnCaller => self.spawn(Deed::SpinWithCalls),
            Deed::WaitForever => Event::new().wait(NEVER).map(drop).map_err(|Cancelled| CallError::Cancelled),
            Deed::Keep(count) => {
                for _ in 0..count {
                    self.keep(RRef::new(Word(0)).map_err(|_| CallError::Overloaded)?);
                }
                Ok(())
            }
            Deed::KeepPackets(count) => {
                let mut left = count as usize;
                while left > 0 {
                    let mut batch = Batch::allocate().map_err(|_| CallError::Overloaded)?;
                    let filled = batch.fill(left.min(Batch::CAPACITY));
                    self.batches.lock().push(batch);
                    if filled == 0 {
                        return Err(CallError::Overloaded);
                    }
                    left -= filled;
                }
                Ok(())
            }
            Deed::KeepParcels(count) => {
                for number in 0..count {
                    let parcel = parcel(u64::from(number))?;
                    self.post(parcel);
                }
                Ok(())
            }
            Deed::Lend(nanos) => {
                let word = RRef::new(Word(7)).map_err(|_| CallError::Overloaded)?;
                self.next.ok_or(CallError::Gone)?.look(word.lend(), nanos).map(drop)
            }
            Deed::LendNested(nanos) => {
                let parcel = parcel(7)?;
                let word = parcel.word.lend().ok_or(CallError::Gone)?;
                self.next.ok_or(CallError::Gone)?.look(word, nanos).map(drop)
            }
            Deed::SpawnLender(nanos) => self.spawn(Deed::LendKept(nanos)),
            Deed::LendKept(nanos) => {
                let words = self.words.lock();
                let word = words.first().ok_or(CallError::Gone)?;
                self.next.ok_or(CallError::Gone)?.look(word.lend(), nanos).map(drop)
            }
            Deed::GiveAndWait => {
                let word = RRef::new(Word(7)).map_err(|_| CallError::Overloaded)?;
                self.next.ok_or(CallError::Gone)?.keep_and_act(word, Deed::WaitForever)
            }
            Deed::WantBack => {
                want_back();
                Ok(())
            }
            Deed::TakeAndPanic => {
                let mut parcel = parcel(5)?;
                let _texts = [parcel.texts.pop_front(), parcel.texts.pop_back()];
                if let (Some(word), Some(next)) = (parcel.word.take(), self.next) {
                    next.keep(word)?;
                }
                panic!("a probe was told to panic with a parcel unpacked");
            }
            Deed::PutAndPanic => {
                let mut parcel = parcel(5)?;
                let word = parcel.word.take().ok_or(CallError::Gone)?;
                parcel.word.put(word).map_err(|_| CallError::Overloaded)?;
                self.post(parcel);
                panic!("a probe was told to panic with a parcel packed");
            }
            Deed::PostAndPanic => {
                self.next.ok_or(CallError::Gone)?.post(parcel(5)?)?;
                panic!("a probe was told to panic with a parcel posted");
            }
            Deed::Work(number) => work::round(self, number),
            Deed::OverflowInLibrary => finished(alloc::format!("{}", Endless(0))),
            Deed::OverflowAtWork => finished(work_ever_deeper(self, 0)),
            Deed::Stay => {
                self.stays.store(true, Relaxed);
                loop {
                    core::hint::spin_loop();
                }
            }
            Deed::Cling => {
                self.clings.store(true, Relaxed);
                Ok(())
            }
            Deed::KeepHandle => {
                let next = self.next.ok_or(CallError::Gone)?;
                self.hold(next.handle()?);
                Ok(())
            }
        }
    }

    pub(crate) fn spawn(self: &Arc<Self>, deed: Deed) -> Result<(), CallError> {
        let state = self.clone();
        let cpu = self.env.cpus().first().copied().unwrap_or(0);
        let work = move || {
            // Whatever comes back ends the thread: the domain is ending, or the next one is gone.
            let _ = state.act(deed);
        };
        self.env.spawn("deed", cpu, work).map_err(|_| CallError::Overloaded)
    }

    /// Has a thread sleep for a moment and end. One at a time: on a busy machine those that haven't come to their end yet would pile up to the quota.
    pub(crate) fn nap(self: &Arc<Self>) -> Result<(), CallError> {
        if self.naps.swap(true, Relaxed) {
            return Ok(());
        }
        let state = self.clone();
        let cpu = self.env.cpus().first().copied().unwrap_or(0);
        let work = move || {
            let _ = sleep(time::now().saturating_add(10_000));
            state.naps.store(false, Relaxed);
        };
        self.env.spawn("nap", cpu, work).map_err(|_| {
            self.naps.store(false, Relaxed);
            CallError::Overloaded
        })
    }
}

/// A parcel with everything in it: six objects, two packets.
pub(crate) fn parcel(number: u64) -> Result<RRef<Parcel>, CallError> {
    let full = |_| CallError::Overloaded;
    let parcel = Parcel { number, word: Nested::empty(), batch: Some(Nested::empty()), texts: Deque::default() };
    let mut parcel = RRef::new(parcel).map_err(full)?;
    parcel.word.put(RRef::new(Word(number)).map_err(full)?).map_err(|_| CallError::Overloaded)?;
    let mut batch = Batch::allocate().map_err(full)?;
    batch.fill(2);
    parcel.batch = Some(Nested::empty());
    if let Some(place) = &mut parcel.batch {
        place.put(batch).map_err(|_| CallError::Overloaded)?;
    }
    for text in ["first", "second", "third"] {
        let text = Bytes::copy_of(text.as_bytes()).map_err(full)?;
        parcel.texts.push_back(text).map_err(|_| CallError::Overloaded)?;
    }
    Ok(parcel)
}

fn sleep(deadline: u64) -> Result<(), CallError> {
    thread::sleep_until(deadline).map_err(|Cancelled| CallError::Cancelled)
}

/// Uses a value, so that the compiler has to come by it.
fn finished<T>(value: T) -> Result<(), CallError> {
    black_box(value);
    Ok(())
}

/// Recurses until there is no stack left. With a probe behind it, it calls that at every depth and doesn't heed what comes back, so that the last byte of the
/// stack may be touched by a call.
#[inline(never)]
#[allow(unconditional_recursion, reason = "that is the deed")]
fn recurse(next: Option<Port<dyn Probe>>, depth: u64) -> u64 {
    let frame = black_box([depth; 8]);
    if let Some(next) = next {
        black_box(next.next(depth).is_ok());
    }
    recurse(next, depth + 1) + black_box(frame)[0]
}

/// Recurses until there is no stack left, working at every depth.
#[inline(never)]
#[allow(unconditional_recursion, reason = "that is the deed")]
fn work_ever_deeper(state: &Arc<State>, depth: u64) -> u64 {
    let frame = black_box([depth; 8]);
    // Whatever comes of it.
    black_box(work::round(state, depth).is_ok());
    work_ever_deeper(state, depth + 1) + black_box(frame)[0]
}

/// A text that never ends, and is written through the library's code at every depth.
struct Endless(usize);

impl fmt::Display for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>width$}{:?}", Endless(self.0 + 1), Some(self.0), width = self.0 % 7)
    }
}

/// A handle of a probe.
pub struct Handle(Arc<State>);

impl ProbeHandle for Handle {
    fn next(&mut self, word: u64) -> Result<u64, CallError> {
        Ok(word + 1)
    }

    fn act(&mut self, deed: Deed) -> Result<(), CallError> {
        self.0.act(deed)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.0.clings.load(Relaxed) {
            // It ends with the domain.
            let _ = Event::new().wait(NEVER);
        }
        self.0.handles.fetch_sub(1, Relaxed);
    }
}
