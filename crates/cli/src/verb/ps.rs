//! `farpipe ps`: lists detached commands.

use std::fmt::Write as _;

use farpipe_agent::command::ask::{Collected, Here};
use farpipe_proto::link::handshake::printable;
use farpipe_proto::wire::control::{
    DetachedCommand, DetachedCommands, Exit, Manage, ManageWhat, Open,
};

use super::detached::{not_understood, opened};
use super::session::{SessionArgs, conclude};
use super::target::TargetArgs;
use crate::{exit, output};

/// List the detached commands of an agent
///
/// Those that run, and those that ended within 24 hours, 256 in all: the id, what became of it, the
/// number of its process, when it was started, the bytes of its output that wait to be taken and that
/// were dropped, whether somebody is attached, and the command line. What a terminal might obey is
/// replaced.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    session: SessionArgs,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let open = Open {
        manage: Some(Box::new(Manage {
            what: ManageWhat::List as u32,
            ..Manage::default()
        })),
        ..Open::default()
    };
    let collected = Collected::default();
    let here = Here::collecting(&collected);
    let (outcome, signal, status) = opened(&args.target, &args.session, open, here, quiet).await?;
    let code = conclude(Ok(outcome), signal, &status)?;
    if code != 0 {
        return Ok(code);
    }
    let list = DetachedCommands::from_bytes(&collected.take()).ok_or_else(not_understood)?;
    let text = if args.json {
        json(&list.commands)
    } else {
        table(&list.commands)
    };
    exit::printed(output::data(text.as_bytes()))
}

fn line(command: &DetachedCommand) -> String {
    printable(&String::from_utf8_lossy(&command.line))
}

/// How it ended: a status, or a signal.
fn state(exit: Option<&Exit>) -> String {
    match exit {
        None => "running".to_owned(),
        Some(Exit {
            code: Some(code), ..
        }) => format!("exited {code}"),
        Some(Exit {
            signal: Some(signal),
            ..
        }) => format!("killed by {signal}"),
        Some(_) => "lost".to_owned(),
    }
}

fn json(commands: &[DetachedCommand]) -> String {
    let mut text = String::new();
    for command in commands {
        let exit = command.exit.as_ref();
        let object = serde_json::json!({
            "id": printable(&command.id),
            "state": match exit {
                None => "running",
                Some(exit) if exit.code.is_some() => "exited",
                Some(exit) if exit.signal.is_some() => "killed",
                Some(_) => "lost",
            },
            "status": exit.and_then(|exit| exit.code),
            "signal": exit.and_then(|exit| exit.signal),
            "pid": command.pid,
            "started_ms": command.started_ms,
            "kept": command.kept,
            "dropped": command.dropped,
            "attached": command.attached,
            "terminal": command.terminal,
            "command": String::from_utf8_lossy(&command.line),
        });
        let _ = writeln!(text, "{object}");
    }
    text
}

fn table(commands: &[DetachedCommand]) -> String {
    let head = [
        "ID", "STATE", "PID", "STARTED", "KEPT", "DROPPED", "ATTACHED",
    ];
    let rows: Vec<[String; 7]> = commands
        .iter()
        .map(|command| {
            [
                printable(&command.id),
                state(command.exit.as_ref()),
                command.pid.to_string(),
                time(command.started_ms / 1000),
                command.kept.to_string(),
                command.dropped.to_string(),
                if command.attached { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].len());
            cells.max().unwrap_or(0).max(head[column].len())
        })
        .collect();
    let mut text = String::new();
    let mut push = |cells: &[&str], last: &str| {
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{last}");
    };
    push(&head, "COMMAND");
    for (row, command) in rows.iter().zip(commands) {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        push(&cells, &line(command));
    }
    text
}

/// A moment in UTC as RFC 3339 has it, from the seconds since 1970.
fn time(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86400, seconds % 86400);
    // Days since 0000-03-01, in eras of 400 years (Howard Hinnant's civil_from_days).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn a_command_line_is_no_news_for_a_terminal() {
        let command = DetachedCommand {
            id: "a".to_owned(),
            line: b"sh \x1b[2J\nx \xff".to_vec(),
            ..DetachedCommand::default()
        };
        let text = table(std::slice::from_ref(&command));
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        assert_eq!(json(&[command]).lines().count(), 1);
    }
}
