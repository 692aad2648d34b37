//! The capability table: what each handle that was minted at run time stands for, who made it and who holds it.
//!
//! A handle is the address of a proxy in the kernel's memory. Letting go of one queues a contained visit to its maker, which drops the object; after the
//! maker's death the handle errs for ever and costs only its entry, until its holder lets go of it or dies.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    vec::Vec,
};
use core::{
    any::Any,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use interfaces::{
    Cap, Interface,
    abi::RawObject,
    gate::{Callable, KernelGate, KernelInterface},
};

use crate::{
    call::{self, SlotGate},
    incarnation::{Incarnation, Owner},
    lock::Lock,
    record::PortRecord,
    supervisor,
    table::{enter_kernel, leave_kernel},
    thread::MAX_DOMAINS,
};

struct Entry {
    holder: Owner,
    stands_for: StandsFor,
}

enum StandsFor {
    /// An object in its maker's heap.
    Object { gate: Box<SlotGate>, record: &'static PortRecord, maker: Arc<Incarnation> },
    /// An object in the kernel.
    KernelObject { gate: Box<ObjectGate>, owned: Box<dyn Any + Send> },
}

/// By the address of the proxy, which is that of its gate.
static TABLE: Lock<BTreeMap<usize, Entry>> = Lock::new(BTreeMap::new());

/// How many handles each domain's generations hold, and how many they may. (Of the kernel's objects there are as many as the domain's device has of queues and
/// vectors; but they count.)
struct Account {
    held: AtomicU32,
    limit: AtomicU32,
}

static ACCOUNTS: [Account; MAX_DOMAINS] =
    [const { Account { held: AtomicU32::new(0), limit: AtomicU32::new(u32::MAX) } }; MAX_DOMAINS];

impl Account {
    fn of(holder: Owner) -> &'static Account {
        &ACCOUNTS[holder.domain() % MAX_DOMAINS]
    }
}

pub(crate) fn set_limit(domain: usize, handles: u32) {
    ACCOUNTS[domain].limit.store(handles, Ordering::Relaxed);
}

/// Whether a domain may hold so many handles more.
pub(crate) fn has_room(holder: Owner, handles: u32) -> bool {
    let account = Account::of(holder);
    account.held.load(Ordering::Relaxed).saturating_add(handles) <= account.limit.load(Ordering::Relaxed)
}

/// Enters a handle into the table.
fn enter(address: NonNull<impl Sized>, entry: Entry) {
    Account::of(entry.holder).held.fetch_add(1, Ordering::Relaxed);
    TABLE.lock().insert(address.as_ptr().addr(), entry);
}

/// Takes one out of it.
fn take_out(table: &mut BTreeMap<usize, Entry>, address: usize) -> Option<Entry> {
    let entry = table.remove(&address)?;
    Account::of(entry.holder).held.fetch_sub(1, Ordering::Relaxed);
    Some(entry)
}

/// What waits for its maker's visit.
static RELEASES: Lock<VecDeque<Release>> = Lock::new(VecDeque::new());

pub(crate) struct Release {
    pub record: &'static PortRecord,
    pub maker: Arc<Incarnation>,
    gate: Box<SlotGate>,
}

impl Release {
    /// The object's visit, from a kernel thread; then the record is retired. No frame names the record.
    pub(crate) fn carry_out(self) {
        let object = self.record.object();
        if let Some(hook) = self.maker.hooks().release {
            // The outcome doesn't matter: a maker that dies of it is reclaimed with all its objects.
            // SAFETY: the object was boxed by its maker for `Cap::new`, and nobody can call it any more.
            let _ = call::visit(&call::base_gate(&self.maker), |_| unsafe { hook(object) });
        }
        self.give_up();
    }

    /// The maker is dead: its object is gone with it.
    pub(crate) fn give_up(self) {
        self.record.retire();
        drop(self.gate);
    }
}

/// Puts a proxy in front of an object that its maker gives away.
pub(crate) fn mint<I: ?Sized + Callable>(cap: &mut Cap<I>, maker: &Incarnation, holder: Owner) {
    let maker = maker.shared();
    let record = PortRecord::new(maker.clone(), I::to_raw(cap.address().as_ptr()));
    let mut gate = Box::new(SlotGate::capability(record));
    let address = NonNull::from(&mut *gate);
    let entry = Entry { holder, stands_for: StandsFor::Object { gate, record, maker } };
    enter(address, entry);
    // SAFETY: the proxy is in the table, where `release` finds it. The object itself is the record's now.
    unsafe { cap.replace(I::proxy(address)) };
}

/// A handle goes from one holder to another.
pub(crate) fn pass(proxy: *mut u8, from: Owner, to: Owner) {
    if let Some(entry) = TABLE.lock().get_mut(&proxy.addr())
        && entry.holder == from
    {
        entry.holder = to;
        Account::of(from).held.fetch_sub(1, Ordering::Relaxed);
        Account::of(to).held.fetch_add(1, Ordering::Relaxed);
    }
}

/// The holder lets go of a handle.
pub(crate) fn release(proxy: *mut u8, holder: Owner) {
    let entry = {
        let mut table = TABLE.lock();
        match table.get(&proxy.addr()) {
            Some(entry) if entry.holder == holder => take_out(&mut table, proxy.addr()),
            _ => None,
        }
    };
    if let Some(entry) = entry {
        bury(entry);
    }
}

fn bury(entry: Entry) {
    match entry.stands_for {
        StandsFor::Object { gate, record, maker } => {
            RELEASES.lock().push_back(Release { record, maker, gate });
            supervisor::notice();
        }
        StandsFor::KernelObject { gate, owned } => {
            drop(gate);
            // Device crates clean up here; they hold no lock of the core.
            drop(owned);
        }
    }
}

/// Lets go of everything that a dead incarnation held; returns how many handles that were.
pub(crate) fn reclaim(holder: Owner) -> usize {
    let held: Vec<Entry> = {
        let mut table = TABLE.lock();
        let addresses: Vec<usize> =
            table.iter().filter(|(_, entry)| entry.holder == holder).map(|(address, _)| *address).collect();
        addresses.into_iter().filter_map(|address| take_out(&mut table, address)).collect()
    };
    let count = held.len();
    held.into_iter().for_each(bury);
    count
}

/// What waits for its maker's visit, to be carried out by the caller.
pub(crate) fn releases() -> VecDeque<Release> {
    core::mem::take(&mut *RELEASES.lock())
}

/// Puts back what couldn't be carried out yet.
pub(crate) fn postpone(release: Release) {
    RELEASES.lock().push_back(release);
}

/// Handles that a domain's generations hold, and all there are.
pub fn counts(domain: usize) -> (usize, usize) {
    let table = TABLE.lock();
    (table.values().filter(|entry| entry.holder.domain() == domain).count(), table.len())
}

/// The gate in front of a kernel object: counts the depth, so that the thread isn't diverted inside.
#[repr(C)]
pub struct ObjectGate {
    object: RawObject,
}

// SAFETY: kernel objects guard themselves; handles with `&mut self` methods are used by one thread at a time.
unsafe impl Send for ObjectGate {}
// SAFETY: as above.
unsafe impl Sync for ObjectGate {}

// SAFETY: the depth is counted between `enter` and `leave`, and `leave` goes back only into a live domain. `hand_out` keeps object and interface together.
unsafe impl KernelGate for ObjectGate {
    fn object(&self) -> RawObject {
        self.object
    }

    #[inline(always)]
    fn enter(&self) {
        enter_kernel();
    }

    #[inline(always)]
    fn leave(&self) {
        leave_kernel();
    }

    fn hand_out<I: ?Sized + KernelInterface>(&self, cap: Cap<I>) -> Cap<I> {
        if !cap.is_local() {
            return cap;
        }
        let object = cap.into_raw();
        // SAFETY: the object was boxed by `Cap::new` in this image, and it is ours alone now. The proxy is in the table.
        unsafe { Cap::from_proxy(hand_out(Box::from_raw(object.as_ptr()), call::acting_owner()).cast_interface()) }
    }
}

/// A proxy of a kernel object.
pub(crate) struct Handed<I: ?Sized>(NonNull<I>);

impl<I: ?Sized> Handed<I> {
    fn cast_interface(self) -> NonNull<I> {
        self.0
    }
}

impl<I: ?Sized + Interface> Handed<I> {
    pub(crate) fn raw(&self) -> RawObject {
        I::to_raw(self.0.as_ptr())
    }
}

/// A boxed kernel object as something to drop.
struct Owned<I: ?Sized>(#[allow(dead_code, reason = "kept for its drop")] Box<I>);

/// Puts a proxy in front of a kernel object, held by `holder`.
pub(crate) fn hand_out<I: ?Sized + KernelInterface>(mut object: Box<I>, holder: Owner) -> Handed<I> {
    let mut gate = Box::new(ObjectGate { object: I::to_raw(&raw mut *object) });
    let address = NonNull::from(&mut *gate);
    let entry = Entry { holder, stands_for: StandsFor::KernelObject { gate, owned: Box::new(Owned(object)) } };
    enter(address, entry);
    Handed(I::proxy(address))
}
