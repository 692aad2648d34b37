//! Text for whoever stands before the machine: the boot report and panics go to the console and the screen.

use core::fmt;

use crate::{screen, serial};

/// Console and screen as one place for formatted text.
pub struct Report;

impl fmt::Write for Report {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        screen::write(text);
        serial::Console.write_str(text)
    }
}

/// One line of the boot report.
#[macro_export]
macro_rules! report {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        // Neither place can fail.
        let _ = writeln!($crate::report::Report, $($argument)*);
    }};
}
