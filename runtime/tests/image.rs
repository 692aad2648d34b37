//! A domain as an image of its own: built as every domain is, inspected as an ELF, and entered in a child process whose kernel is the host's table.
//!
//! By hand, from the root of the repository:
//!
//! ```text
//! cargo build -p hello --profile box --target x86_64-unknown-linux-gnu --target-dir target/image-test
//! ```
//!
//! and then `rustc` over the three lines of [`SHIM`] with the arguments of [`image`], as this test does.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    ptr::null_mut,
    sync::OnceLock,
    time::{Duration, Instant},
};

use interfaces::{
    InterfaceId, RRef,
    abi::{Entry, Hooks, KernelTable, RawObject, Reason, StartArguments, WiredPort},
    control::{Control, Counters, Text},
    net::Net,
};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, RelocationFlags, SegmentFlags, elf};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const SHIM: &str = "#![no_std]\n#![no_main]\nruntime::entry!(hello::start);\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// Builds `hello` and links its image, once per run of the tests.
fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let folder = root().join("target/image-test");
        let cargo = Command::new(env!("CARGO"))
            .current_dir(root())
            .args(["build", "-p", "hello", "-p", "runtime", "--profile", "box", "--target", TARGET, "--target-dir"])
            .args([folder.as_os_str(), "--message-format=json-render-diagnostics".as_ref()])
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(cargo.status.success(), "the domain doesn't build");
        let messages: Vec<serde_json::Value> =
            cargo.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let library = |name: &str| {
            let artifact = messages.iter().find(|message| message["target"]["name"] == name).expect("cargo built it");
            let files = artifact["filenames"].as_array().expect("an artifact has files");
            let file = files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".rlib")).expect("a library");
            format!("{name}={file}")
        };
        let work = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (source, image) = (work.join("hello.rs"), work.join("hello.elf"));
        fs::write(&source, SHIM).expect("the folder for tests is writable");
        let target = folder.join(TARGET).join("box");
        let status = Command::new("rustc")
            .current_dir(root())
            .args(["--edition", "2024", "--crate-type", "bin", "--target", TARGET, "-C", "opt-level=3", "-C", "panic=abort"])
            .args(["-C", "overflow-checks=on", "-C", "strip=symbols", "-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib"])
            .args(["-C", "link-arg=-static-pie", "-C", "default-linker-libraries=no", "-C"])
            .arg("link-arg=-Wl,--no-dynamic-linker,-e,domain_entry,-z,norelro,--gc-sections,--build-id=none,-z,max-page-size=4096")
            .args(["--extern", &library("hello"), "--extern", &library("runtime"), "-L"])
            .arg(format!("dependency={}", target.join("deps").display()))
            // Proc-macros are of the host.
            .args(["-L", &format!("dependency={}", folder.join("box/deps").display()), "-o"])
            .args([&image, &source])
            .status()
            .expect("rustc runs");
        assert!(status.success(), "the image doesn't link");
        image
    })
}

/// What the kernel's loader can do: nothing but relative relocations, nothing undefined, no section that it doesn't know, no segment that is both writable
/// and executable.
#[test]
fn the_image_is_what_the_loader_takes() {
    let bytes = fs::read(image()).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    assert_eq!(file.kind(), object::ObjectKind::Dynamic, "position-independent");
    assert!(file.dynamic_relocations().expect("a static-pie has relocations").count() > 0);
    for (at, relocation) in file.dynamic_relocations().unwrap() {
        assert_eq!(relocation.flags(), RelocationFlags::Elf { r_type: elf::R_X86_64_RELATIVE }, "at {at:#x}");
    }
    let undefined: Vec<_> = file.dynamic_symbols().filter(|symbol| symbol.is_undefined()).collect();
    assert!(undefined.is_empty(), "{undefined:?}");
    let loaded: BTreeSet<&str> =
        file.sections().filter(|section| section.address() != 0).map(|s| s.name().unwrap()).collect();
    const KNOWN: [&str; 15] = [
        ".bss",
        ".data",
        ".data.rel.ro",
        ".dynamic",
        ".dynstr",
        ".dynsym",
        ".eh_frame",
        ".eh_frame_hdr",
        ".gcc_except_table",
        ".gnu.hash",
        ".got",
        ".hash",
        ".rela.dyn",
        ".rodata",
        ".text",
    ];
    for section in loaded {
        assert!(KNOWN.contains(&section), "an unexpected section: {section}");
    }
    for segment in file.segments() {
        let SegmentFlags::Elf { p_flags } = segment.flags() else { panic!("an ELF") };
        assert_ne!(p_flags & (elf::PF_W | elf::PF_X), elf::PF_W | elf::PF_X, "writable and executable");
    }
    assert!(bytes.len() < 64 * 1024, "the smallest domain has {} bytes", bytes.len());
    println!("the image has {} bytes", bytes.len());
}

/// Maps the image at some address, relocated, all of it readable, writable and executable: what is tested here isn't the loader.
fn load() -> Entry {
    let bytes = fs::read(std::env::var_os("DOMAIN_IMAGE").expect("the parent names the image")).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let end = file.segments().map(|segment| segment.address() + segment.size()).max().unwrap() as usize;
    // SAFETY: fresh anonymous memory, large enough for every segment; each write below is inside it.
    unsafe {
        let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let base = libc::mmap(null_mut(), end, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0).cast::<u8>();
        assert_ne!(base.cast(), libc::MAP_FAILED);
        for segment in file.segments() {
            let data = segment.data().unwrap();
            base.add(segment.address() as usize).copy_from_nonoverlapping(data.as_ptr(), data.len());
        }
        for (at, relocation) in file.dynamic_relocations().unwrap() {
            base.add(at as usize).cast::<u64>().write_unaligned(base as u64 + relocation.addend() as u64);
        }
        core::mem::transmute::<*mut u8, Entry>(base.add(file.entry() as usize))
    }
}

/// The host's table, but with a heap of 4 MiB at most and a crash that a parent process can read.
fn table() -> &'static KernelTable {
    interfaces::host::connect();
    let host = interfaces::abi::kernel();
    static TABLE: OnceLock<KernelTable> = OnceLock::new();
    // SAFETY: `KernelTable` is plain function pointers.
    TABLE.get_or_init(|| KernelTable { crash, heap_grow, ..unsafe { core::ptr::read(host) } })
}

unsafe extern "C" fn crash(reason: u32, words: *const u8, len: usize) -> ! {
    // SAFETY: as `KernelTable::crash` says.
    let words = unsafe { core::slice::from_raw_parts(words, len) };
    println!("crash {reason}: {}", String::from_utf8_lossy(words));
    std::process::exit(100)
}

extern "C" fn heap_grow(pages: usize) -> *mut u8 {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    if GIVEN.fetch_add(pages, Relaxed) + pages > 1024 {
        return null_mut();
    }
    let layout = std::alloc::Layout::from_size_align(pages * 4096, 4096).unwrap();
    // SAFETY: the size isn't 0.
    unsafe { std::alloc::alloc_zeroed(layout) }
}

/// A port as the kernel wires it.
fn wired(name: &'static str, interface: InterfaceId) -> WiredPort {
    WiredPort::new(name, interface.name, interface.hash, RawObject::NULL)
}

fn control() -> WiredPort {
    wired("control", InterfaceId::of::<dyn Control>())
}

/// Enters the image with `config` and these export ports.
fn enter(config: &[u8], mut exports: Vec<WiredPort>) -> Result<(Vec<RawObject>, Hooks), String> {
    let (name, cpus) = ("hello", [0u32]);
    let mut words = [0u8; 400];
    let mut arguments = StartArguments {
        name: name.as_ptr(),
        name_len: name.len(),
        generation: 7,
        cpu_count: 1,
        cpus: cpus.as_ptr(),
        config: config.as_ptr(),
        config_len: config.len(),
        imports: core::ptr::null(),
        import_count: 0,
        exports: exports.as_mut_ptr(),
        export_count: exports.len(),
        error: words.as_mut_ptr(),
        error_capacity: words.len(),
        error_len: 0,
        hooks: Hooks { fault: None, release: None },
    };
    // SAFETY: the image was loaded for this call; the arguments are as `StartArguments` says.
    let status = unsafe { load()(table(), &mut arguments) };
    let words = String::from_utf8_lossy(&words[..arguments.error_len]).into_owned();
    let objects = exports.iter().map(|export| export.object).collect();
    if status == 0 { Ok((objects, arguments.hooks)) } else { Err(words) }
}

/// `greeting = "Hello"`, as postcard.
const CONFIG: &[u8] = b"\x05Hello";

/// What a child process does.
fn play(scene: &str) {
    match scene {
        "serve" => {
            let (objects, hooks) = enter(CONFIG, vec![control()]).unwrap();
            // SAFETY: the image's `control` port, a box that nothing else uses; its trait object was made by the same compiler.
            let control = unsafe { core::mem::transmute::<RawObject, *mut dyn Control>(objects[0]) };
            // SAFETY: as above.
            let answer = unsafe { &*control }.command(RRef::new(Text::new("greet world")).unwrap()).unwrap();
            // SAFETY: as above.
            let page = unsafe { &*control }.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
            // SAFETY: the box is not used after this.
            unsafe { hooks.release.unwrap()(objects[0]) };
            println!("{} {}", answer.as_str(), page.as_slice()[0].value);
        }
        "fail" => {
            let (objects, _) = enter(CONFIG, vec![control()]).unwrap();
            // SAFETY: as for "serve".
            let control = unsafe { core::mem::transmute::<RawObject, *mut dyn Control>(objects[0]) };
            // SAFETY: as for "serve".
            let _ = unsafe { &*control }.command(RRef::new(Text::new("fail")).unwrap());
        }
        "ports" => {
            let net = InterfaceId::of::<dyn Net>();
            let misshapen = InterfaceId { hash: 1, ..InterfaceId::of::<dyn Control>() };
            for exports in [
                vec![],
                vec![control(), wired("net", net)],
                vec![wired("control", net)],
                vec![wired("control", misshapen)],
            ] {
                println!("{}", enter(CONFIG, exports).err().expect("refused"));
            }
        }
        "config" => println!("{}", enter(b"\xff", vec![control()]).err().expect("refused")),
        reason => {
            let (_, hooks) = enter(CONFIG, vec![control()]).unwrap();
            hooks.fault.unwrap()(Reason::from_name(reason).unwrap() as u32);
            println!("came back");
        }
    }
}

/// This very program, run again to play one scene; `None` if it did not end in time.
fn scene(name: &str, limit: Duration) -> Option<Output> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_kill_is_no_fault_to_inject", "--nocapture"])
        .env("DOMAIN_SCENE", name)
        .env("DOMAIN_IMAGE", image())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + limit;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(child.wait_with_output().unwrap())
}

fn ended(name: &str) -> (Output, String) {
    let output = scene(name, Duration::from_secs(20)).unwrap_or_else(|| panic!("{name} did not end"));
    let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, words)
}

/// Calls cross between two images that were linked apart, in both directions: objects, vtables, the table, the log.
#[test]
fn the_image_serves_calls_and_drops_its_objects() {
    let (output, words) = ended("serve");
    assert!(output.status.success(), "{words}");
    assert!(words.contains("Hello, world! 1\n"), "{words}");
    assert!(words.contains("info  hello says \"Hello\", generation 7\n"), "the log: {words}");
}

#[test]
fn a_start_with_the_wrong_ports_is_refused_in_words() {
    let words = ended("ports").1;
    for refusal in [
        "export port `control` (Control) of the domain isn't wired",
        "the manifest wires an export port `net`, which the domain doesn't have",
        "export port `control` is wired as Net, the domain has it as Control",
        "export port `control`: the kernel's Control (0000000000000001) isn't the image's (",
    ] {
        assert!(words.contains(refusal), "{refusal}: {words}");
    }
}

#[test]
fn a_start_with_an_unreadable_configuration_is_refused_in_words() {
    assert!(ended("config").1.contains("the compiled configuration can't be read: "));
}

#[test]
fn a_panic_ends_the_domain_with_its_words() {
    let (output, words) = ended("panic");
    assert_eq!(output.status.code(), Some(100), "{words}");
    assert!(words.contains("crash 1: panicked at ") && words.contains("fault injected from the console"), "{words}");
}

/// Neither recursion nor silence: the place of the second panic is what is said.
#[test]
fn a_panic_while_a_panics_words_are_formatted_ends_the_domain_too() {
    let (output, words) = ended("fail");
    assert_eq!(output.status.code(), Some(100), "{words}");
    assert!(words.contains("crash 1: panicked at testbed/domains/hello/src/lib.rs:"), "{words}");
    assert!(words.contains("while the words of a panic were being formatted"), "{words}");
}

#[test]
fn an_exhausted_quota_is_told_from_a_panic() {
    let (output, words) = ended("quota");
    assert_eq!(output.status.code(), Some(100), "{words}");
    assert!(words.contains("crash 5: ") && words.contains("memory allocation of 65536 bytes failed"), "{words}");
}

#[test]
fn an_injected_page_fault_is_one() {
    assert_eq!(ended("page-fault").0.status.signal(), Some(libc::SIGSEGV));
}

#[test]
fn an_injected_cpu_exception_is_one() {
    assert_eq!(ended("cpu-exception").0.status.signal(), Some(libc::SIGILL));
}

/// The host's runtime tells a fault in the guard page from others.
#[test]
fn an_injected_stack_overflow_reaches_the_guard_page() {
    let (output, words) = ended("stack-overflow");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{words}");
    assert!(words.contains("has overflowed its stack"), "{words}");
}

#[test]
fn an_injected_endless_loop_does_not_end() {
    assert!(scene("watchdog", Duration::from_millis(500)).is_none());
}

#[test]
fn a_kill_is_no_fault_to_inject() {
    // Also where children begin.
    if let Ok(scene) = std::env::var("DOMAIN_SCENE") {
        return play(&scene);
    }
    assert!(ended("killed").1.contains("came back"));
}
