//! The orders of steps by which a call, a death and what becomes of records go: taken from `call.rs`, `incarnation.rs` (`die`), `supervisor.rs`, `record.rs`, `trap.rs` and
//! `table.rs` as they stand. A model goes through them in that order, or in one that is wrong on purpose.

use std::collections::HashSet;

use crate::sources::{body_of, in_order};

const CALL: &str = include_str!("../../src/call.rs");
const STATE: &str = include_str!("../../src/state.rs");
const INCARNATION: &str = include_str!("../../src/incarnation.rs");
const SUPERVISOR: &str = include_str!("../../src/supervisor.rs");
const RECORD: &str = include_str!("../../src/record.rs");
const TRAP: &str = include_str!("../../src/trap.rs");
const TABLE: &str = include_str!("../../src/table.rs");

/// Steps of a thread that calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `crossing` on, before anything is moved to the callee.
    CrossIn,
    LoadSlot,
    NameRecord,
    Publish,
    CheckSlot,
    CheckCallee,
    MoveIn,
    CrossedIn,
    Invoke,
    CrossOut,
    Unpublish,
    CheckCaller,
    MoveOut,
    CrossedOut,
}

/// Steps of a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Death {
    Mark,
    PointAway,
    Barrier,
    Look,
    Quiet,
    Resume,
    Reclaim,
}

/// What is read of each thread in a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Look {
    Frame,
    Crossing,
    Held,
    Verdict,
}

/// What becomes of a record that no slot names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Collect {
    Detach,
    Barrier,
    LookAtFrames,
    UseAgain,
}

/// The orders that the kernel keeps, and what a trap asks before it diverts a thread.
#[derive(Clone)]
pub struct Orders {
    pub call: Vec<Step>,
    pub death: Vec<Death>,
    pub look: Vec<Look>,
    pub collect: Vec<Collect>,
    /// `consider` and `exception` look at the depth.
    pub depth_is_respected: bool,
}

impl Orders {
    pub fn of_the_sources() -> Orders {
        use Step::*;
        let enter = in_order(
            body_of(CALL, "unsafe fn enter("),
            &[
                ("\"mov rcx, [rdi]\"", LoadSlot),
                ("\"mov [rbx + {record}], rcx\"", NameRecord),
                ("\"mov [r8 + {top}], rbx\"", Publish),
                ("\"cmp rcx, [rdi]\"", CheckSlot),
                ("\"cmp dword ptr [rax + {state}], 0\"", CheckCallee),
                ("\"call rdx\"", Invoke),
                ("\"mov [rbp + {top}], rbx\"", Unpublish),
            ],
        );
        let moved = body_of(CALL, "unsafe extern \"C\" fn body<M: Method>");
        let inside = in_order(
            &moved[moved.find("let between").expect("the arguments are moved")..],
            &[
                ("context.arguments.cross(&between)", MoveIn),
                ("set_crossing(block, false)", CrossedIn),
                ("M::invoke(", Invoke),
                ("set_crossing(thread::current(), true)", CrossOut),
            ],
        );
        let gate = body_of(CALL, "fn call<M: Method>(&self, arguments: M::Arguments)");
        let before = &gate[..gate.find("if let Err(error) = ran").expect("a call may fail")];
        let after = &gate[gate.find("// SAFETY: the body came to its end").expect("a call may succeed")..];
        let outer: Vec<Step> = [
            in_order(before, &[("set_crossing(block, true)", CrossIn), ("run(block, self", Invoke)]),
            in_order(after, &[("caller.state() != state::LIVE", CheckCaller), ("move_back(block", MoveOut)]),
        ]
        .concat();
        let back = in_order(
            body_of(CALL, "fn move_back<O: Outcome>"),
            &[("outcome.cross(", MoveOut), ("set_crossing(block, false)", CrossedOut)],
        );
        // Each within the next: the call runs the entry, which runs the body; what is moved back is moved by its own function.
        let put = |outer: Vec<Step>, at: Step, inner: &[Step]| -> Vec<Step> {
            outer.into_iter().flat_map(|step| if step == at { inner.to_vec() } else { vec![step] }).collect()
        };
        let inside: Vec<Step> = put(enter, Invoke, &inside);
        let call = put(put(outer, Invoke, &inside), MoveOut, &back);

        let dying = body_of(SUPERVISOR, "fn dying(");
        let death = [
            in_order(
                body_of(INCARNATION, "pub(crate) fn die("),
                &[("self.state.die()", Death::Mark), ("domain.point_away(answer)", Death::PointAway)],
            ),
            in_order(
                dying,
                &[
                    ("machine().barrier()", Death::Barrier),
                    ("!is_quiet(incarnation)", Death::Look),
                    ("incarnation.set_quiet()", Death::Quiet),
                    ("machine().release(block)", Death::Resume),
                    ("reclaim(domain, incarnation)", Death::Reclaim),
                ],
            ),
        ]
        .concat();
        let look = in_order(
            body_of(SUPERVISOR, "fn is_quiet("),
            &[
                ("block.innermost()", Look::Frame),
                ("block.crossing.load", Look::Crossing),
                ("block.held.load", Look::Held),
                ("quiet &= !inside && !crossing;", Look::Verdict),
            ],
        );
        let collecting = body_of(RECORD, "pub(crate) fn collect()");
        let collecting =
            &collecting[collecting.find("unnamed.is_empty()").expect("only what seems free costs a barrier")..];
        let collect = in_order(
            collecting,
            &[
                ("record.incarnation.swap(", Collect::Detach),
                ("machine().barrier()", Collect::Barrier),
                ("if record.is_named()", Collect::LookAtFrames),
                ("free.push(record)", Collect::UseAgain),
            ],
        );
        assert!(body_of(STATE, "pub(crate) fn die(").contains("Ordering::SeqCst"));
        let depth_is_respected = body_of(TRAP, "pub fn consider(").contains("block.depth.load(Ordering::Relaxed) == 0")
            && body_of(TABLE, "pub(crate) fn enter_kernel()").contains("block.depth.store(");
        Orders { call, death, look, collect, depth_is_respected }
    }

    /// With `first` and `second` in each other's places.
    pub fn swapped(mut self, first: Step, second: Step) -> Orders {
        let place = |step| self.call.iter().position(|other| *other == step).expect("a step of the call");
        let (first, second) = (place(first), place(second));
        self.call.swap(first, second);
        self
    }

    pub fn without(mut self, step: Step) -> Orders {
        self.call.retain(|other| *other != step);
        self
    }

    pub fn deaths_without(mut self, step: Death) -> Orders {
        self.death.retain(|other| *other != step);
        self
    }
}

/// The orders are complete: every step that the model knows is in the sources, once.
#[test]
fn the_sources_have_every_step_in_its_place() {
    use Step::*;
    let orders = Orders::of_the_sources();
    let steps: HashSet<Step> = orders.call.iter().copied().collect();
    assert_eq!((orders.call.len(), steps.len()), (14, 14), "{:?}", orders.call);
    let before = |first, second| {
        let place = |step| orders.call.iter().position(|other| *other == step);
        place(first) < place(second)
    };
    for (first, second) in [
        (CrossIn, Publish),
        (NameRecord, Publish),
        (Publish, CheckSlot),
        (CheckSlot, CheckCallee),
        (CheckCallee, MoveIn),
        (MoveIn, CrossedIn),
        (CrossOut, Unpublish),
        (Unpublish, CheckCaller),
        (CheckCaller, MoveOut),
        (MoveOut, CrossedOut),
    ] {
        assert!(before(first, second), "{first:?} comes before {second:?}: {:?}", orders.call);
    }
    assert!(orders.depth_is_respected, "a trap asks for the depth");
    let death =
        [Death::Mark, Death::PointAway, Death::Barrier, Death::Look, Death::Quiet, Death::Resume, Death::Reclaim];
    assert_eq!(orders.death, death);
    assert_eq!(orders.look, [Look::Frame, Look::Crossing, Look::Held, Look::Verdict]);
}
