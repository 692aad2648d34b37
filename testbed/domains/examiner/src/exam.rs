//! What is tried, and what must come of it.

use alloc::{format, string::String, sync::Arc};
use core::fmt::Debug;

use interfaces::{
    CallError, Port, RRef,
    probe::{Deed, Probe, Relayed, Word},
};
use runtime::{
    env::Env,
    sync::{Mutex, NEVER},
    thread, time,
};

const MILLISECOND: u64 = 1_000_000;
/// After so long what hasn't come is taken for what doesn't come.
const PATIENCE: u64 = 60_000 * MILLISECOND;
/// How often what depends on the moment is tried.
const TRIES: usize = 10;
/// What who is inside hears.
const CRASHED: Result<(), CallError> = Err(CallError::Crashed);
/// What the console can have a domain commit besides.
const FAULTS: [&str; 3] = ["page-fault", "cpu-exception", "quota"];

pub struct Candidates {
    pub env: Env,
    pub a: Port<dyn Probe>,
    pub b: Port<dyn Probe>,
    pub c: Port<dyn Probe>,
}

type Outcome = Result<(), String>;

/// Round after round; the first that fails is the last.
pub fn run(candidates: &Candidates) {
    for round in 1u64.. {
        let outcome = candidates.round();
        if let Err(why) = outcome {
            return log::error!("exam: FAILED in round {round}: {why}");
        }
        let before = generation(candidates.c);
        log::info!("exam: round {round} passed");
        // Whoever runs the exam counts now, and restarts c when the next round may begin.
        while generation(candidates.c) <= before {
            if thread::sleep_until(time::now() + 10 * MILLISECOND).is_err() {
                return;
            }
        }
    }
}

/// The two must be the same.
fn expect<T: PartialEq + Debug>(what: &str, got: T, wanted: T) -> Outcome {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?}, not {wanted:?}")) }
}

/// Waits for what must come.
fn until(what: &str, condition: impl Fn() -> bool) -> Outcome {
    let deadline = time::now() + PATIENCE;
    while !condition() {
        if time::now() > deadline {
            return Err(format!("waited too long until {what}"));
        }
        thread::sleep_until(time::now() + MILLISECOND).map_err(|_| "the exam is over")?;
    }
    Ok(())
}

/// Asks whoever runs the exam for what only an operator can do, until `done`: what is asked for may come before a thread is where it is to be hit.
fn please(order: &str, done: impl Fn() -> bool) -> Outcome {
    let deadline = time::now() + PATIENCE;
    let mut again = 0;
    while !done() {
        let now = time::now();
        if now > deadline {
            return Err(format!("nothing has come of `{order}`"));
        }
        if now >= again {
            log::info!("exam: please {order}");
            again = now + PATIENCE / 4;
        }
        thread::sleep_until(now + MILLISECOND).map_err(|_| "the exam is over")?;
    }
    Ok(())
}

/// Lets our other threads get to where they are to be hit. One that isn't there yet is hit the next time.
fn settle() -> Outcome {
    thread::sleep_until(time::now() + 200 * MILLISECOND).map_err(|_| "the exam is over".into())
}

/// A call that is made once there is somebody to make it to.
fn once_there<T>(call: impl Fn() -> Result<T, CallError>) -> Result<T, CallError> {
    loop {
        match call() {
            Err(CallError::Restarting | CallError::Stopped)
                if thread::sleep_until(time::now() + MILLISECOND).is_ok() => {}
            answer => return answer,
        }
    }
}

/// The generation that answers.
fn generation(probe: Port<dyn Probe>) -> u64 {
    probe.census().map_or(0, |(generation, _)| generation)
}

/// Waits for a generation after `before` that answers.
fn answers(name: &str, probe: Port<dyn Probe>, before: u64) -> Outcome {
    until(&format!("{name} answers again"), || generation(probe) > before && probe.next(41) == Ok(42))
}

impl Candidates {
    fn round(&self) -> Outcome {
        self.crashes_are_errors()?;
        self.a_nested_crash_is_the_callees()?;
        self.full_hands_are_emptied()?;
        self.hierarchies_end_with_their_owner()?;
        self.a_kill_reaches_all_who_are_inside()?;
        self.who_is_away_does_not_return_into_the_dead()?;
        self.what_was_lent_is_kept()?;
        self.a_restart_is_an_error_to_who_is_inside()?;
        self.faults_are_real()
    }

    /// Each kind of crash is an error to the caller, and the same port answers again.
    fn crashes_are_errors(&self) -> Outcome {
        for deed in Deed::DEADLY {
            let before = generation(self.c);
            expect(&format!("{deed:?}"), self.c.act(deed), Err(CallError::Crashed))?;
            answers("c", self.c, before)?;
        }
        Ok(())
    }

    /// Two domains deep: those in between see an error and go on.
    fn a_nested_crash_is_the_callees(&self) -> Outcome {
        let between = [generation(self.a), generation(self.b)];
        for deed in Deed::DEADLY {
            let before = generation(self.c);
            let answer = self.a.relay(2, deed);
            expect(&format!("{deed:?} two domains on"), answer, Ok(Relayed::Failed(CallError::Crashed)))?;
            answers("c", self.c, before)?;
        }
        expect("a and b live on", [generation(self.a), generation(self.b)], between)
    }

    /// What b holds when it dies is nobody's any more: words, packets, parcels, a handle of c, a thread. Whoever runs the exam counts pages and objects.
    fn full_hands_are_emptied(&self) -> Outcome {
        let before = generation(self.b);
        for deed in [Deed::Keep(20), Deed::KeepPackets(8), Deed::KeepParcels(2), Deed::KeepHandle, Deed::SpawnSleeper] {
            expect(&format!("{deed:?}"), self.b.act(deed), Ok(()))?;
        }
        let word = RRef::new(Word(3)).map_err(|_| "no memory for a word")?;
        expect("b keeps a word", self.b.keep(word), Ok(()))?;
        let handles = || self.c.census().map_or(0, |(_, handles)| handles);
        expect("handles of c", handles(), 1)?;
        expect("b panics", self.b.act(Deed::Panic), Err(CallError::Crashed))?;
        answers("b", self.b, before)?;
        until("c has dropped what the handle stood for", || handles() == 0)
    }

    /// A domain that dies with a hierarchy half taken apart or just put together.
    fn hierarchies_end_with_their_owner(&self) -> Outcome {
        for deed in [Deed::TakeAndPanic, Deed::PutAndPanic, Deed::PostAndPanic] {
            let (before, of_c) = (generation(self.b), generation(self.c));
            expect(&format!("{deed:?}"), self.b.act(deed), Err(CallError::Crashed))?;
            answers("b", self.b, before)?;
            // What it posted is c's for good: so that rounds are alike, c ends too.
            expect("c panics", self.c.act(Deed::Panic), Err(CallError::Crashed))?;
            answers("c", self.c, of_c)?;
        }
        Ok(())
    }

    /// Has another thread of ours call; its answer.
    fn aside(&self, call: impl FnOnce() -> String + Send + 'static) -> Result<Aside, String> {
        let aside = Aside(Arc::new(Mutex::new(None)));
        let (answer, cpu) = (aside.0.clone(), self.env.cpus().last().copied().unwrap_or(0));
        let work = move || {
            let said = call();
            *answer.lock() = Some(said);
        };
        self.env.spawn("aside", cpu, work).map_err(|error| format!("{error}"))?;
        Ok(aside)
    }

    /// On this CPU and another, computing, calling and waiting: all come out with the same error.
    fn a_kill_reaches_all_who_are_inside(&self) -> Outcome {
        for deed in [Deed::Spin, Deed::SpinWithCalls, Deed::WaitForever, Deed::Sleep(NEVER / 2)] {
            let (b, before) = (self.b, generation(self.b));
            let asides = [
                self.aside(move || format!("{:?}", once_there(|| b.act(deed))))?,
                self.aside(move || format!("{:?}", once_there(|| b.act(Deed::WaitForever))))?,
            ];
            settle()?;
            please("kill b", || asides.iter().all(Aside::is_back))?;
            for aside in asides {
                expect(&format!("{deed:?}, killed"), aside.answer(), Some(format!("{CRASHED:?}")))?;
            }
            answers("b", self.b, before)?;
        }
        Ok(())
    }

    /// A thread is two domains on when the one between dies: that one is back long before the thread is, and the thread never returns into its dead generation.
    fn who_is_away_does_not_return_into_the_dead(&self) -> Outcome {
        let (a, before, of_c) = (self.a, generation(self.b), generation(self.c));
        let away = self.aside(move || format!("{:?}", a.relay(2, Deed::Stay)))?;
        until("the thread is in c", || self.c.is_staying() == Ok(true))?;
        please("kill b", || generation(self.b) > before)?;
        answers("b", self.b, before)?;
        expect("the thread is still away", away.is_back(), false)?;
        please("kill c", || away.is_back())?;
        let wanted = Ok::<_, CallError>(Relayed::Failed(CallError::Crashed));
        expect("away", away.answer(), Some(format!("{wanted:?}")))?;
        answers("c", self.c, of_c)
    }

    /// A lender dies while the borrower looks, and the borrower goes on looking at the same.
    fn what_was_lent_is_kept(&self) -> Outcome {
        let (b, of_c) = (self.b, generation(self.c));
        for _ in 0..TRIES {
            let before = generation(b);
            let lending = self.aside(move || format!("{:?}", once_there(|| b.act(Deed::Lend(1_000 * MILLISECOND)))))?;
            settle()?;
            please("kill b", || generation(b) > before)?;
            answers("b", b, before)?;
            until("the lender's caller is back", || lending.is_back())?;
            // One that came late has lent undisturbed.
            if lending.answer() == Some(format!("{CRASHED:?}")) {
                return expect("c has noticed nothing", generation(self.c), of_c);
            }
        }
        Err("whenever b was killed, it lent nothing".into())
    }

    /// The operator's restart: who is inside hears of it, and who comes later is served.
    fn a_restart_is_an_error_to_who_is_inside(&self) -> Outcome {
        let (c, before) = (self.c, generation(self.c));
        let inside = self.aside(move || format!("{:?}", once_there(|| c.act(Deed::WaitForever))))?;
        settle()?;
        please("restart c", || inside.is_back())?;
        expect("inside", inside.answer(), Some(format!("{CRASHED:?}")))?;
        answers("c", self.c, before)
    }

    /// The faults that safe code can't commit by itself.
    fn faults_are_real(&self) -> Outcome {
        for fault in FAULTS {
            let before = generation(self.c);
            please(&format!("crash c {fault}"), || self.c.next(1) == Err(CallError::Crashed))?;
            answers("c", self.c, before)?;
        }
        Ok(())
    }
}

/// What another thread of ours will say.
struct Aside(Arc<Mutex<Option<String>>>);

impl Aside {
    fn is_back(&self) -> bool {
        self.0.lock().is_some()
    }

    fn answer(&self) -> Option<String> {
        self.0.lock().clone()
    }
}
