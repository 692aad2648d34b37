//! Conversations with a server, as files: lines that begin with `> ` are sent, those that begin with `< ` are what is answered to them.

use std::{fs, path::PathBuf};

pub struct Conversation {
    pub name: String,
    pub turns: Vec<Turn>,
}

#[derive(Default)]
pub struct Turn {
    pub sent: String,
    pub answered: String,
}

/// The last turn of every conversation: what stands before its answer and isn't expected was one too many.
const LAST: [&str; 2] = ["> mn", "< MN"];

impl Conversation {
    /// All that lie in `tests/conversations`.
    pub fn all() -> Vec<Conversation> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 10, "conversations are missing");
        files.iter().map(Conversation::read).collect()
    }

    fn read(file: &PathBuf) -> Conversation {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let mut turns = vec![Turn::default()];
        for line in fs::read_to_string(file).unwrap().lines().chain(LAST) {
            let (side, text) = line.split_at(line.len().min(2));
            if side == "> " && !turns.last().unwrap().answered.is_empty() {
                turns.push(Turn::default());
            }
            let turn = turns.last_mut().unwrap();
            match side {
                "> " => turn.sent += &format!("{text}\r\n"),
                "< " => turn.answered += &format!("{text}\r\n"),
                _ => panic!("{name}: {line:?} is nobody's"),
            }
        }
        Conversation { name, turns }
    }

    /// What is wrong with these answers to all turns.
    pub fn judge(&self, answers: &[u8]) -> Result<(), String> {
        let (right, given) = (self.answered(), String::from_utf8_lossy(answers));
        for (at, (right, given)) in right.lines().zip(given.lines()).enumerate() {
            if right != given {
                return Err(format!("{}: answer {} should be {right:?}, not {given:?}", self.name, at + 1));
            }
        }
        let (right, given) = (right.lines().count(), given.lines().count());
        if right == given { Ok(()) } else { Err(format!("{}: {given} lines of answers, not {right}", self.name)) }
    }

    fn answered(&self) -> String {
        self.turns.iter().map(|turn| turn.answered.as_str()).collect()
    }
}
