//! `farpipe audit`: looks at audit logs, without whoever writes them; and the flags of those who do.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use farpipe_audit::{Audit, AuditLog, AuditOptions, Hash, Head, Report, verify};

use crate::exit::{WithStatus, printed};
use crate::output;

/// The status of `verify` when something is wrong with the log.
const STATUS_SPOILT: u8 = 1;

/// Look at audit logs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Verify(VerifyArgs),
}

/// Say whether an audit log is as it was written; exit with 0 if it is and 1 if not
///
/// Every line has the hash of the one before it. A line that was changed, removed or moved is named; that
/// the end was cut off is seen with --head only, which somebody must have kept elsewhere. A line that a
/// crash cut in the middle is told from that, and is no fault.
#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The log; of one that was rotated its files, the oldest first
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// A line that must be there: HASH, or NUMBER:HASH as in the file of --audit-head
    #[arg(long, value_name = "HASH", value_parser = head)]
    head: Option<(Hash, Option<u64>)>,
}

fn head(text: &str) -> Result<(Hash, Option<u64>), String> {
    let head = match text.contains(':') {
        true => text.parse().map(|head: Head| (head.hash, Some(head.seq))),
        false => text.parse().map(|hash: Hash| (hash, None)),
    };
    head.map_err(|error| format!("{error}; or the hash alone"))
}

pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let Action::Verify(args) = &args.action;
    let mut files = Vec::with_capacity(args.files.len());
    for path in &args.files {
        let cannot = |error| {
            let message = format!("cannot read {}: {error}", path.display());
            WithStatus::failure(message, None)
        };
        files.push(BufReader::new(File::open(path).map_err(cannot)?));
    }
    let report = verify(files, args.head)
        .map_err(|error| WithStatus::failure(format!("cannot read the log: {error}"), None))?;
    for fault in &report.faults {
        output::error(&fault.to_string());
    }
    if !report.is_good() {
        return Ok(STATUS_SPOILT);
    }
    printed(output::data(told(&report).as_bytes()))
}

/// What there is in a log that is as it was written.
fn told(report: &Report) -> String {
    let Some(newest) = report.newest else {
        return "the log is empty\n".to_owned();
    };
    let mut text = format!("{} records, as they were written\n", report.records);
    if report.first > 1 {
        text += &format!(
            "first: {}; those before it are in other files\n",
            report.first
        );
    }
    if report.torn > 0 {
        text += &format!("cut while they were written, by a crash: {}\n", report.torn);
    }
    if report.is_torn_at_end {
        text += "the last line is one of those\n";
    }
    text + &format!("head: {newest}\n")
}

/// The audit log of a process.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct AuditArgs {
    /// Write who was allowed what, and who was not, to this file, as lines of JSON that vouch for one
    /// another; what cannot be written there is not done
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// Write the number and the hash of the newest line to this file, for whoever keeps it elsewhere
    #[arg(long, value_name = "FILE", requires = "audit_log")]
    audit_head: Option<PathBuf>,
    /// See that each line is on the disk before what it tells of begins
    #[arg(long, requires = "audit_log")]
    audit_sync: bool,
}

impl AuditArgs {
    /// The log, if there is to be one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.audit_log.as_deref()
    }

    pub(crate) fn open(&self) -> anyhow::Result<Audit> {
        let Some(file) = self.audit_log.clone() else {
            return Ok(Audit::default());
        };
        let options = AuditOptions {
            file,
            head: self.audit_head.clone(),
            sync: self.audit_sync,
        };
        let opened = AuditLog::open(options);
        let log = opened.map_err(|error| {
            WithStatus::failure(error.to_string(), Some(error.hint().to_owned()))
        })?;
        // That it can be written is seen now, and not when the first command comes.
        let began = serde_json::json!({
            "event": "opened",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
        });
        log.append(began)
            .map_err(|error| WithStatus::failure(error.to_string(), None))?;
        Ok(Audit::new(Arc::new(log)))
    }
}

/// Opens the file anew, which was moved away. Blocks on the disk for a moment.
pub(crate) fn reopen(audit: &Audit) {
    match audit.log().map(AuditLog::reopen) {
        None => {}
        Some(Ok(())) => tracing::info!("the audit log was opened again"),
        Some(Err(error)) => {
            output::error(&format!("the audit log goes on where it was: {error}"));
        }
    }
}
