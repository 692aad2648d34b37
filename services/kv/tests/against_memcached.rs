//! The conversations, held with memcached itself: what `tests/protocol.rs` demands of our store is what the original says.

mod talk;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use prefix::{Prefix, Tool};
use talk::Conversation;

/// A memcached that ends with the test.
struct Original {
    process: std::process::Child,
    socket: std::path::PathBuf,
}

impl Original {
    fn start(prefix: &Prefix, number: usize) -> Original {
        let socket = std::env::temp_dir().join(format!("kv-original-{}-{number}", std::process::id()));
        let mut command = prefix.command("memcached").unwrap();
        command.arg("-s").arg(&socket).args(["-u", "root", "-t", "1"]);
        Original { process: command.spawn().unwrap(), socket }
    }

    fn connect(&self) -> UnixStream {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < deadline, "memcached doesn't listen: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Holds a conversation with a new memcached.
fn hold(prefix: &Prefix, number: usize, conversation: &Conversation) -> Result<(), String> {
    let original = Original::start(prefix, number);
    let mut stream = original.connect();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // Turn by turn: an item that an answer under way still refers to is replaced where it would be changed in place.
    let mut answers = Vec::new();
    let mut due = 0;
    for turn in &conversation.turns {
        stream.write_all(turn.sent.as_bytes()).map_err(|error| error.to_string())?;
        due += turn.answered.len();
        while answers.len() < due {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) => return Err(format!("{}: closed", conversation.name)),
                Ok(len) => answers.extend_from_slice(&buffer[..len]),
                Err(error) => return Err(format!("{}: {error} after {:?}", conversation.name, turn.sent)),
            }
        }
    }
    conversation.judge(&answers)
}

#[test]
#[ignore = "tier interop: fetches memcached"]
fn the_original_says_the_same() {
    let prefix = Prefix::ensure(&[Tool::Memcached]).unwrap();
    for (number, conversation) in Conversation::all().iter().enumerate() {
        // A second that ends amid a conversation shows in a time to live: so each has three chances.
        let mut chances = (0..3).map(|turn| hold(&prefix, 3 * number + turn, conversation));
        let first = chances.next().unwrap();
        if first.is_err() && !chances.any(|result| result.is_ok()) {
            panic!("{first:?}");
        }
    }
}
