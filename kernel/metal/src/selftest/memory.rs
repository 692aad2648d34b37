//! Pages, mappings and their protection, the memory functions.

use alloc::{vec, vec::Vec};

use kernel_core::platform::{Mapped, Mapping, PAGE, Platform, Protected, Protection};
use x86_64::instructions::random::RdRand;

use super::{Outcome, Test, catch, crew};
use crate::{
    check, cpu,
    memory::{
        self, Owner, direct, paging,
        paging::Access,
        window::{self, Area},
    },
    platform::Metal,
};

pub const TESTS: &[Test] = &[
    ("memory functions keep C's contracts", memory_functions),
    ("pages are counted to the last one", pages_are_counted),
    ("mappings arrive zeroed", mappings_arrive_zeroed),
    ("guard pages surround every window mapping", guards_surround),
    ("the kernel's image is W^X, in the direct map too", image_is_write_xor_execute),
    ("protection holds on all CPUs when it returns", protection_holds_everywhere),
    ("an unmapped page is gone on all CPUs", unmapped_is_gone_everywhere),
    ("memory that runs out is an error, and all of it comes back", running_out),
    ("secrets come from the CPU's source if it has one, another each time", secrets_differ),
];

fn secrets_differ() -> Outcome {
    let secrets: Vec<_> = (0..4).map(|_| Metal.entropy()).collect();
    let has_source = RdRand::new().is_some();
    check!(
        secrets.iter().all(|entropy| entropy.is_strong == has_source),
        "RDRAND is there: {has_source}; it was used, or not"
    );
    let differ = |i: usize| secrets[..i].iter().all(|entropy| entropy.secret != secrets[i].secret);
    check!((0..4).all(differ), "two secrets are the same");
    Ok(())
}

#[expect(clippy::manual_memcpy, reason = "what is tested mustn't say what is right")]
fn memory_functions() -> Outcome {
    use crate::intrinsics::{memcmp, memcpy, memmove, memset};
    let pattern: Vec<u8> = (0..2000usize).map(|index| (index * 7 + index / 251) as u8).collect();
    for count in (0..70).chain([127, 128, 129, 511, 512, 513, 600]) {
        for (from, to) in [(0, 0), (3, 700), (1, 5), (5, 1), (0, 16), (16, 0), (2, 33), (40, 9), (8, 900)] {
            let mut wanted = pattern.clone();
            for index in 0..count {
                wanted[to + index] = pattern[from + index];
            }
            let mut moved = pattern.clone();
            // SAFETY: both ranges lie inside the vector.
            unsafe { memmove(moved.as_mut_ptr().add(to), moved.as_ptr().add(from), count) };
            check!(moved == wanted, "memmove of {count} from {from} to {to}");
            let mut copied = pattern.clone();
            // SAFETY: both ranges lie inside their vectors, which are two.
            unsafe { memcpy(copied.as_mut_ptr().add(to), pattern.as_ptr().add(from), count) };
            check!(copied == wanted, "memcpy of {count} from {from} to {to}");
        }
        let mut filled = pattern.clone();
        // SAFETY: inside the vector.
        unsafe { memset(filled.as_mut_ptr().add(9), 0x1a5, count) };
        check!(filled[9..9 + count].iter().all(|byte| *byte == 0xa5), "memset of {count}");
        check!(
            filled[8] == pattern[8] && filled[9 + count..] == pattern[9 + count..],
            "memset of {count} writes beyond"
        );
        for place in (0..count).step_by(5) {
            let mut other = pattern.clone();
            other[place] ^= 0x80;
            // SAFETY: inside both vectors.
            let order = unsafe { memcmp(pattern.as_ptr(), other.as_ptr(), count) };
            check!((order < 0) == (pattern[place] < other[place]) && order != 0, "memcmp of {count} at {place}");
        }
        // SAFETY: as above.
        check!(unsafe { memcmp(pattern.as_ptr(), pattern.clone().as_ptr(), count) } == 0, "memcmp of {count}, equal");
    }
    Ok(())
}

fn pages_are_counted() -> Outcome {
    let platform = Metal;
    // Tables for the window's addresses stay once they are there.
    for warm in [true, false] {
        let before = platform.pages();
        let mut mappings = Vec::new();
        let mut held = 0;
        for (pages, kind) in
            [(1, Mapping::Heap), (33, Mapping::Heap), (5, Mapping::Image), (16, Mapping::Stack), (700, Mapping::Image)]
        {
            let Some(first) = platform.map(pages, kind) else { return Err("no memory".into()) };
            mappings.push(Mapped { first, pages, kind });
            held += pages;
            check!(platform.pages().used == before.used + held, "{pages} pages of {kind:?} are counted wrongly");
        }
        let Some(dma) = platform.dma_map(7) else { return Err("no memory for devices".into()) };
        check!(platform.pages().used == before.used + held + 7, "device memory is counted wrongly");
        check!(dma.bus == memory::physical_of(dma.address.as_ptr()), "the bus address is not the physical one");
        // SAFETY: mapped above, and nobody uses them.
        unsafe {
            platform.dma_unmap(dma);
            platform.unmap(&mappings);
        }
        let after = platform.pages();
        check!(after.used == before.used, "{} pages used before, {} after", before.used, after.used);
        check!(warm || after.free == before.free, "{} pages free before, {} after", before.free, after.free);
    }
    Ok(())
}

fn mappings_arrive_zeroed() -> Outcome {
    let platform = Metal;
    for round in 0..4 {
        for kind in [Mapping::Heap, Mapping::Image, Mapping::Stack] {
            let Some(first) = platform.map(3, kind) else { return Err("no memory".into()) };
            // SAFETY: three pages, just mapped; given back with nobody using them.
            unsafe {
                let bytes = core::slice::from_raw_parts_mut(first.as_ptr(), 3 * PAGE);
                check!(bytes.iter().all(|byte| *byte == 0), "{kind:?} in round {round} isn't zeroed");
                bytes.fill(0xee);
                platform.unmap(&[Mapped { first, pages: 3, kind }]);
            }
        }
    }
    Ok(())
}

fn guards_surround() -> Outcome {
    let Some(start) = window::map(2, Owner::Test) else { return Err("no memory".into()) };
    let neighbour = window::map(1, Owner::Test);
    check!(paging::access_at(start - 1).is_none(), "the page before is mapped");
    check!(paging::access_at(start) == Some(Access::ReadWrite), "the first page isn't read-write");
    check!(paging::access_at(start + 2 * PAGE as u64).is_none(), "the page behind is mapped");
    let neighbour = neighbour.map(|start| (start, 1));
    let areas =
        [(start, 2)].into_iter().chain(neighbour).map(|(start, pages)| Area { start, pages, owner: Owner::Test });
    // SAFETY: mapped above, unused.
    unsafe { window::unmap(areas) };
    Ok(())
}

fn image_is_write_xor_execute() -> Outcome {
    const BASE: u64 = 0xffff_ffff_8000_0000;
    static CONSTANT: [u8; 64] = [7; 64];
    static mut VARIABLE: u64 = 0;
    let text = image_is_write_xor_execute as *const () as u64;
    let constant = &raw const CONSTANT as u64;
    let variable = &raw const VARIABLE as u64;
    for (what, at, wanted) in [
        ("text", text, Access::ReadExecute),
        ("text in the direct map", text - BASE + memory::DIRECT_MAP, Access::ReadOnly),
        ("constants", constant, Access::ReadOnly),
        ("constants in the direct map", constant - BASE + memory::DIRECT_MAP, Access::ReadOnly),
        ("data", variable, Access::ReadWrite),
        ("the heap", vec![0u8; 8].as_ptr() as u64, Access::ReadWrite),
    ] {
        check!(paging::access_at(at) == Some(wanted), "{what} is {:?}, not {wanted:?}", paging::access_at(at));
    }
    check!(paging::access_at(0x1000).is_none(), "low addresses are still mapped");
    extern "C" fn write_text() {
        // SAFETY: faults, which is what the test is for.
        unsafe { (write_text as *const () as *mut u8).write_volatile(0) };
    }
    let caught = catch::run(write_text);
    check!(caught.is_some_and(|caught| caught.vector == 14), "writing text gives {caught:?}");
    Ok(())
}

/// Where the functions below reach: one page of an image.
static TARGET: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

fn target() -> u64 {
    TARGET.load(core::sync::atomic::Ordering::SeqCst)
}

extern "C" fn write_target() {
    // SAFETY: a page of the test's own, or a fault that is caught.
    unsafe { (target() as *mut u8).write_volatile(0xc3) };
}

extern "C" fn read_target() {
    // SAFETY: as above.
    unsafe { (target() as *const u8).read_volatile() };
}

extern "C" fn call_target() {
    // SAFETY: the page begins with a `ret`, or the call faults and is caught.
    let function: extern "C" fn() = unsafe { core::mem::transmute(target()) };
    function();
}

/// What `body` meets on each CPU: the vectors of the exceptions, in the order of the CPUs.
fn on_every_cpu(body: extern "C" fn()) -> Result<Vec<Option<u8>>, alloc::string::String> {
    use alloc::sync::Arc;
    let mut seen = Vec::new();
    for cpu in 0..cpu::count() {
        let result = Arc::new(crate::lock::SpinLock::new(None));
        let theirs = result.clone();
        let worker = crew::spawn(cpu, kernel_core::platform::Priority::Normal, move || {
            let caught = catch::run(body).map(|caught| caught.vector);
            *theirs.lock() = Some(caught);
        });
        worker.join()?;
        let outcome = result.lock().take();
        seen.push(outcome.flatten());
    }
    Ok(seen)
}

fn protection_holds_everywhere() -> Outcome {
    let platform = Metal;
    let Some(first) = platform.map(1, Mapping::Image) else { return Err("no memory".into()) };
    TARGET.store(first.as_ptr() as u64, core::sync::atomic::Ordering::SeqCst);
    const NOTHING: Option<u8> = None;
    const FAULT: Option<u8> = Some(14);
    for (protection, write, call) in [
        (Protection::ReadWrite, NOTHING, FAULT),
        (Protection::ReadExecute, FAULT, NOTHING),
        (Protection::ReadOnly, FAULT, FAULT),
        (Protection::ReadWrite, NOTHING, FAULT),
    ] {
        // SAFETY: one page of an image of our own.
        unsafe { platform.protect(&[Protected { first, pages: 1, protection }]) };
        for (what, body, wanted) in [
            ("writing", write_target as extern "C" fn(), write),
            ("calling", call_target, call),
            ("reading", read_target, NOTHING),
        ] {
            let seen = on_every_cpu(body)?;
            check!(seen.iter().all(|vector| *vector == wanted), "{what} a {protection:?} page gives {seen:?}");
        }
    }
    // SAFETY: mapped above, unused.
    unsafe { platform.unmap(&[Mapped { first, pages: 1, kind: Mapping::Image }]) };
    Ok(())
}

fn unmapped_is_gone_everywhere() -> Outcome {
    let platform = Metal;
    let Some(first) = platform.map(1, Mapping::Image) else { return Err("no memory".into()) };
    TARGET.store(first.as_ptr() as u64, core::sync::atomic::Ordering::SeqCst);
    check!(on_every_cpu(read_target)?.iter().all(Option::is_none), "a mapped page can't be read");
    // SAFETY: mapped above, unused.
    unsafe { platform.unmap(&[Mapped { first, pages: 1, kind: Mapping::Image }]) };
    let seen = on_every_cpu(read_target)?;
    check!(seen.iter().all(|vector| *vector == Some(14)), "reading an unmapped page gives {seen:?}");
    Ok(())
}

fn running_out() -> Outcome {
    let mut runs = Vec::with_capacity(1 << 16);
    let before = memory::free_pages();
    let mut size = 1 << 18;
    while size > 0 {
        match memory::allocate(size, Owner::Test) {
            Ok(run) if runs.len() < runs.capacity() => runs.push(run),
            Ok(run) => {
                // SAFETY: just taken, unused.
                let _ = unsafe { memory::free(run, Owner::Test) };
                break;
            }
            Err(_) => size /= 2,
        }
    }
    check!(memory::free_pages() == 0, "{} pages can't be had", memory::free_pages());
    check!(window::map(1, Owner::Test).is_none(), "a mapping without memory");
    check!(Metal.map(1, Mapping::Heap).is_none(), "heap pages without memory");
    for run in runs {
        // SAFETY: taken above, never touched.
        check!(unsafe { memory::free(run, Owner::Test) }.is_ok(), "a run can't be given back");
    }
    check!(memory::free_pages() == before, "{before} pages free before, {} after", memory::free_pages());
    // SAFETY: the direct map reaches every page of RAM, and this one is ours for the moment.
    let page = memory::allocate(1, Owner::Test).map_err(|error| alloc::format!("{error:?}"))?;
    // SAFETY: as said.
    unsafe {
        direct(page).write_volatile(1);
        let _ = memory::free(page, Owner::Test);
    }
    Ok(())
}
