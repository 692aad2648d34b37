//! The screen, as the loader left it: the VGA text screen or a linear framebuffer. Only ever written to.

use core::ptr;

use metal::boot_info::Screen;

use crate::{lock::SpinLock, memory::paging};

/// Light grey on black.
const ATTRIBUTE: u16 = 0x0700;

/// A text screen with a cursor of our own.
struct Text {
    cells: *mut u16,
    pitch: usize,
    columns: usize,
    rows: usize,
    column: usize,
    row: usize,
}

// SAFETY: the cells are the screen's memory, written only under the lock.
unsafe impl Send for Text {}

static SCREEN: SpinLock<Option<Text>> = SpinLock::new(None);

/// The text screen that a PC has when nobody says otherwise.
const VGA_TEXT: Screen = Screen::Text { address: 0xb8000, pitch: 160, columns: 80, rows: 25 };

/// Takes the screen over. Without a word from the loader it is the VGA text screen.
pub fn start(screen: Option<Screen>) {
    if let Screen::Text { address, pitch, columns, rows } = screen.unwrap_or(VGA_TEXT) {
        let length = u64::from(pitch) * u64::from(rows);
        let Ok(cells) = paging::map_device(address, length) else { return };
        let mut text = Text {
            cells: cells.cast(),
            pitch: pitch as usize / 2,
            columns: columns as usize,
            rows: rows as usize,
            column: 0,
            row: 0,
        };
        text.clear(0..text.rows);
        *SCREEN.lock() = Some(text);
    }
}

pub fn write(text: &str) {
    // A panic may have interrupted the holder: the screen is a convenience, so it never waits for long.
    if let Some(mut screen) = SCREEN.lock_within(1 << 16)
        && let Some(screen) = screen.as_mut()
    {
        text.bytes().for_each(|byte| screen.put(byte));
    }
}

impl Text {
    fn put(&mut self, byte: u8) {
        if byte != b'\n' {
            let shown = if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'?' };
            // SAFETY: row and column are inside the screen, all of which is mapped.
            unsafe { self.cells.add(self.row * self.pitch + self.column).write_volatile(ATTRIBUTE | u16::from(shown)) };
            self.column += 1;
        }
        if byte == b'\n' || self.column == self.columns {
            self.column = 0;
            self.row += 1;
        }
        if self.row == self.rows {
            self.row -= 1;
            // SAFETY: rows 1.. move up by one, inside the screen.
            unsafe { ptr::copy(self.cells.add(self.pitch), self.cells, self.pitch * (self.rows - 1)) };
            self.clear(self.rows - 1..self.rows);
        }
    }

    fn clear(&mut self, rows: core::ops::Range<usize>) {
        for cell in rows.start * self.pitch..rows.end * self.pitch {
            // SAFETY: inside the screen.
            unsafe { self.cells.add(cell).write_volatile(ATTRIBUTE | u16::from(b' ')) };
        }
    }
}
