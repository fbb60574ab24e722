//! A table: interleaved rounds over its configurations, medians of them, and ratios.

use anyhow::Result;
use serde_json::{Value, json};

use crate::options::Options;
use crate::peer::{GORILLA, LOCAL, SOCAT};
use crate::relay::{EXEC_WS, EXEC_WSS, FORWARD_WS};
use crate::{reuse, tree};
use farpipe_bench::quiet::undisturbed;
use farpipe_bench::stats::{median, quantile};

/// One configuration's figures, a row of a table; in each round a list, or why there is none.
struct Row {
    name: &'static str,
    rounds: Vec<Result<Vec<f64>, String>>,
}

/// What a table shows of a round's figures.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    name: &'static str,
    /// Which of the figures.
    figure: usize,
    /// The quantile over the rounds.
    part: f64,
}

impl Column {
    pub const fn median(name: &'static str, figure: usize) -> Self {
        Self::quantile(name, figure, 0.5)
    }

    pub const fn quantile(name: &'static str, figure: usize, part: f64) -> Self {
        Self { name, figure, part }
    }
}

/// A table: interleaved rounds over its configurations. Ratios are made of a round's first figure.
pub struct Table {
    title: String,
    rounds: usize,
    columns: &'static [Column],
    rows: Vec<Row>,
}

/// A configuration: its name and what makes its figures.
pub type Runner<'a> = (&'static str, Box<dyn Fn() -> Result<Vec<f64>> + 'a>);

/// How often a table's configurations run.
#[derive(Debug, Clone, Copy)]
pub struct Rounds {
    pub count: usize,
    /// A run is repeated when others used more of the machine.
    pub others_max: Option<f64>,
    /// Each run's figures are told when there are.
    pub are_told: bool,
}

impl Table {
    /// Round-robin over the configurations, so that a slow minute of the machine hits all of them.
    pub fn run(
        options: &Options,
        rounds: Rounds,
        title: String,
        columns: &'static [Column],
        runners: &[Runner<'_>],
    ) -> Self {
        let runners: Vec<_> = runners
            .iter()
            .filter(|(name, _)| options.wants(name))
            .collect();
        let mut rows: Vec<Row> = runners
            .iter()
            .map(|(name, _)| Row {
                name,
                rounds: Vec::new(),
            })
            .collect();
        for round in 1..=rounds.count {
            let mut pairs: Vec<_> = rows.iter_mut().zip(&runners).collect();
            // Else each would always come after the same other, and find what that leaves.
            if round % 2 == 0 {
                pairs.reverse();
            }
            for (row, (name, run)) in pairs {
                let result = undisturbed(rounds.others_max, run);
                let result = result.map_err(|error| format!("{error:#}"));
                match &result {
                    Ok(_) if !rounds.are_told => {}
                    Ok(figures) => eprintln!("{title}, round {round}: {name}: {figures:.3?}"),
                    Err(error) => eprintln!("{title}, round {round}: {name} failed: {error}"),
                }
                row.rounds.push(result);
            }
        }
        Self {
            title,
            rounds: rounds.count,
            columns,
            rows,
        }
    }
}

impl Row {
    fn shown(&self, column: Column) -> Option<f64> {
        let rounds = self.rounds.iter().flatten();
        quantile(rounds.map(|figures| figures[column.figure]), column.part)
    }

    fn failure(&self) -> Option<&str> {
        self.rounds
            .iter()
            .find_map(|round| round.as_ref().err())
            .map(String::as_str)
    }

    /// The median over the rounds of this row's first figure to that of `other` in the same round.
    fn ratio(&self, other: &Self) -> Option<f64> {
        let ratios = self
            .rounds
            .iter()
            .zip(&other.rounds)
            .filter_map(|pair| match pair {
                (Ok(ours), Ok(theirs)) => Some(ours[0] / theirs[0]),
                _ => None,
            });
        median(ratios)
    }
}

impl Table {
    /// The yardsticks that are in this table.
    fn yardsticks(&self) -> Vec<&Row> {
        [
            SOCAT,
            LOCAL,
            GORILLA,
            "raw TCP",
            EXEC_WS,
            EXEC_WSS,
            FORWARD_WS,
            tree::RSYNC,
            reuse::MASTER,
            reuse::SSH,
        ]
        .iter()
        .filter_map(|name| self.rows.iter().find(|row| row.name == *name))
        .collect()
    }

    pub fn to_markdown(&self) -> String {
        let yardsticks = self.yardsticks();
        let mut header = vec![String::new()];
        header.extend(self.columns.iter().map(|column| column.name.to_owned()));
        header.extend(yardsticks.iter().map(|row| format!("× {}", row.name)));
        let mut text = format!(
            "\n### {}; medians of {} rounds\n\n| {} |\n",
            self.title,
            self.rounds,
            header.join(" | ")
        );
        text.push_str(&format!("|{}\n", "---|".repeat(header.len())));
        for row in &self.rows {
            let mut cells = vec![row.name.to_owned()];
            if let Some(failure) = row.failure() {
                cells.push(format!("failed: {failure}"));
            } else {
                let shown = self.columns.iter().map(|&column| number(row.shown(column)));
                cells.extend(shown);
                cells.extend(yardsticks.iter().map(|other| number(row.ratio(other))));
            }
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        text
    }

    pub fn to_json(&self) -> Value {
        let yardsticks = self.yardsticks();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let shown: Vec<_> = self
                    .columns
                    .iter()
                    .map(|&column| row.shown(column))
                    .collect();
                let ratios: serde_json::Map<String, Value> = yardsticks
                    .iter()
                    .map(|other| (other.name.to_owned(), json!(row.ratio(other))))
                    .collect();
                let rounds: Vec<Value> = row
                    .rounds
                    .iter()
                    .map(|round| match round {
                        Ok(figures) => json!(figures),
                        Err(error) => json!({ "failed": error }),
                    })
                    .collect();
                json!({ "name": row.name, "shown": shown, "ratios": ratios, "rounds": rounds })
            })
            .collect();
        let columns: Vec<_> = self.columns.iter().map(|column| column.name).collect();
        json!({ "title": self.title, "columns": columns, "rows": rows })
    }
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 20.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, rates: &[f64]) -> Row {
        Row {
            name,
            rounds: rates.iter().map(|&rate| Ok(vec![rate])).collect(),
        }
    }

    #[test]
    fn ratios_are_taken_in_the_same_round() {
        // The medians' ratio would be 2/2 = 1.
        let (ours, theirs) = (row("a", &[2.0, 4.0, 1.0]), row("b", &[1.0, 2.0, 4.0]));
        assert_eq!(ours.ratio(&theirs), Some(2.0));
    }

    #[test]
    fn a_failed_round_fails_the_row() {
        let mut failed = row(SOCAT, &[1.0]);
        failed.rounds.push(Err("9 of 10 bytes arrived".to_owned()));
        let table = Table {
            title: String::new(),
            rounds: 2,
            columns: const { &[Column::median("GB/s", 0)] },
            rows: vec![failed],
        };
        assert!(
            table
                .to_markdown()
                .contains("failed: 9 of 10 bytes arrived")
        );
    }
}
