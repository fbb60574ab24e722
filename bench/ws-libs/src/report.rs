//! Medians, as tables for docs/.

use std::collections::HashMap;
use std::fmt::Write;

use farpipe_bench::stats::median;

use crate::link::{Direction, Outcome};
use crate::subject::{CEILING, Subject};

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cell {
    pub direction: Direction,
    pub message: usize,
    pub subject: &'static str,
}

/// Every outcome.
#[derive(Debug, Default)]
pub struct Report {
    outcomes: HashMap<Cell, Vec<Outcome>>,
}

impl Report {
    pub fn add(&mut self, cell: Cell, outcome: Outcome) {
        self.outcomes.entry(cell).or_default().push(outcome);
    }

    /// Markdown: a row a subject, a column a message size.
    pub fn table(&self, direction: Direction, messages: &[usize], subjects: &[&Subject]) -> String {
        let mut text = format!("\n{}\n\n| |", direction.title());
        for message in messages {
            let _ = write!(text, " {} KiB |", message >> 10);
        }
        text.push_str("\n|---|");
        text.push_str(&"---|".repeat(messages.len()));
        for subject in subjects {
            let _ = write!(text, "\n| {} |", subject.name);
            for &message in messages {
                let outcomes = |subject| {
                    let cell = Cell {
                        direction,
                        message,
                        subject,
                    };
                    self.outcomes.get(&cell).map_or(&[][..], Vec::as_slice)
                };
                let (ours, ceiling) = (outcomes(subject.name), outcomes(CEILING));
                for figure in [
                    median(ours.iter().map(|outcome| outcome.rate)),
                    median(ours.iter().zip(ceiling).map(|(a, b)| a.rate / b.rate)),
                    median(ours.iter().map(|outcome| outcome.cpu)),
                ] {
                    let figure = figure.map_or("–".to_owned(), |figure| format!("{figure:.2}"));
                    let _ = write!(text, " {figure} ·");
                }
                text.truncate(text.len() - " ·".len());
                text.push_str(" |");
            }
        }
        text.push('\n');
        text
    }
}
