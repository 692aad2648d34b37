//! What is wrong with a manifest, shown as a compiler shows it: file, line, the text underlined, what was probably meant.

use super::source::{Location, Sources};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::io::IsTerminal;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    message: String,
    primary: Option<(Location, String)>,
    others: Vec<(Location, String)>,
    help: Option<String>,
}

impl Diagnostic {
    pub fn new(message: impl Into<String>) -> Diagnostic {
        Diagnostic { message: message.into(), primary: None, others: Vec::new(), help: None }
    }

    /// The text at fault, and what is wrong right there.
    pub fn at(mut self, location: Location, label: impl Into<String>) -> Diagnostic {
        self.primary = Some((location, label.into()));
        self
    }

    /// Another place that has to do with it.
    pub fn and(mut self, location: Location, label: impl Into<String>) -> Diagnostic {
        self.others.push((location, label.into()));
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// "did you mean", if one of `known` is close to `given`; else the list of what is known, if it is short.
    pub fn meant<'a>(self, given: &str, known: impl IntoIterator<Item = &'a str>) -> Diagnostic {
        let known: Vec<&str> = known.into_iter().collect();
        match closest(given, &known) {
            Some(closest) => self.help(format!("did you mean `{closest}`?")),
            None if !known.is_empty() && known.len() <= 12 => self.help(format!("there is: {}", known.join(", "))),
            None => self,
        }
    }
}

/// The known name that `given` was probably meant to be.
pub fn closest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let given = given.to_lowercase().replace('_', "-");
    let distance = |name: &str| strsim::damerau_levenshtein(&given, &name.to_lowercase());
    let best = known.iter().min_by_key(|name| distance(name))?;
    // As rustc does: a third of the length may be wrong.
    (distance(best) <= given.chars().count().max(3) / 3).then_some(*best)
}

/// Everything that is wrong, collected so that all of it can be shown at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if !self.list.contains(&diagnostic) {
            self.list.push(diagnostic);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// For people: coloured if stderr is a terminal and NO_COLOR isn't set.
    pub fn render(&self, sources: &Sources) -> String {
        let colour =
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        self.render_with(sources, if colour { Renderer::styled() } else { Renderer::plain() })
    }

    /// The same without colour, whatever stderr is.
    pub fn render_plain(&self, sources: &Sources) -> String {
        self.render_with(sources, Renderer::plain())
    }

    fn render_with(&self, sources: &Sources, renderer: Renderer) -> String {
        let mut list: Vec<&Diagnostic> = self.list.iter().collect();
        list.sort_by_key(|diagnostic| diagnostic.primary.as_ref().map(|(at, _)| (at.file, at.span.start)));
        list.iter().map(|diagnostic| renderer.render(&[group(diagnostic, sources)]) + "\n\n").collect()
    }
}

fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Group<'a> {
    let mut group = Group::with_title(Level::ERROR.primary_title(diagnostic.message.as_str()));
    if let Some((primary, label)) = &diagnostic.primary {
        let file = &sources.files[primary.file];
        let span = |at: &Location| at.span.start.min(file.text.len())..at.span.end.min(file.text.len());
        let mut snippet = Snippet::source(file.text.as_str())
            .path(file.path.to_string_lossy().into_owned())
            .annotation(AnnotationKind::Primary.span(span(primary)).label(label.as_str()));
        for (at, label) in diagnostic.others.iter().filter(|(at, _)| at.file == primary.file) {
            snippet = snippet.annotation(AnnotationKind::Context.span(span(at)).label(label.as_str()));
        }
        group = group.element(snippet);
        for (at, label) in diagnostic.others.iter().filter(|(at, _)| at.file != primary.file) {
            let file = &sources.files[at.file];
            let annotation = AnnotationKind::Context.span(at.span.clone()).label(label.as_str());
            group = group.element(
                Snippet::source(file.text.as_str())
                    .path(file.path.to_string_lossy().into_owned())
                    .annotation(annotation),
            );
        }
    }
    match &diagnostic.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limits of guessing: a slip is recognised, something else isn't turned into nonsense.
    #[test]
    fn guesses() {
        let known = ["watchdog", "memory", "cpus", "fault-injection"];
        assert_eq!(closest("watchdgo", &known), Some("watchdog"));
        assert_eq!(closest("fault_injection", &known), Some("fault-injection"));
        assert_eq!(closest("cpu", &known), Some("cpus"));
        assert_eq!(closest("network", &known), None);
        assert_eq!(closest("x", &known), None);
        assert_eq!(closest("x", &[]), None);
    }
}
