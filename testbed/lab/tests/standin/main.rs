//! The lab's test of itself, against a box of which everything is known: a stand-in that balances rightly, or misbehaves in one known way.
//!
//! This protects the measurements: that the lab finds nothing wrong with a box that does nothing wrong, and notices each thing that a box
//! can do wrong.

mod director;
mod scenes;
mod wire;

use libtest_mimic::{Arguments, Trial};

fn main() {
    lab::stage();
    if std::env::var_os("LAB_NIC").is_some() {
        director::play();
    }
    if std::env::var_os(scenes::VICTIM).is_some() {
        scenes::victim();
    }
    let mut arguments = Arguments::from_args();
    // Each scene is a run of some seconds that measures time: more than two at once would only measure each other.
    arguments.test_threads.get_or_insert(1);
    let trial = |name: &str, scene: fn()| {
        Trial::test(name, move || {
            scene();
            Ok(())
        })
    };
    let trials = vec![
        trial("a_right_box_gets_a_clean_report", scenes::right),
        trial("a_crash_is_reported_with_the_gap_that_it_made", scenes::crash),
        trial("a_stop_of_three_seconds_is_measured_as_three_seconds", scenes::pause),
        trial("a_frame_lost_in_the_box_is_noticed", scenes::losing),
        trial("a_connection_moved_is_noticed", scenes::moving),
        trial("bytes_changed_on_the_way_are_noticed", scenes::corrupting),
        trial("a_crash_that_takes_too_long_is_noticed", scenes::slow),
        trial("a_crash_that_nobody_asked_for_is_noticed", scenes::crashing),
        trial("a_box_that_dies_ends_the_run_with_its_reason", scenes::dying),
        trial("rubbish_costs_a_right_box_nothing_and_adds_up", scenes::rubbish),
        trial("a_backend_that_goes_costs_its_own_connections_only", scenes::outage),
        trial("an_outage_excuses_nobody_else", scenes::outage_and_moves),
        trial("pages_that_grow_are_noticed", scenes::growing),
        trial("a_refused_line_is_noticed", scenes::refusing),
        trial("two_runs_beside_each_other_do_not_meet", scenes::beside),
        trial("kill_9_leaves_no_process", scenes::killed),
        trial("an_ordinary_user_needs_no_more_than_root", scenes::unprivileged),
        trial("an_interrupted_run_still_reports", scenes::interrupted),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
