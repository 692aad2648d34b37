//! What the isolation tests and the benchmark of calls need to say to a domain. No appliance uses it.

use crate::{
    Borrowed, CallError, Cap, Exchangeable, Nested, RRef,
    collections::{Bytes, Deque},
    interface,
    packet::Batch,
};

/// A word on the exchange heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Exchangeable)]
pub struct Word(pub u64);

// SAFETY: not generic, and all of its bytes are a number.
unsafe impl crate::rref::Returnable for Word {}

/// An object with others in it.
#[derive(Exchangeable)]
pub struct Parcel {
    pub number: u64,
    pub word: Nested<Word>,
    pub batch: Option<Nested<Batch>>,
    pub texts: Deque<Nested<Bytes>, 4>,
}

/// What a probe is to do, in its own code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum Deed {
    Panic,
    IndexOutOfBounds,
    Unwrap,
    Overflow,
    DivideByZero,
    StackOverflow,
    /// Allocates from the private heap until the quota refuses.
    Hoard,
    /// Allocates on the exchange heap until the quota refuses, and keeps it.
    HoardExchange,
    /// Has the next probe make objects until that is refused, and keeps them; then passes one of them there and back.
    HoardResults,
    /// Computes for ever, calling nobody.
    Spin,
    /// Calls back and forth for ever.
    SpinWithCalls,
    /// Sleeps for so many nanoseconds.
    Sleep(u64),
    /// Starts a thread that spins, on the domain's first CPU.
    SpawnSpinner,
    /// Starts a thread that sleeps for ever.
    SpawnSleeper,
    /// Starts a thread that calls the next probe for ever.
    SpawnCaller,
    /// Waits for a word that nobody changes.
    WaitForever,
    /// Keeps so many objects on the exchange heap.
    Keep(u32),
    /// Keeps so many packets.
    KeepPackets(u32),
    /// Keeps a handle of the next probe.
    KeepHandle,
    /// From now on a handle that is dropped waits for ever.
    Cling,
    /// Keeps so many parcels, each with everything in it: six objects and two packets.
    KeepParcels(u32),
    /// Lends a word to the next probe for so many nanoseconds.
    Lend(u64),
    /// Lends what is nested in a parcel, in the same way.
    LendNested(u64),
    /// Starts a thread that lends the first word that was kept to the next probe, for so many nanoseconds.
    SpawnLender(u64),
    /// Lends the first word that was kept, in the same way.
    LendKept(u64),
    /// Gives a word to the next probe, which keeps it and waits for ever.
    GiveAndWait,
    /// Asks for what it moves into calls that fail.
    WantBack,
    /// Takes everything out of a parcel, gives the word to the next probe, and panics.
    TakeAndPanic,
    /// Puts a word into a parcel, keeps the parcel, and panics.
    PutAndPanic,
    /// Gives a parcel to the next probe, and panics.
    PostAndPanic,
    /// What services do all day: formats, copies, sorts, allocates on both heaps, fills packets, calls, logs; another mix for each number.
    Work(u64),
    /// Overflows the stack in the library's code: a text that is written by writing itself.
    OverflowInLibrary,
    /// Overflows the stack with a round of work at every depth, so that the last of it is touched wherever it may be: in allocations, in the kernel's entries.
    OverflowAtWork,
    /// Says that it is here (`is_staying`), and computes for ever.
    Stay,
    Nothing,
}

impl Deed {
    /// Those of which a domain dies at once.
    pub const DEADLY: [Deed; 9] = [
        Deed::Panic,
        Deed::IndexOutOfBounds,
        Deed::Unwrap,
        Deed::Overflow,
        Deed::DivideByZero,
        Deed::StackOverflow,
        Deed::OverflowInLibrary,
        Deed::OverflowAtWork,
        Deed::Hoard,
    ];
}

/// Where in its code a probe does a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum Place {
    /// In the method that was called.
    Method,
    /// On the way back: when a callee of its own has just answered.
    AfterACall,
    /// In a `Display`, which the library calls.
    Formatting,
    /// In a `Display` again, of a panic's message.
    LastWords,
    /// In a comparison, amid a sort.
    Sorting,
    /// In a destructor.
    Dropping,
    /// With objects, packets and nested objects in its hands.
    WithObjects,
    /// With an object lent that is its own.
    Lending,
    /// With handles of the next domain's.
    WithHandles,
    /// With a lock that others of its threads wait for.
    WithALock,
    /// In a thread of its own, while the visitor waits for that.
    InAThread,
}

impl Place {
    pub const ALL: [Place; 11] = [
        Place::Method,
        Place::AfterACall,
        Place::Formatting,
        Place::LastWords,
        Place::Sorting,
        Place::Dropping,
        Place::WithObjects,
        Place::Lending,
        Place::WithHandles,
        Place::WithALock,
        Place::InAThread,
    ];
}

/// What a probe heard from the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Exchangeable)]
pub enum Relayed {
    Done,
    Failed(CallError),
}

/// A domain under test.
#[interface]
pub trait Probe {
    /// The least call: gives `word + 1` back.
    fn next(&self, word: u64) -> Result<u64, CallError>;

    /// Gives an object back, changed.
    fn pass(&self, word: RRef<Word>) -> Result<RRef<Word>, CallError>;

    /// Makes an object.
    fn make(&self, word: u64) -> Result<RRef<Word>, CallError>;

    /// Gives an object back that has others in it, changed and with what was put last taken out first.
    fn repack(&self, parcel: RRef<Parcel>) -> Result<RRef<Parcel>, CallError>;

    /// Keeps a parcel for good.
    fn post(&self, parcel: RRef<Parcel>) -> Result<(), CallError>;

    /// Looks at a word, for so many nanoseconds; what it is then.
    fn look(&self, word: Borrowed<'_, Word>, nanos: u64) -> Result<u64, CallError>;

    /// Looks at a word and commits the deed while it is lent.
    fn look_and_act(&self, word: Borrowed<'_, Word>, deed: Deed) -> Result<u64, CallError>;

    /// Lends on what was lent to it, `depth` probes further.
    fn look_on(&self, word: Borrowed<'_, Word>, depth: u32, nanos: u64) -> Result<u64, CallError>;

    /// Has the next probe do the least call, as a shadow passes a call on.
    fn forward(&self, word: u64) -> Result<u64, CallError>;

    /// Moves a batch in and back out.
    fn ferry(&self, batch: RRef<Batch>) -> Result<RRef<Batch>, CallError>;

    /// The sum of the words in all parcels that are kept, and their number.
    fn weigh(&self) -> Result<(u64, u64), CallError>;

    /// Keeps an object for good.
    fn keep(&self, word: RRef<Word>) -> Result<(), CallError>;

    /// Keeps an object for good, and does the deed.
    fn keep_and_act(&self, word: RRef<Word>, deed: Deed) -> Result<(), CallError>;

    /// Does it.
    fn act(&self, deed: Deed) -> Result<(), CallError>;

    /// Has the next probe do it, `depth` domains further on (0: itself); what came back from there is the answer.
    fn relay(&self, depth: u32, deed: Deed) -> Result<Relayed, CallError>;

    /// Does it at this place, `depth` domains further on (0: itself).
    fn act_at(&self, depth: u32, place: Place, deed: Deed) -> Result<Relayed, CallError>;

    /// Does it with what was given to it in its hands.
    fn act_with(&self, word: RRef<Word>, parcel: RRef<Parcel>, deed: Deed) -> Result<RRef<Word>, CallError>;

    /// Whether some thread stays, as `Deed::Stay` says.
    fn is_staying(&self) -> Result<bool, CallError>;

    /// A handle.
    fn handle(&self) -> Result<Cap<dyn ProbeHandle>, CallError>;

    /// Keeps a handle for good.
    fn hold(&self, handle: Cap<dyn ProbeHandle>) -> Result<(), CallError>;

    /// The domain's generation, and how many handles of it are alive.
    fn census(&self) -> Result<(u64, u64), CallError>;
}

/// A handle that a probe makes.
#[interface]
pub trait ProbeHandle {
    /// The least call by a handle.
    fn next(&mut self, word: u64) -> Result<u64, CallError>;

    /// Does it.
    fn act(&mut self, deed: Deed) -> Result<(), CallError>;
}
