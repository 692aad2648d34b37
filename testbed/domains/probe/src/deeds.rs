//! What a probe does on request, all of it in safe code: the ways in which a domain goes wrong by itself, and the things that it can hold when it does.

use alloc::{sync::Arc, vec::Vec};
use core::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use interfaces::{
    CallError, Cancelled, Cap, Port, RRef,
    packet::Batch,
    probe::{Deed, Probe, ProbeHandle, Word},
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
    capabilities: Mutex<Vec<Cap<dyn ProbeHandle>>>,
    handles: AtomicU64,
    /// Closed while somebody sleeps here on request: a handle is made only after, so that its asker can die meanwhile.
    door: Mutex<()>,
}

impl State {
    pub fn new(env: Env, next: Option<Port<dyn Probe>>) -> Arc<Self> {
        Arc::new(State {
            env,
            next,
            words: Mutex::new(Vec::new()),
            batches: Mutex::new(Vec::new()),
            capabilities: Mutex::new(Vec::new()),
            handles: AtomicU64::new(0),
            door: Mutex::new(()),
        })
    }

    pub fn keep(&self, word: RRef<Word>) {
        self.words.lock().push(word);
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
            Deed::KeepHandle => {
                let next = self.next.ok_or(CallError::Gone)?;
                self.capabilities.lock().push(next.handle()?);
                Ok(())
            }
        }
    }

    fn spawn(self: &Arc<Self>, deed: Deed) -> Result<(), CallError> {
        let state = self.clone();
        let cpu = self.env.cpus().first().copied().unwrap_or(0);
        let work = move || {
            // Whatever comes back ends the thread: the domain is ending, or the next one is gone.
            let _ = state.act(deed);
        };
        self.env.spawn("deed", cpu, work).map_err(|_| CallError::Overloaded)
    }
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
        self.0.handles.fetch_sub(1, Relaxed);
    }
}
