//! The live view on a terminal: status above, the box's console below, a line to type at.
//!
//! Ctrl-C ends the run, Up and Down walk through earlier lines, Page Up and Page Down through what the console has said. The terminal is put back however the command ends but by `kill -9`.

use super::Keys;
use crate::control::News;
use crate::options::RunOptions;
use crate::status::Status;
use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Paragraph, Row, Table};
use std::io;
use std::time::Duration;

/// Lines of console text that are kept for drawing.
const SCROLL: usize = 2000;
/// Lines that Page Up and Page Down move by.
const PAGE: usize = 10;

pub struct Live {
    terminal: DefaultTerminal,
    name: String,
    colour: bool,
    status: Status,
    /// Console text and the lab's own lines, the last of them perhaps unfinished.
    lines: Transcript,
    input: String,
    typed: Vec<String>,
    /// Which earlier line is shown, counted from the newest; 0: what is being typed.
    recalled: usize,
    /// How many lines below the console's window are not shown; 0: it follows.
    back: usize,
}

impl Live {
    pub fn open(options: &RunOptions) -> io::Result<Self> {
        let terminal = ratatui::try_init()?;
        Ok(Self {
            terminal,
            name: options.name.clone(),
            // https://no-color.org
            colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            status: Status::default(),
            lines: Transcript::new(),
            input: String::new(),
            typed: Vec::new(),
            recalled: 0,
            back: 0,
        })
    }

    pub fn take(&mut self, news: News) {
        match news {
            News::Status(status) => {
                // The phases at the ends carry no numbers: keep the last ones on view.
                if status.duration_s.is_some() || status.elapsed_s > 0.0 {
                    self.status = *status;
                } else {
                    self.status.phase = status.phase;
                }
            }
            News::Line(line) => self.lines.note(&line),
            News::Console(text) => self.lines.print(&text),
            News::Report(_) | News::Failed { .. } => {}
        }
    }

    pub fn keys(&mut self) -> Keys {
        let mut keys = Keys::default();
        while event::poll(Duration::ZERO).unwrap_or(false) {
            let Ok(Event::Key(key)) = event::read() else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            match (key.code, key.modifiers.contains(KeyModifiers::CONTROL)) {
                (KeyCode::Char('c' | 'd'), true) => keys.interrupts += 1,
                (KeyCode::Char('u'), true) => self.input.clear(),
                (KeyCode::Char(character), false) => self.input.push(character),
                (KeyCode::Backspace, _) => drop(self.input.pop()),
                (KeyCode::Up, _) => self.recall(self.recalled + 1),
                (KeyCode::Down, _) => self.recall(self.recalled.saturating_sub(1)),
                (KeyCode::PageUp, _) => self.back = (self.back + PAGE).min(self.lines.0.len() - 1),
                (KeyCode::PageDown, _) => self.back = self.back.saturating_sub(PAGE),
                (KeyCode::Enter, _) => {
                    self.back = 0;
                    let line = std::mem::take(&mut self.input);
                    if !line.is_empty() {
                        self.typed.push(line.clone());
                    }
                    self.recalled = 0;
                    keys.lines.push(line);
                }
                _ => {}
            }
        }
        let Self { terminal, name, colour, status, lines, input, back, .. } = self;
        let lines = &lines.0[..lines.0.len() - (*back).min(lines.0.len() - 1)];
        // A terminal that is gone sends SIGHUP, which ends the run.
        let _ = terminal.draw(|frame| draw(frame, name, *colour, status, lines, input));
        keys
    }

    fn recall(&mut self, back: usize) {
        if back == 0 {
            (self.recalled, self.input) = (0, String::new());
        } else if let Some(line) = self.typed.len().checked_sub(back).and_then(|place| self.typed.get(place)) {
            (self.recalled, self.input) = (back, line.clone());
        }
    }
}

/// What stands in the console's window; never empty, the last line may be unfinished.
struct Transcript(Vec<String>);

impl Transcript {
    fn new() -> Self {
        Self(vec![String::new()])
    }

    /// A line of the lab's own, above the one that the console hasn't finished (its prompt, as a rule).
    fn note(&mut self, line: &str) {
        let unfinished = self.0.pop().unwrap_or_default();
        self.0.push(String::new());
        self.print(&format!("· {}\n", line.split('\n').map(str::trim_end).collect::<Vec<_>>().join("; ")));
        self.print(&unfinished);
    }

    fn print(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\n' => self.0.push(String::new()),
                // Backspace, as a console's echo has it.
                '\u{8}' => drop(self.0.last_mut().and_then(String::pop)),
                // Nothing else that would move the cursor or change the terminal.
                character if character.is_control() => {}
                character => self.0.last_mut().expect("never empty").push(character),
            }
        }
        let extra = self.0.len().saturating_sub(SCROLL);
        self.0.drain(..extra);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn draw(frame: &mut Frame, name: &str, colour: bool, status: &Status, lines: &[String], input: &str) {
    let table_height = status.domains.len().max(status.connections.len()) as u16 + 3;
    let [heading, tables, console, prompt] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(table_height),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [domains, backends] =
        Layout::horizontal([Constraint::Percentage(65), Constraint::Percentage(35)]).areas(tables);
    draw_heading(frame, heading, name, colour, status);
    let rows = status.domains.iter().map(|domain| {
        let cells = [
            domain.name.clone(),
            domain.state.clone(),
            domain.generation.to_string(),
            domain.restarts.to_string(),
            format!("{} KiB", domain.pages * 4),
        ];
        let style = if colour && domain.restarts > 0 { Style::new().yellow() } else { Style::new() };
        Row::new(cells).style(style)
    });
    let widths = [
        Constraint::Fill(2),
        Constraint::Fill(2),
        Constraint::Length(6),
        Constraint::Length(9),
        Constraint::Length(11),
    ];
    let heads = Row::new(["domain", "state", "gen", "restarts", "memory"]).bold();
    frame.render_widget(Table::new(rows, widths).header(heads).block(Block::bordered().title("domains")), domains);
    let rows = status.connections.iter().map(|(name, count)| Row::new([name.clone(), count.to_string()]));
    let heads = Row::new(["backend", "connections"]).bold();
    let table = Table::new(rows, [Constraint::Fill(1), Constraint::Length(12)]).header(heads);
    frame.render_widget(table.block(Block::bordered().title("backends")), backends);
    let room = usize::from(console.height.saturating_sub(2));
    let shown: Vec<_> = lines[lines.len().saturating_sub(room)..].iter().map(|line| Line::raw(line.as_str())).collect();
    frame.render_widget(Paragraph::new(Text::from(shown)).block(Block::bordered().title("console")), console);
    frame.render_widget(Paragraph::new(format!("> {input}")), prompt);
    let column = prompt.x + 2 + input.chars().count().min(usize::from(prompt.width.saturating_sub(3))) as u16;
    frame.set_cursor_position(Position::new(column, prompt.y));
}

fn draw_heading(frame: &mut Frame, area: Rect, name: &str, colour: bool, status: &Status) {
    let of = status.duration_s.map_or_else(String::new, |duration| format!(" of {duration:.0}"));
    let first = format!(
        "{name} · {} · {:.0}{of} s · {:.0} packets/s · {}      Ctrl-C ends, PgUp scrolls",
        status.phase,
        status.elapsed_s,
        status.packets_per_s,
        if status.crashes == 1 { "1 crash".into() } else { format!("{} crashes", status.crashes) }
    );
    let bad = status.failed + status.broken + status.moved > 0;
    let second = Line::from(format!(
        "{} completed · {} failed · {} broken · {} moved",
        status.completed, status.failed, status.broken, status.moved
    ));
    let second = match (colour, bad) {
        (true, true) => second.red(),
        (true, false) => second.green(),
        (false, _) => second,
    };
    frame.render_widget(Paragraph::new(Text::from(vec![Line::from(first).bold(), second])), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    /// A crash is told while somebody types: the prompt stays the last line.
    #[test]
    fn the_labs_own_lines_leave_the_prompt_where_it_is() {
        let mut lines = Transcript::new();
        lines.print("pages 5\nredleaf> cra");
        lines.note("lb crashed: panicked at x.rs:1:\nwords");
        lines.print("sh\u{8}\u{7}");
        assert_eq!(lines.0, ["pages 5", "· lb crashed: panicked at x.rs:1:; words", "redleaf> cras"]);
        (0..2 * SCROLL).for_each(|_| lines.note("more"));
        assert_eq!((lines.0.len(), lines.0.last().unwrap().as_str()), (SCROLL, "redleaf> cras"));
    }

    #[test]
    fn the_status_shows_what_somebody_looks_for() {
        let mut terminal = Terminal::new(TestBackend::new(100, 24)).unwrap();
        let mut status = Status {
            phase: "under load".into(),
            completed: 1234,
            broken: 2,
            packets_per_s: 5678.0,
            ..Status::default()
        };
        status.domains.push(crate::feed::DomainFacts {
            name: "ixgbe0".into(),
            state: "running".into(),
            generation: 3,
            ..Default::default()
        });
        status.connections.insert("b1".into(), 57);
        let lines = vec!["redleaf> domains".to_owned()];
        terminal.draw(|frame| draw(frame, "maglev", false, &status, &lines, "crash lb")).unwrap();
        let screen: String = terminal.backend().buffer().content().iter().map(|cell| cell.symbol()).collect();
        for wanted in [
            "maglev",
            "under load",
            "1234 completed",
            "2 broken",
            "5678 packets/s",
            "ixgbe0",
            "running",
            "b1",
            "57",
            "redleaf> domains",
            "> crash lb",
        ] {
            assert!(screen.contains(wanted), "{wanted} is not on the screen");
        }
    }
}
