//! The operator's console and the feed, as the serial lines carry them.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use interfaces::{
    Port,
    abi::Reason,
    probe::{Deed, Probe},
};
use kernel_core::incarnation::Cause;
use rig::{DomainSpec, Rig, Settings, Start};
use serde_json::Value;

const HELLO: Start = Start { name: "hello", package: "hello", path: "hello::start" };

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let mut settings = Settings::chain(|domain| domain.watchdog.0 = 80_000_000);
    // Its configuration: one string, in postcard's form.
    let hello =
        DomainSpec::new("hello", HELLO).export("control", "Control").with(|domain| domain.config = b"\x02hi".to_vec());
    settings.domains.push(hello);
    Rig::start(settings)
});

/// Types a line and waits for the next prompt; what was said between.
fn ask(line: &str) -> String {
    let said = || String::from_utf8_lossy(&RIG.machine.console.lock().unwrap()).into_owned();
    RIG.until("the console is there", || said().ends_with("redleaf> "));
    let before = said().len();
    RIG.machine.type_in(&format!("{line}\r"));
    RIG.until("the console has answered", || said().len() > before + line.len() + 2 && said().ends_with("redleaf> "));
    said()[before..].replace("\r\n", "\n")
}

/// Events of the feed so far.
fn feed() -> Vec<Value> {
    let text = String::from_utf8(RIG.machine.feed.lock().unwrap().clone()).expect("the feed is text");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn event_of<'a>(events: &'a [Value], kind: &str, domain: &str) -> Option<&'a Value> {
    events.iter().rev().find(|event| event["event"] == kind && (event["domain"] == domain || event["name"] == domain))
}

#[test]
fn it_lists_domains_counters_and_the_log() {
    let _turn = RIG.turn();
    let domains = ask("domains");
    for name in ["a", "b", "c", "hello"] {
        assert!(domains.lines().any(|line| line.starts_with(name) && line.contains("live")), "{domains}");
    }
    assert!(ask("stats hello").contains("hello.greeted "), "counters of a domain");
    assert!(ask("stats c").contains("c: no counters"));
    assert!(ask("log hello").contains("hello: hello says \"hi\", generation"), "{}", ask("log hello"));
    assert!(ask("help").contains("crash NAME [KIND]"));
}

/// Any key ends what follows the log, one that was typed before it began, too; what was typed behind that key is the next command.
#[test]
fn what_is_typed_ahead_ends_the_log() {
    let _turn = RIG.turn();
    assert!(ask("log hello --follow\r").contains("hello: hello says \"hi\", generation"));
    let before = RIG.machine.console.lock().unwrap().len();
    ask("log hello --follow\rqstats c");
    RIG.until("the second command is answered", || {
        String::from_utf8_lossy(&RIG.machine.console.lock().unwrap()[before..]).contains("c: no counters")
    });
    RIG.until("the console is there", || RIG.machine.console.lock().unwrap().ends_with(b"redleaf> "));
}

#[test]
fn mistakes_are_answered() {
    let _turn = RIG.turn();
    assert!(ask("stop nobody").contains("error: there is no domain nobody"));
    assert!(ask("crash c oddly").contains("error: there is no kind of crash oddly"));
    assert!(ask("frobnicate").contains("error: no such command"));
    assert!(ask("stop").contains("error: name one domain"));
    assert!(ask("start c").contains("error: c is live"));
    assert!(ask("frob\x7f\x7f\x7f\x7fhelp").contains("log [NAME]"), "backspace");
}

/// The operator's wishes outlive a generation: the last of those that differ in their last word only, once.
#[test]
fn what_a_domain_was_told_its_next_generation_is_told_again() {
    let _turn = RIG.turn();
    for name in ["ann", "bob"] {
        assert!(ask(&format!("greet {name}")).contains(name));
    }
    let generation = RIG.status("hello").generation;
    ask("kill hello");
    RIG.until_restarted("hello", generation);
    RIG.until("it is told", || ask("stats hello").contains("hello.greeted 1"));
    assert!(ask("log").contains("hello is told again: greet bob"));
    // One that crashes it is told once more at most.
    assert!(ask("fail").contains("error: hello does not answer"));
    RIG.until_restarted("hello", generation + 1);
    RIG.until("it is told", || ask("stats hello").contains("hello.greeted 1"));
}

/// Every kind, also in a domain that is visited by nobody: its own thread commits the fault.
#[test]
fn crash_commits_each_kind_in_a_domains_own_thread() {
    let _turn = RIG.turn();
    for reason in Reason::ALL {
        let generation = RIG.status("b").generation;
        let b: Port<dyn Probe> = RIG.port("b", "probe");
        assert_eq!(RIG.run(0, move || b.act(Deed::SpawnCaller)), Ok(()));
        ask(&format!("crash b {}", reason.name()));
        RIG.until_restarted("b", generation);
        let (died, death) = RIG.status("b").last_death.expect("it died");
        assert_eq!((died, death.cause), (generation, Cause::Crash(reason)));
        RIG.until("the feed tells", || {
            let events = feed();
            let crash = event_of(&events, "crash", "b").filter(|crash| crash["generation"] == generation);
            let recovered = event_of(&events, "recovered", "b").filter(|event| event["generation"] == generation + 1);
            if let Some(crash) = crash {
                assert_eq!(crash["reason"], reason.name());
                assert!(crash["pages_before"].as_u64() > Some(0));
            }
            if let Some(recovered) = recovered {
                assert!(recovered["pages_after"].as_u64() > Some(0));
            }
            crash.is_some() && recovered.is_some()
        });
    }
}

#[test]
fn the_feed_reports_all_domains_every_second() {
    let _turn = RIG.turn();
    let begun = Instant::now();
    let reports = || feed().into_iter().filter(|event| event["event"] == "stats").collect::<Vec<_>>();
    let before = reports().len();
    RIG.until("two reports have come", || reports().len() >= before + 2);
    assert!(begun.elapsed() > Duration::from_millis(800), "about one a second");
    let report = reports().pop().expect("two at least");
    let names: Vec<_> =
        report["domains"].as_array().into_iter().flatten().filter_map(|domain| domain["name"].as_str()).collect();
    assert_eq!(names, ["c", "b", "a", "hello"]);
    assert!(report["domains"][3]["counters"]["greeted"].is_u64(), "{report}");
    assert_eq!(report["cpus"].as_array().map(Vec::len), Some(2));
    assert!(event_of(&feed(), "booted", "").is_none() && feed().iter().any(|event| event["event"] == "booted"));
}
