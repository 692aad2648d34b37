//! The two serial ports (16550): COM1 is the operator's console, COM2 the feed for the lab.
//!
//! Bytes go out by polling, so none is lost; they come in by interrupt, into a queue.

use core::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use kernel_core::interrupt::Vector;
use metal::queue::ByteQueue;
use x86_64::instructions::port::Port;

use crate::lock::SpinLock;

const LINE_DATA_READY: u8 = 1;
const LINE_TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Bytes that fit into the transmitter once it is empty.
const FIFO: usize = 16;
/// Looks at the line's state before a port counts as stuck: at 115,200 baud one FIFO takes 1.4 ms.
const PATIENCE: usize = 1 << 20;

pub struct SerialPort {
    base: u16,
    present: bool,
}

impl SerialPort {
    const fn new(base: u16) -> Self {
        Self { base, present: false }
    }

    fn register(&self, offset: u16) -> Port<u8> {
        Port::new(self.base + offset)
    }

    /// Finds the port and sets 115,200 baud, 8 bits, no parity, FIFOs on.
    fn start(&mut self) {
        const SCRATCH: u8 = 0x5a;
        // SAFETY: these ports belong to the UART by convention; where there is none the scratch register doesn't hold.
        unsafe {
            self.register(7).write(SCRATCH);
            self.present = self.register(7).read() == SCRATCH;
            if !self.present {
                return;
            }
            self.register(1).write(0);
            self.register(3).write(0x80);
            self.register(0).write(1);
            self.register(1).write(0);
            self.register(3).write(0x03);
            self.register(2).write(0xc7);
            // DTR, RTS, and OUT2, which lets the interrupt through.
            self.register(4).write(0x0b);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if !self.present {
            return;
        }
        for chunk in bytes.chunks(FIFO) {
            // SAFETY: reading the line status has no effect on sending.
            let ready = (0..PATIENCE).any(|_| unsafe { self.register(5).read() } & LINE_TRANSMITTER_EMPTY != 0);
            if !ready {
                return;
            }
            for byte in chunk {
                // SAFETY: the transmitter has room for a FIFO's worth.
                unsafe { self.register(0).write(*byte) };
            }
        }
    }

    fn read(&mut self) -> Option<u8> {
        // SAFETY: reading the data register takes the byte that the line status announces.
        unsafe { (self.present && self.register(5).read() & LINE_DATA_READY != 0).then(|| self.register(0).read()) }
    }
}

static CONSOLE: SpinLock<SerialPort> = SpinLock::new(SerialPort::new(0x3f8));
static FEED: SpinLock<SerialPort> = SpinLock::new(SerialPort::new(0x2f8));
static TYPED: SpinLock<ByteQueue<1024>> = SpinLock::new(ByteQueue::new());
static TYPED_EVENT: Vector = Vector::new();
static PANICKING: AtomicBool = AtomicBool::new(false);

/// The ISA interrupt of COM1.
pub const CONSOLE_ISA_INTERRUPT: u8 = 4;

pub fn start() {
    CONSOLE.lock().start();
    FEED.lock().start();
}

/// Lets COM1 raise its interrupt when bytes have come.
pub fn listen() {
    let console = CONSOLE.lock();
    if console.present {
        // SAFETY: the handler is in place; bit 0 asks for "received data available".
        unsafe { console.register(1).write(1) };
    }
}

/// COM1's interrupt.
pub fn console_interrupt() {
    let mut console = CONSOLE.lock();
    let mut typed = TYPED.lock();
    while let Some(byte) = console.read() {
        typed.push(byte);
    }
    drop((console, typed));
    TYPED_EVENT.fire();
}

/// Fires when something was typed.
pub fn console_vector() -> &'static Vector {
    &TYPED_EVENT
}

/// What was typed, as much as there is and fits.
pub fn console_read(bytes: &mut [u8]) -> usize {
    let mut typed = TYPED.lock();
    let mut count = 0;
    while count < bytes.len()
        && let Some(byte) = typed.pop()
    {
        bytes[count] = byte;
        count += 1;
    }
    count
}

/// Writes by whole FIFOs, so that interrupts aren't kept waiting for the length of a page of text.
fn write(port: &SpinLock<SerialPort>, bytes: &[u8]) {
    for chunk in bytes.chunks(FIFO) {
        if PANICKING.load(Ordering::Relaxed) {
            // The lock's holder may have been stopped; a mangled line is better than none.
            if let Some(mut port) = port.lock_within(PATIENCE) {
                port.write(chunk);
            }
        } else {
            port.lock().write(chunk);
        }
    }
}

pub fn console_write(bytes: &[u8]) {
    write(&CONSOLE, bytes);
}

pub fn feed_write(bytes: &[u8]) {
    write(&FEED, bytes);
}

/// From here on a lock that isn't let go doesn't keep a message back.
pub fn panicking() {
    PANICKING.store(true, Ordering::Relaxed);
}

/// The console as a place for formatted text; ends lines as terminals want it.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            console_write(&rest[..end]);
            console_write(b"\r\n");
            rest = &rest[end + 1..];
        }
        console_write(rest);
        Ok(())
    }
}
