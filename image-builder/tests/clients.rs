//! Clients that we did not write, against boxes in the lab: each comes from Debian's archive and is run where the lab's clients are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use image_builder::workspace::Workspace;
use lab::{CrashReport, Report};
use prefix::{Prefix, Tool};

/// What the unpacked programs are called by in the lines below.
const PROGRAMS: [&str; 17] = [
    "ab",
    "curl",
    "memcaslap",
    "memccapable",
    "memccat",
    "memccp",
    "memcdump",
    "memcexist",
    "memcflush",
    "memcping",
    "memcrm",
    "memcslap",
    "memcstat",
    "memctouch",
    "perl",
    "python3",
    "wrk",
];

/// A lab without clients of its own.
const LAB: &str = "[load]\nkeep-alive = 0\nshort-rate = 0\n[console]\nfault-injection = true\n";

/// A folder of the test's own, with a way to start each program.
struct Bench {
    folder: tempfile::TempDir,
    workspace: Workspace,
}

impl Bench {
    fn new() -> Bench {
        Bench::of(&[Tool::Clients], &PROGRAMS)
    }

    fn with_browser() -> Bench {
        Bench::of(&[Tool::Clients, Tool::Browser], &["python3", "chromium-headless-shell"])
    }

    fn of(tools: &[Tool], programs: &[&str]) -> Bench {
        let prefix = Prefix::ensure(tools).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for program in programs {
            let command = prefix.command(program).unwrap();
            let mut script = String::from("#!/bin/sh\n");
            for (name, value) in command.get_envs() {
                script += &format!("export {}={}\n", name.to_str().unwrap(), quoted(value.unwrap().to_str().unwrap()));
            }
            let words = [command.get_program()].into_iter().chain(command.get_args());
            let words: Vec<String> = words.map(|word| quoted(word.to_str().unwrap())).collect();
            script += &format!("exec {} \"$@\"\n", words.join(" "));
            let path = folder.path().join(program);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Bench { folder, workspace: Workspace::find() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str) -> String {
        self.workspace.root().join("image-builder/tests/clients").join(name).display().to_string()
    }

    /// A manifest that inherits one of the clone's, in a lab without clients of its own: these flush the store, and want the box to themselves.
    fn manifest(&self, inherited: &str, more: &str) -> PathBuf {
        let inherited = self.workspace.root().join(inherited);
        fs::write(self.path("box.toml"), format!("inherit = {:?}\n{more}", inherited.display().to_string())).unwrap();
        fs::write(self.path("box.lab.toml"), LAB).unwrap();
        self.path("box.toml")
    }

    /// Runs the lines, one after the other; each must end well, and so must the run.
    fn run(&self, manifest: &Path, lines: &[String], more: &[&str]) -> Report {
        let file = self.path("report.json");
        let mut command = Command::new(env!("CARGO_BIN_EXE_redleaf"));
        command.arg("run").arg(manifest).arg("--report").arg(&file).args(more).stdin(Stdio::null());
        for line in lines {
            let line =
                format!("PATH={}:$PATH; cd {}; {line}", self.folder.path().display(), self.folder.path().display());
            command.args(["--client", &line]);
        }
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        println!("{words}");
        let report: Report =
            serde_json::from_slice(&fs::read(&file).unwrap_or_else(|error| panic!("{error}: {words}"))).unwrap();
        for program in &report.programs {
            println!("{:?} after {:.0} ms: {}\n{}", program.status, program.took_ms, program.line, program.words);
        }
        assert!(report.ok() && report.programs.len() == lines.len(), "{:#?}", report.reasons);
        assert_eq!(report.requests.completed + report.requests.failed, 0, "they had the box to themselves");
        report
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// libmemcached's tools: its own examination of a server, each command once, and its load generators; by UDP too.
#[test]
#[ignore = "tier interop: fetches clients, boots a box"]
fn libmemcacheds_tools_are_content_with_the_store() {
    let bench = Bench::new();
    fs::write(bench.path("greeting"), "hello\n").unwrap();
    let lines = [
        "memccapable -h $BOX -p 11211 -a".to_owned(),
        "export MEMCACHED_SERVERS=$BOX:11211; memcping && memccp greeting && [ \"$(memccat greeting)\" = hello ] && memcexist greeting \
         && memctouch greeting && memcstat | grep -q curr_items && memcrm greeting && ! memcexist greeting"
            .to_owned(),
        "memcslap --servers=$BOX --concurrency=8 --execute-number=100 --test=get && memcslap --servers=$BOX --concurrency=4 \
         --execute-number=50 --test=set && memcslap --servers=$BOX --concurrency=4 --execute-number=50 --test=mget"
            .to_owned(),
        "memcaslap -s $BOX:11211 -T 1 -c 16 -x 3000 -v 0.2 | tee load; grep -q 'get_misses: 0' load && grep -q 'verify_failed: 0' load".to_owned(),
        "memcaslap -s $BOX:11211 -T 1 -c 8 -x 800 -U | tee load; grep -q 'packet_drop: 0' load".to_owned(),
    ];
    bench.run(&bench.manifest("testbed/appliances/kv-all.toml", ""), &lines, &[]);
}

/// Clients in Python and Perl, five of them, by three authors' reading of the protocol.
#[test]
#[ignore = "tier interop: fetches clients, boots a box"]
fn python_and_perl_clients_are_content_with_the_store() {
    let bench = Bench::new();
    let lines = [
        format!("python3 {} $BOX", bench.script("pymemcache_client.py")),
        format!("python3 {} $BOX", bench.script("memcache_client.py")),
        format!("python3 {} $BOX", bench.script("pylibmc_client.py")),
        format!("perl {} $BOX", bench.script("cache_memcached.pl")),
        format!("python3 {} $BOX6", bench.script("pymemcache_client.py")),
    ];
    bench.run(&bench.manifest("testbed/appliances/kv-all.toml", ""), &lines, &[]);
}

/// curl in all its ways, and two load generators.
#[test]
#[ignore = "tier interop: fetches clients, boots a box"]
fn curl_and_load_generators_are_content_with_the_web_server() {
    let bench = Bench::new();
    let site = bench.path("site");
    fs::create_dir(&site).unwrap();
    let page = format!("<!doctype html><html>{}</html>\n", "<p>a page of some length</p>\n".repeat(200));
    let numbers: String = (1..=60_000).map(|number| format!("{number}\n")).collect();
    for (name, content) in [("index.html", &page), ("numbers.txt", &numbers)] {
        fs::write(site.join(name), content).unwrap();
    }
    let manifest = bench.manifest("testbed/appliances/httpd-all.toml", "[domains.web.config]\ncontent = \"site\"\n");
    let lines = [
        format!("sh {} http://$BOX", bench.script("curl.sh")),
        format!("sh {} http://[$BOX6]", bench.script("curl.sh")),
        "ab -q -k -n 3000 -c 32 http://$BOX/ | tee load; grep -q 'Failed requests:  *0$' load && grep -q 'Complete requests:  *3000$' load"
            .to_owned(),
        "ab -q -n 500 -c 16 http://$BOX/ | tee load; grep -q 'Failed requests:  *0$' load".to_owned(),
        "wrk -t 1 -c 32 -d 4s --timeout 60s http://$BOX/numbers.txt | tee load; ! grep -q 'Socket errors\\|Non-2xx' load && grep -q 'requests in' load".to_owned(),
    ];
    bench.run(&manifest, &lines, &[]);
}

/// A folder with the page for browsers: what of it lies in the clone, and what is written here.
fn site_for_browsers(bench: &Bench) -> PathBuf {
    let site = bench.path("site");
    assert!(Command::new("cp").arg("-r").arg(bench.script("site")).arg(&site).status().unwrap().success());
    let numbers: Vec<String> = (1..=30_000).map(|number| number.to_string()).collect();
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        (state >> 24) as u8
    });
    // 100 s of silence: 8,000 samples a second, of a byte each.
    let (rate, length) = (8_000u32, 800_000u32);
    let words = |words: &[u16]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let format = [words(&[1, 1]), [rate.to_le_bytes(), rate.to_le_bytes()].concat(), words(&[1, 8])].concat();
    let chunk = |name: &[u8], content: &[u8]| [name, &(content.len() as u32).to_le_bytes(), content].concat();
    let sound = [b"WAVE".to_vec(), chunk(b"fmt ", &format), chunk(b"data", &vec![0x80; length as usize])].concat();
    for (name, content) in [
        ("data/numbers.json", format!("[{}]", numbers.join(",")).into_bytes()),
        ("data/noise.bin", noise.take(1 << 18).collect()),
        ("data/empty.wasm", b"\0asm\x01\0\0\0".to_vec()),
        ("sound.wav", chunk(b"RIFF", &sound)),
    ] {
        fs::write(site.join(name), content).unwrap();
    }
    // The server's start copies all of it, which an emulated CPU that is kept from running does in no half a second.
    let more = "[domains.web]\nwatchdog = \"2s\"\n[domains.web.config]\ncontent = \"site\"\n";
    bench.manifest("testbed/appliances/httpd-all.toml", more)
}

/// A browser loads a page with all that pages have, and has nothing to complain of: stylesheet, scripts, pictures, a frame, a sound that is wound on, what is compressed
/// and what isn't, parts, what it has kept, redirections and refusals, on connections at once that are each used again. It is asked what it saw from inside the page and from outside.
#[test]
#[ignore = "tier interop: fetches a browser, boots a box"]
fn a_browser_is_content_with_the_web_server() {
    let bench = Bench::with_browser();
    let manifest = site_for_browsers(&bench);
    let lines = [
        format!("python3 {} http://$BOX", bench.script("browser.py")),
        format!("python3 {} http://[$BOX6]", bench.script("browser.py")),
        // What anybody can do by hand.
        "chromium-headless-shell --no-sandbox --virtual-time-budget=10000 --dump-dom http://$BOX/sub/ | tee page; grep -q 'data-small=\"small\"' page"
            .to_owned(),
    ];
    let report = bench.run(&manifest, &lines, &[]);
    let counter = |name: &str| report.domains["web"].counters[name];
    assert!(counter("answers.not-modified") >= 4 && counter("answers.redirected") >= 4, "the box has seen it, too");
    assert_eq!(counter("answers.server-errors"), 0);
}

/// While a page asks for something all the time, the domains below it crash. A driver's crash fails none of what it asks for; one of the stack or of the server nothing
/// but what it asks for in that moment, and then it is answered again.
#[test]
#[ignore = "tier interop: fetches a browser, boots a box"]
fn a_page_in_a_browser_goes_on_through_crashes() {
    let bench = Bench::with_browser();
    let manifest = site_for_browsers(&bench);
    let lines = [format!("python3 {} http://$BOX 40", bench.script("browser.py"))];
    let crashes = ["ixgbe0@20s", "ixgbe0:stack-overflow@23s", "stack@27s", "web@31s", "ixgbe0@35s"];
    let more: Vec<&str> = crashes.iter().flat_map(|crash| ["--crash", crash]).collect();
    let report = bench.run(&manifest, &lines, &more);
    let words = &report.programs[0].words;
    let polled = words.lines().find(|line| line.starts_with('{')).expect("what became of it");
    let polled: serde_json::Value = serde_json::from_str(polled).unwrap();
    let answered: Vec<f64> = polled["answered"].as_array().unwrap().iter().map(|at| at.as_f64().unwrap()).collect();
    let failed = polled["failed"].as_array().unwrap();
    assert_eq!(report.crashes.len(), crashes.len());
    // The program's clock begins some tenths of a second after the box's.
    for CrashReport { at_ms, domain, .. } in &report.crashes {
        let at = at_ms / 1e3;
        let (before, after): (Vec<f64>, Vec<f64>) = answered.iter().copied().partition(|one| *one < at);
        let again = after.first().map(|first| first - at);
        assert!(
            before.len() > 20 && again.is_some_and(|again| again < 1.0),
            "{domain} at {at}: again after {again:?} s"
        );
    }
    for failure in failed {
        let at = failure["at"].as_f64().unwrap();
        let near = |crash: &CrashReport| (at - crash.at_ms / 1e3).abs() < 1.0;
        let excused = report.crashes.iter().any(|crash| crash.domain != "ixgbe0" && near(crash));
        assert!(excused, "{failure}: no crash was that may cost a connection");
    }
    println!("{} answered, {} failed: {failed:?}", answered.len(), failed.len());
}
