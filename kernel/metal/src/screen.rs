//! The screen, as the loader left it: the VGA text screen or a linear framebuffer. Only ever written to; what doesn't fit any more
//! scrolls away.

use alloc::{vec, vec::Vec};

use font8x8::legacy::BASIC_LEGACY;
use metal::boot_info::Screen;

use crate::{lock::SpinLock, memory::paging};

/// Light grey on black, for VGA cells and for pixels.
const ATTRIBUTE: u16 = 0x0700;
const INK: u32 = 0x00c0_c0c0;
/// A glyph is 8 by 8; its rows are drawn twice, which gives the proportions of a text screen.
const GLYPH: usize = 8;
const CELL_HEIGHT: usize = 2 * GLYPH;

enum Surface {
    Cells(*mut u16),
    Pixels(*mut u32),
}

/// A screen of characters with a cursor. What is shown is kept here too: reading a framebuffer back to scroll takes seconds.
struct Console {
    surface: Surface,
    /// Cells or pixels from one line to the next.
    pitch: usize,
    columns: usize,
    rows: usize,
    column: usize,
    row: usize,
    shown: Vec<u8>,
}

// SAFETY: the surface is the screen's memory, written only under the lock.
unsafe impl Send for Console {}

static SCREEN: SpinLock<Option<Console>> = SpinLock::new(None);

/// The text screen that a PC has when nobody says otherwise.
const VGA_TEXT: Screen = Screen::Text { address: 0xb8000, pitch: 160, columns: 80, rows: 25 };

/// Takes the screen over. Without a word from the loader it is the VGA text screen.
pub fn start(screen: Option<Screen>) {
    let (address, pitch, height, columns, rows, is_text) = match screen.unwrap_or(VGA_TEXT) {
        Screen::Text { address, pitch, columns, rows } => (address, pitch, rows, columns as usize, rows as usize, true),
        Screen::Pixels { address, pitch, width, height } => {
            (address, pitch, height, width as usize / GLYPH, height as usize / CELL_HEIGHT, false)
        }
    };
    if columns == 0 || rows == 0 {
        return;
    }
    let Ok(memory) = paging::map_device(address, u64::from(pitch) * u64::from(height)) else { return };
    let (surface, unit) =
        if is_text { (Surface::Cells(memory.cast()), 2) } else { (Surface::Pixels(memory.cast()), 4) };
    // All zeros stand for "unknown", so that everything is drawn once.
    let shown = vec![0; columns * rows];
    let mut console = Console { surface, pitch: pitch as usize / unit, columns, rows, column: 0, row: 0, shown };
    for row in 0..rows {
        (0..columns).for_each(|column| console.show(row, column, b' '));
    }
    *SCREEN.lock() = Some(console);
}

pub fn write(text: &str) {
    // A panic may have interrupted the holder: the screen is a convenience, so it never waits for long.
    if let Some(mut screen) = SCREEN.lock_within(1 << 16)
        && let Some(screen) = screen.as_mut()
    {
        text.bytes().for_each(|byte| screen.put(byte));
    }
}

impl Console {
    fn put(&mut self, byte: u8) {
        if byte != b'\n' {
            let shown = if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'?' };
            self.show(self.row, self.column, shown);
            self.column += 1;
        }
        if byte == b'\n' || self.column == self.columns {
            self.column = 0;
            self.row += 1;
        }
        if self.row == self.rows {
            self.row -= 1;
            self.scroll();
        }
    }

    fn scroll(&mut self) {
        for row in 0..self.rows {
            for column in 0..self.columns {
                let below = self.shown.get((row + 1) * self.columns + column).copied().unwrap_or(b' ');
                self.show(row, column, below);
            }
        }
    }

    /// Draws a character, if it isn't there already.
    fn show(&mut self, row: usize, column: usize, byte: u8) {
        let place = row * self.columns + column;
        if core::mem::replace(&mut self.shown[place], byte) == byte {
            return;
        }
        match self.surface {
            // SAFETY: row and column are inside the screen, all of which is mapped.
            Surface::Cells(cells) => unsafe {
                cells.add(row * self.pitch + column).write_volatile(ATTRIBUTE | u16::from(byte));
            },
            Surface::Pixels(pixels) => {
                let glyph = BASIC_LEGACY[usize::from(byte & 0x7f)];
                for line in 0..CELL_HEIGHT {
                    let start = (row * CELL_HEIGHT + line) * self.pitch + column * GLYPH;
                    for bit in 0..GLYPH {
                        let colour = if glyph[line / 2] >> bit & 1 != 0 { INK } else { 0 };
                        // SAFETY: as above.
                        unsafe { pixels.add(start + bit).write_volatile(colour) };
                    }
                }
            }
        }
    }
}
