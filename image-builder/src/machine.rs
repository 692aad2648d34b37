//! A machine in QEMU that is played with from its console, and judged by what it says there: a box, or what stands in its place and has its prompt.

use model::vfio_user;
use prefix::{Prefix, Tool};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For one step, on a machine under load.
const PATIENCE: Duration = Duration::from_secs(120);
const PROMPT: &str = "redleaf> ";

/// A running machine of two CPUs; killed, as a power cut would, when dropped.
pub struct Machine {
    process: Child,
    console: ChildStdin,
    said: Arc<Said>,
    /// Shows the log, or a part of it; empty: it isn't shown.
    follow: &'static str,
}

/// What the console has printed, and word of there being more.
#[derive(Default)]
struct Said {
    text: Mutex<String>,
    more: Condvar,
}

impl Said {
    fn text(&self) -> MutexGuard<'_, String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a machine is made of.
pub struct Parts<'a> {
    pub kernel: &'a Path,
    pub bundle: &'a Path,
    /// Bytes.
    pub memory: u64,
    /// QEMU's arguments for them.
    pub devices: &'a [String],
}

impl Machine {
    /// Boots, and has the log shown by the line `follow`.
    pub fn boot(parts: &Parts, follow: &'static str) -> Result<Machine, String> {
        let prefix = Prefix::ensure(&[Tool::Qemu]).map_err(|error| error.to_string())?;
        let mut command = prefix.command("qemu-system-x86_64").map_err(|error| error.to_string())?;
        command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
        command.args(vfio_user::memory_arguments(parts.memory));
        command.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        command.args(parts.devices);
        command.arg("-kernel").arg(parts.kernel).arg("-initrd").arg(parts.bundle);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = command.spawn().map_err(|error| error.to_string())?;
        let console = process.stdin.take().ok_or("no console")?;
        let output = process.stdout.take().ok_or("no console")?;
        let said = Arc::new(Said::default());
        let heard = said.clone();
        std::thread::spawn(move || listen(output, &heard));
        let mut machine = Machine { process, console, said, follow };
        machine.wait_until("the kernel's prompt", |said| said.contains(PROMPT))?;
        machine.write(follow)?;
        Ok(machine)
    }

    /// All that it has said.
    pub fn said(&self) -> String {
        self.said.text().clone()
    }

    fn write(&mut self, text: &str) -> Result<(), String> {
        write!(self.console, "{text}").and_then(|()| self.console.flush()).map_err(|error| error.to_string())
    }

    /// Types what brings the prompt back.
    fn type_in(&mut self, text: &str) -> Result<(), String> {
        let prompts = |said: &str| said.matches(PROMPT).count();
        let before = prompts(&self.said());
        self.write(text)?;
        self.wait_until("a prompt", |said| prompts(said) > before)
    }

    /// Types a line, which the log, shown all the time, makes place for; then it is shown again from its beginning.
    pub fn say(&mut self, line: &str) -> Result<(), String> {
        self.type_in("\n")?;
        self.type_in(&format!("{line}\n"))?;
        self.write(self.follow)
    }

    /// Types a line at a machine that shows no log; what it answers, without its prompt.
    pub fn ask(&mut self, line: &str) -> Result<String, String> {
        let before = self.said.text().len();
        self.write(&format!("{line}\n"))?;
        let deadline = Instant::now() + PATIENCE;
        let mut text = self.said.text();
        loop {
            if let Some(answer) = text[before..].strip_suffix(PROMPT) {
                // Its echo comes first.
                return Ok(answer.split_once('\n').map_or("", |(_, answer)| answer).replace('\r', ""));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!(
                    "no answer to `{line}` within {} s; it said:\n{}",
                    PATIENCE.as_secs(),
                    tail(&text)
                ));
            }
            text = self.said.more.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until what it has said is as wanted, and has no failure in it.
    pub fn wait_until(&mut self, what: &str, mut seen: impl FnMut(&str) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.said();
            if let Some(line) = said.lines().find(|line| line.contains("FAILED")) {
                return Err(format!("{line}; it said:\n{}", tail(&said)));
            }
            if seen(&said) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(format!("QEMU ended ({status}) before {what}; it said:\n{}", tail(&said)));
            }
            if Instant::now() > deadline {
                return Err(format!("no {what} within {} s; it said:\n{}", PATIENCE.as_secs(), tail(&said)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The power goes; what it said last.
    pub fn cut(mut self) -> Result<String, String> {
        self.process.kill().map_err(|error| error.to_string())?;
        self.process.wait().map_err(|error| error.to_string())?;
        Ok(self.said())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn listen(mut output: ChildStdout, said: &Said) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = output.read(&mut bytes) {
        said.text().push_str(&String::from_utf8_lossy(&bytes[..count]));
        said.more.notify_all();
    }
}

/// The last lines, which are what one wants to see.
fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
