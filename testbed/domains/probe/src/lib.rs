//! A domain that does what the isolation tests tell it, above all what no domain should do.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use interfaces::{
    CallError, Cap, Port, RRef,
    config::NoConfig,
    packet::Batch,
    probe::{Deed, Probe, ProbeHandle, Relayed, Word},
};
use runtime::{
    env::{Env, StartError},
    sync::Mutex,
    thread, time,
};

/// The next probe down the chain, if there is one.
#[derive(runtime::Imports)]
pub struct Imports {
    pub next: Port<dyn Probe>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub probe: Box<dyn Probe>,
}

/// Starts a probe that has another behind it.
pub fn start(env: Env, imports: Imports, _config: NoConfig) -> Result<Exports, StartError> {
    Ok(Exports { probe: Box::new(Subject::new(env, Some(imports.next))) })
}

/// Starts the last probe of a chain.
pub fn start_last(env: Env, _imports: (), _config: NoConfig) -> Result<Exports, StartError> {
    Ok(Exports { probe: Box::new(Subject::new(env, None)) })
}

/// Crashes while it starts.
pub fn start_crashing(_env: Env, _imports: (), _config: NoConfig) -> Result<Exports, StartError> {
    panic!("this domain crashes while it starts")
}

/// Has reasons not to start.
pub fn start_refusing(_env: Env, _imports: (), _config: NoConfig) -> Result<Exports, StartError> {
    Err("this domain will not start".into())
}

/// The domain's state.
struct Subject {
    env: Env,
    next: Option<Port<dyn Probe>>,
    handles: Arc<AtomicU64>,
    kept: Mutex<Kept>,
}

/// What it holds on to.
#[derive(Default)]
struct Kept {
    words: Vec<RRef<Word>>,
    batches: Vec<RRef<Batch>>,
    handles: Vec<Cap<dyn ProbeHandle>>,
}

impl Subject {
    fn new(env: Env, next: Option<Port<dyn Probe>>) -> Self {
        Subject { env, next, handles: Arc::default(), kept: Mutex::new(Kept::default()) }
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), CallError> {
        let cpu = self.env.cpus()[0];
        self.env.spawn(name, cpu, work).map_err(|_| CallError::Overloaded)
    }

    fn act(&self, deed: Deed) -> Result<(), CallError> {
        match deed {
            Deed::Nothing => {}
            Deed::Panic => panic!("a probe was told to panic"),
            Deed::IndexOutOfBounds => {
                black_box(black_box(&[1, 2, 3][..])[black_box(3)]);
            }
            Deed::Unwrap => {
                black_box(None::<u32>).expect("a probe was told to unwrap nothing");
            }
            Deed::Overflow => {
                black_box(black_box(u32::MAX) + black_box(1));
            }
            Deed::DivideByZero => {
                black_box(black_box(1u32) / black_box(0));
            }
            Deed::StackOverflow => {
                black_box(dig(black_box(1)));
            }
            Deed::Hoard => loop {
                core::mem::forget(black_box(Vec::<u8>::with_capacity(64 * 1024)));
            },
            Deed::HoardExchange => {
                let mut kept = self.kept.lock();
                while let Ok(word) = RRef::new(Word(0)) {
                    kept.words.push(word);
                }
                return Err(CallError::Overloaded);
            }
            Deed::Spin => loop {
                core::hint::spin_loop();
            },
            Deed::SpinWithCalls => loop {
                if let Some(next) = self.next {
                    let _ = next.next(1);
                }
            },
            Deed::Sleep(span) => {
                let _ = thread::sleep_until(time::now() + span);
            }
            Deed::SpawnSpinner => self.spawn("spinner", || {
                loop {
                    core::hint::spin_loop();
                }
            })?,
            Deed::SpawnSleeper => self.spawn("sleeper", || while thread::sleep_until(u64::MAX).is_ok() {})?,
            Deed::SpawnCaller => {
                let next = self.next.ok_or(CallError::Gone)?;
                self.spawn("caller", move || {
                    loop {
                        let _ = next.next(1);
                        if let Ok(word) = RRef::new(Word(1)) {
                            let _ = next.pass(word);
                        }
                    }
                })?;
            }
            Deed::WaitForever => {
                let never = Mutex::new(());
                let held = never.lock();
                // The second lock of one thread waits for ever.
                drop(never.lock());
                drop(held);
            }
            Deed::Keep(count) => {
                let mut kept = self.kept.lock();
                for _ in 0..count {
                    kept.words.push(RRef::new(Word(7)).map_err(|_| CallError::Overloaded)?);
                }
            }
            Deed::KeepPackets(count) => {
                let mut batch = Batch::allocate().map_err(|_| CallError::Overloaded)?;
                batch.fill(count as usize);
                self.kept.lock().batches.push(batch);
            }
            Deed::KeepHandle => {
                let handle = self.next.ok_or(CallError::Gone)?.handle()?;
                self.kept.lock().handles.push(handle);
            }
        }
        Ok(())
    }
}

impl Probe for Subject {
    fn next(&self, word: u64) -> Result<u64, CallError> {
        Ok(word.wrapping_add(1))
    }

    fn pass(&self, mut word: RRef<Word>) -> Result<RRef<Word>, CallError> {
        word.0 += 1;
        Ok(word)
    }

    fn keep(&self, word: RRef<Word>) -> Result<(), CallError> {
        self.kept.lock().words.push(word);
        Ok(())
    }

    fn act(&self, deed: Deed) -> Result<(), CallError> {
        Subject::act(self, deed)
    }

    fn relay(&self, depth: u32, deed: Deed) -> Result<Relayed, CallError> {
        let answer = match (depth, self.next) {
            (0, _) => Subject::act(self, deed),
            (1, Some(next)) => next.act(deed),
            (depth, Some(next)) => return next.relay(depth - 1, deed),
            (_, None) => Err(CallError::Gone),
        };
        Ok(answer.map_or_else(Relayed::Failed, |()| Relayed::Done))
    }

    fn handle(&self) -> Result<Cap<dyn ProbeHandle>, CallError> {
        self.handles.fetch_add(1, Relaxed);
        Ok(Cap::new(Box::new(Handle { alive: self.handles.clone(), calls: 0 })))
    }

    fn census(&self) -> Result<(u64, u64), CallError> {
        Ok((u64::from(self.env.generation()), self.handles.load(Relaxed)))
    }
}

/// What stands behind a handle.
struct Handle {
    alive: Arc<AtomicU64>,
    calls: u64,
}

impl ProbeHandle for Handle {
    fn next(&mut self, word: u64) -> Result<u64, CallError> {
        self.calls += 1;
        Ok(word + self.calls)
    }

    fn act(&mut self, deed: Deed) -> Result<(), CallError> {
        match deed {
            Deed::Panic => panic!("a handle was told to panic"),
            Deed::Sleep(span) => {
                let _ = thread::sleep_until(time::now() + span);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Relaxed);
    }
}

/// Recurses until the stack is used up.
#[inline(never)]
fn dig(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    if depth == u64::MAX { depth } else { dig(depth + 1) + black_box(&frame)[0] }
}
