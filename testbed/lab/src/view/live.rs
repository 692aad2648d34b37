//! The live view on a terminal: status above, the box's console below, a line to type at.
//!
//! Ctrl-C ends the run, Up and Down walk through earlier lines. The terminal is put back however the command ends but by `kill -9`.

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
const SCROLL: usize = 500;

pub struct Live {
    terminal: DefaultTerminal,
    name: String,
    colour: bool,
    status: Status,
    /// Console text and the lab's own lines, the last of them perhaps unfinished.
    lines: Vec<String>,
    input: String,
    typed: Vec<String>,
    /// Which earlier line is shown, counted from the newest; 0: what is being typed.
    recalled: usize,
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
            lines: vec![String::new()],
            input: String::new(),
            typed: Vec::new(),
            recalled: 0,
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
            News::Line(line) => self.print(&format!("· {line}\n")),
            News::Console(text) => self.print(&text),
            News::Report(_) | News::Failed { .. } => {}
        }
    }

    fn print(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\n' => self.lines.push(String::new()),
                // Backspace, as a console's echo has it.
                '\u{8}' => drop(self.lines.last_mut().and_then(String::pop)),
                // Nothing else that would move the cursor or change the terminal.
                character if character.is_control() => {}
                character => self.lines.last_mut().expect("never empty").push(character),
            }
        }
        let extra = self.lines.len().saturating_sub(SCROLL);
        self.lines.drain(..extra);
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
                (KeyCode::Enter, _) => {
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
        let Self { terminal, name, colour, status, lines, input, .. } = self;
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
        "{name} · {} · {:.0}{of} s · {:.0} packets/s · {} crashes      Ctrl-C ends",
        status.phase, status.elapsed_s, status.packets_per_s, status.crashes
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
