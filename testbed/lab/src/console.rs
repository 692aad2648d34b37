//! The box's serial console: what it prints, and commands typed at its prompt with their replies.

use crate::clock::Moment;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What the box prints when it waits for a command.
pub const PROMPT: &str = "redleaf> ";

/// How much of the console's text is kept.
const KEPT: usize = 1 << 20;

#[derive(Default)]
struct Text {
    all: String,
    closed: bool,
}

/// A console that is being listened to.
pub struct Console {
    socket: UnixStream,
    text: Arc<(Mutex<Text>, Condvar)>,
}

impl Console {
    /// Listens on a thread of its own; every piece of text also goes to `show`.
    pub fn listen(socket: UnixStream, show: impl Fn(&str) + Send + 'static) -> std::io::Result<Self> {
        let text = Arc::new((Mutex::new(Text::default()), Condvar::new()));
        let (mut input, shared) = (socket.try_clone()?, text.clone());
        thread::Builder::new().name("console".into()).spawn(move || {
            let mut piece = [0; 4096];
            loop {
                let read = input.read(&mut piece).unwrap_or(0);
                let (text, changed) = &*shared;
                let mut text = text.lock().expect("nobody panics with it");
                if read == 0 {
                    text.closed = true;
                    changed.notify_all();
                    return;
                }
                let new = String::from_utf8_lossy(&piece[..read]).replace('\r', "");
                text.all.push_str(&new);
                if text.all.len() > 2 * KEPT {
                    let mut cut = text.all.len() - KEPT;
                    while !text.all.is_char_boundary(cut) {
                        cut += 1;
                    }
                    text.all.drain(..cut);
                }
                changed.notify_all();
                drop(text);
                show(&new);
            }
        })?;
        Ok(Self { socket, text })
    }

    /// Types a line without waiting for what comes of it.
    pub fn write_line(&mut self, line: &str) -> std::io::Result<()> {
        // A serial line has no buffer worth the name: one write, and the box reads at its own pace (QEMU holds back what the UART can't take).
        self.socket.write_all(format!("{line}\n").as_bytes())
    }

    /// Types a line and waits for the prompt after it, at most `patience`. `None`: no prompt came.
    pub fn ask(&mut self, line: &str, patience: Duration) -> Option<String> {
        let before = self.text.0.lock().expect("nobody panics with it").all.len();
        self.write_line(line).ok()?;
        let deadline = Moment::now() + patience;
        let (text, changed) = &*self.text;
        let mut text = text.lock().expect("nobody panics with it");
        loop {
            // The text may have been cut meanwhile; then all of what is left is new.
            if let Some(reply) = reply(text.all.get(before..).unwrap_or(&text.all), line) {
                return Some(reply);
            }
            let left = deadline.since(Moment::now());
            if left.is_zero() || text.closed {
                return None;
            }
            text = changed.wait_timeout(text, left).expect("nobody panics with it").0;
        }
    }

    /// Something that reads the last lines of the text, wherever the console itself is by then.
    pub fn tail_reader(&self) -> impl Fn(usize) -> Vec<String> + use<> {
        let text = self.text.clone();
        move |lines| {
            let text = text.0.lock().expect("nobody panics with it");
            let all: Vec<_> = text.all.lines().filter(|line| !line.trim().is_empty()).collect();
            all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
        }
    }
}

/// What stands between the echo of `line` and the next prompt.
fn reply(text: &str, line: &str) -> Option<String> {
    let end = text.rfind(PROMPT.trim_end())?;
    // The last prompt's blank may come in after the line was typed.
    let body = text[..end].trim_start_matches(PROMPT).trim_start();
    let body = body.strip_prefix(line).unwrap_or(body);
    Some(body.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A box that echoes, answers and prompts, in small pieces.
    fn boxed(mut socket: UnixStream) {
        thread::spawn(move || {
            let mut line = Vec::new();
            let mut byte = [0];
            while socket.read(&mut byte).is_ok_and(|read| read == 1) {
                socket.write_all(&byte).unwrap();
                line.push(byte[0]);
                if byte[0] == b'\n' {
                    if line == b"domains\n" {
                        for piece in ["lb run", "ning\r\nixgbe0 running\r\n", "red", "leaf> "] {
                            socket.write_all(piece.as_bytes()).unwrap();
                            thread::sleep(Duration::from_millis(5));
                        }
                    }
                    line.clear();
                }
            }
        });
    }

    #[test]
    fn a_reply_is_what_stands_between_echo_and_prompt() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        boxed(theirs);
        let mut console = Console::listen(ours, |_| {}).unwrap();
        assert_eq!(console.ask("domains", Duration::from_secs(5)).unwrap(), "lb running\nixgbe0 running");
        assert_eq!(console.ask("domains", Duration::from_secs(5)).unwrap(), "lb running\nixgbe0 running");
    }

    #[test]
    fn an_echo_is_no_answer_wherever_the_prompt_was_cut() {
        for text in
            ["dance\nerror: no\nredleaf> ", " dance\nerror: no\nredleaf> ", "redleaf> dance\nerror: no\nredleaf>"]
        {
            assert_eq!(reply(text, "dance").as_deref(), Some("error: no"), "{text:?}");
        }
        assert_eq!(reply("dance\nerr", "dance"), None);
    }

    #[test]
    fn a_box_that_does_not_answer_is_not_waited_for_for_ever() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        boxed(theirs);
        let mut console = Console::listen(ours, |_| {}).unwrap();
        assert_eq!(console.ask("crash all", Duration::from_millis(50)), None);
    }
}
