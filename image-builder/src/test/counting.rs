//! The part of the qemu tier that is about the counter of guest instructions (`testbed/counter`): a guest of known length, in the place of the firmware.

use super::{Outcome, Tally};
use counter::Counter;
use prefix::{Prefix, Tool};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// On a machine under load.
const PATIENCE: Duration = Duration::from_secs(120);

/// Rounds of the loops of the first two CPUs; the third one's has no end.
const ROUNDS: [u32; 2] = [30_000_000, 300_000];
/// What the first two execute: those of the loops, and those around them.
const EXECUTED: [u64; 2] = [19 + 2 * ROUNDS[0] as u64, 3 + 2 * ROUNDS[1] as u64];

/// Where the 64 KiB lie that a PC begins in: below 4 GiB, and once more below 1 MiB.
const ROM: u32 = 0xffff_0000;
const ROM_BYTES: usize = 0x1_0000;

pub fn run(tally: &mut Tally) {
    tally.check("a guest's instructions are counted to the last one, each CPU's for itself", || {
        Outcome::from(counts().map_err(|error| error.to_string()))
    });
}

/// Ended with whoever started it.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn counts() -> Result<(), Box<dyn std::error::Error>> {
    // A comma, which QEMU's options take for their own.
    let folder = tempfile::Builder::new().prefix("counted,").tempdir()?;
    let rom = folder.path().join("rom");
    std::fs::write(&rom, program())?;
    let counter = Counter::prepare(folder.path())?;
    let mut command = Prefix::ensure(&[Tool::Qemu])?.command("qemu-system-x86_64")?;
    command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "3", "-m", "64M"]);
    command.args(["-nodefaults", "-display", "none", "-bios"]).arg(&rom).args(counter.arguments());
    let mut guest = Guest(command.stdin(Stdio::null()).spawn()?);
    let deadline = Instant::now() + PATIENCE;
    // The first two halt; the third one shows that reading needs no stop.
    let halted = loop {
        match counter.read() {
            Ok(counts) if counts.len() != 3 => return Err(format!("three CPUs, and {counts:?}").into()),
            Ok(counts) if counts[0] > EXECUTED[0] || counts[1] > EXECUTED[1] => {
                return Err(format!("{counts:?}, where the first two are to have {EXECUTED:?}").into());
            }
            Ok(counts) if counts[..2] == EXECUTED => break counts,
            outcome if Instant::now() > deadline => {
                return Err(format!("{outcome:?} after {} s, and not {EXECUTED:?}", PATIENCE.as_secs()).into());
            }
            _ => {}
        }
        if let Some(status) = guest.0.try_wait()? {
            return Err(format!("QEMU ended: {status}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    loop {
        let later = counter.read()?;
        if later[..2] != EXECUTED {
            return Err(format!("{later:?}, though the first two have halted at {EXECUTED:?}").into());
        }
        if later[2] > halted[2] {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err("the third CPU executes nothing".into());
        }
    }
}

/// A program without an operating system. The first CPU starts the two others, loops, fills some memory and halts; the second one loops and halts; the third one loops for ever.
fn program() -> Vec<u8> {
    /// Where the first CPU goes on in protected mode, and its table of segments.
    const PROTECTED: u32 = ROM + 0x200;
    const SEGMENTS: u32 = ROM + 0x308;
    const HALT: u8 = 0xf4;
    let mut rom = vec![HALT; ROM_BYTES];
    let mut put = |at: usize, pieces: &[&[u8]]| {
        let bytes = pieces.concat();
        rom[at..at + bytes.len()].copy_from_slice(&bytes);
    };
    // A start-up message's vector is the page, below 1 MiB, that its CPU begins in.
    let start_up = |cpu: u8, page: u8| {
        [
            [0xc7, 0x05, 0x10, 0x03, 0xe0, 0xfe, 0, 0, 0, cpu], // mov dword [0xfee00310], cpu << 24
            [0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, page, 0x46, 0, 0], // mov dword [0xfee00300], 0x4600 | page
        ]
        .concat()
    };
    // The first CPU begins sixteen bytes below 4 GiB: 7 instructions until it is in protected mode.
    put(0xfff0, &[&[0xe9, 0x0d, 0x01]]); // jmp 0x100
    put(
        0x100,
        &[
            &[0xfa],                                           // cli
            &[0x2e, 0x66, 0x0f, 0x01, 0x16, 0x00, 0x03],       // lgdt cs:[0x300]
            &[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0], // mov eax, cr0; or al, 1; mov cr0, eax
            &[0x66, 0xea],                                     // jmp 8:PROTECTED
            &PROTECTED.to_le_bytes(),
            &[0x08, 0x00],
        ],
    );
    // 2, the four writes to its interrupt controller, 1, the loop, and 5.
    put(
        0x200,
        &[
            &[0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8], // mov ax, 0x10; mov ds, ax
            &start_up(1, 0xf0),
            &start_up(2, 0xf1),
            &[0xb9], // mov ecx, ROUNDS
            &ROUNDS[0].to_le_bytes(),
            &[0x49, 0x75, 0xfd],    // dec ecx; jnz to it
            &[0x8e, 0xc0],          // mov es, ax
            &[0xbf, 0, 0, 1, 0],    // mov edi, 0x10000
            &[0xb9, 0, 0x10, 0, 0], // mov ecx, 0x1000
            &[0xf3, 0xaa, HALT],    // rep stosb; hlt
        ],
    );
    put(0x300, &[&[0x17, 0x00], &SEGMENTS.to_le_bytes()]);
    // None; code and data of 4 GiB.
    put(0x308, &[&[0; 8], &[0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0], &[0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0]]);
    // The second CPU, in real mode: mov ecx, ROUNDS; dec ecx; jnz to it; cli; hlt.
    put(0, &[&[0x66, 0xb9], &ROUNDS[1].to_le_bytes(), &[0x66, 0x49, 0x75, 0xfc, 0xfa, HALT]]);
    put(0x1000, &[&[0xeb, 0xfe]]); // jmp to itself
    rom
}
