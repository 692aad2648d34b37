//! A call while its callee, its caller or both die, and a crash with another thread inside: every order of the kernel's, and every order that is wrong.

use loom::{sync::Arc, thread};

use crate::{
    appliance::{A, Appliance, C, RECORD_OF_C, get, put, put_fenced},
    explore,
    orders::{Collect, Death, Orders, Step},
};

/// A worker calls from A to C with an object while `victims` are killed, one after the other.
fn a_call_amid_deaths(orders: &Orders, by_handle: bool, preemptions: usize, victims: &'static [usize]) {
    let orders = orders.clone();
    explore(preemptions, move || {
        let appliance = Appliance::new(orders.clone(), by_handle, 1);
        let worker = thread::spawn({
            let appliance = appliance.clone();
            move || appliance.work(0)
        });
        victims.iter().for_each(|victim| appliance.kill(*victim));
        worker.join().expect("a worker comes to its end");
        let owner = get(&appliance.owner);
        assert!(!victims.contains(&owner), "an object is still {owner}'s, which was reclaimed");
    });
}

/// The worker has loaded the slot, and is held up before it publishes its frame, for as long as the callee's death and all that follows may take.
fn a_caller_is_held_up(orders: &Orders, preemptions: usize) {
    let orders = orders.clone();
    explore(preemptions, move || {
        let mut appliance = Appliance::new(orders.clone(), false, 1);
        Arc::get_mut(&mut appliance).expect("nobody else has it yet").held_up = true;
        let worker = thread::spawn({
            let appliance = appliance.clone();
            move || appliance.work(0)
        });
        appliance.kill(C);
        worker.join().expect("a worker comes to its end");
    });
}

/// Two threads are in C, and one knows a frame on the other's stack, as scoped threads do, when that one's crash ends the domain.
fn a_crash_with_another_thread_inside(orders: &Orders, preemptions: usize) {
    let orders = orders.clone();
    explore(preemptions, move || {
        let mut appliance = Appliance::new(orders.clone(), false, 2);
        Arc::get_mut(&mut appliance).expect("nobody else has it yet").blocks[0].crashed = true;
        for block in &appliance.blocks {
            put(&block.records[C], RECORD_OF_C);
            put(&block.top, C);
        }
        // `trap::exception` has held it, and its `die` is what the supervisor goes on with.
        put_fenced(&appliance.blocks[0].held, 1);
        let knowing = thread::spawn({
            let appliance = appliance.clone();
            move || appliance.look_at_a_frame(&appliance.blocks[1], &appliance.blocks[0])
        });
        appliance.kill(C);
        knowing.join().expect("it lands or leaves");
    });
}

/// Invariants 2, 3 and 4: whatever the moment at which the callee dies, nobody executes it, follows its record or has its object afterwards.
#[test]
fn a_callee_dies() {
    a_call_amid_deaths(&Orders::of_the_sources(), false, 3, &[C]);
    a_call_amid_deaths(&Orders::of_the_sources(), true, 3, &[C]);
}

/// The same for the caller: nobody returns into it.
#[test]
fn a_caller_dies() {
    a_call_amid_deaths(&Orders::of_the_sources(), false, 3, &[A]);
}

#[test]
fn both_die() {
    a_call_amid_deaths(&Orders::of_the_sources(), false, 2, &[A, C]);
    a_call_amid_deaths(&Orders::of_the_sources(), false, 2, &[C, A]);
}

/// A record that is gone is never followed, not even by a trap.
#[test]
fn a_stale_record_leads_nowhere() {
    a_caller_is_held_up(&Orders::of_the_sources(), 4);
}

/// Stop before resume: the crashed thread's frames are skipped only when nobody who may know them runs.
#[test]
fn a_thread_knows_anothers_frame() {
    a_crash_with_another_thread_inside(&Orders::of_the_sources(), 2);
}

/// Each of these orders is wrong, and the model must say so: else it shows nothing.
mod wrong {
    use super::*;

    fn orders() -> Orders {
        Orders::of_the_sources()
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn check_then_publish() {
        a_call_amid_deaths(&orders().swapped(Step::Publish, Step::CheckCallee), true, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_second_look_at_the_slot() {
        a_call_amid_deaths(&orders().without(Step::CheckSlot), false, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_check_of_the_callee() {
        a_call_amid_deaths(&orders().without(Step::CheckCallee), true, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn check_the_caller_then_unpublish() {
        a_call_amid_deaths(&orders().swapped(Step::Unpublish, Step::CheckCaller), false, 3, &[A]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_check_of_the_caller() {
        a_call_amid_deaths(&orders().without(Step::CheckCaller), false, 3, &[A]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn a_killer_without_a_barrier() {
        let mut orders = orders().deaths_without(Death::Barrier);
        orders.collect.retain(|step| *step != Collect::Barrier);
        a_call_amid_deaths(&orders, true, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn a_look_before_the_mark() {
        let mut orders = orders();
        let mark = orders.death.iter().position(|step| *step == Death::Mark).expect("a death is marked");
        let mark = orders.death.remove(mark);
        let look = orders.death.iter().position(|step| *step == Death::Look).expect("there is a look");
        orders.death.insert(look + 1, mark);
        a_call_amid_deaths(&orders, false, 3, &[A]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_look() {
        a_call_amid_deaths(&orders().deaths_without(Death::Look), true, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "left half done")]
    fn diversion_at_depth() {
        a_call_amid_deaths(&Orders { depth_is_respected: false, ..orders() }, false, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_crossing_on_the_way_back() {
        a_call_amid_deaths(&orders().without(Step::CrossOut), false, 3, &[C]);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn no_crossing_on_the_way_in() {
        a_call_amid_deaths(&orders().without(Step::CrossIn), false, 3, &[A]);
    }

    /// A caller that was held up between loading the slot and publishing its frame names a record that is gone: it never follows it, but its CPU's trap does.
    #[test]
    #[should_panic(expected = "Causality violation")]
    fn records_lead_to_the_freed() {
        let mut orders = orders();
        orders.collect.retain(|step| *step != Collect::Detach);
        a_caller_is_held_up(&orders, 3);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn records_are_used_again_unseen() {
        let mut orders = orders();
        orders.collect.retain(|step| *step != Collect::LookAtFrames);
        a_caller_is_held_up(&orders, 4);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn resume_as_soon_as_dead() {
        let mut orders = orders();
        let look = orders.death.iter().position(|step| *step == Death::Look).expect("there is a look");
        orders.death.insert(look, Death::Resume);
        a_crash_with_another_thread_inside(&orders, 2);
    }
}
