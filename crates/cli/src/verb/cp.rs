//! `farpipe cp`: copies files and trees between hosts, or here.

mod spot;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farpipe_agent::copy::ask::{self, End};
use farpipe_agent::copy::{Event, Journal, Receiver, Sender, Side, Summary, Tally, Top, name_of};
use farpipe_agent::endpoint::Exit;
use farpipe_agent::pipe::{self, Cancel};
use farpipe_agent::shown::shown;
use farpipe_agent::{Outcome, PipeError};
use farpipe_net::{Events, Linked, Opener, SessionEnd, SessionHandle};
use farpipe_proto::limits::{DRAIN, INNER_OPEN_MAX};
use farpipe_proto::wire::control::{Copy, Open};
use tokio::task::JoinSet;

use self::spot::Spot;
use super::anew::Anew;
use super::reuse::ReusedRoute;
use super::route::Way;
use super::session::{SessionArgs, conclude, settle, span};
use crate::exit::WithStatus;
use crate::output;
use crate::progress::{self, Counts};
use crate::signals::Signals;
use crate::status::Status;

/// Some entries could not be copied; the others were.
const STATUS_SOME: i32 = 1;

/// Copy files and directories between hosts
///
/// Each of SRC and DST is a path, with HOST: in front if it is another host's: an agent's name at a relay,
/// or the URL of one that listens, in brackets: [wss://HOST:PORT]:PATH. A relative path begins in the home
/// directory there. Between two other hosts the data passes through this one.
///
/// Directories are copied with all that is in them; modes (but setuid and setgid), times, symbolic links and
/// holes are kept, owners and extended attributes are not, and names of one file (hard links) become a file
/// each. A file appears under its name when it is whole, and what is there already, with the same size and
/// time, is not copied again. If DST is a directory, things are put into it; a SRC that ends with `/.` stands
/// for what is in it. No patterns are expanded at another host. A file that grows meanwhile, as a log does, is
/// copied as it was when it was opened; one that changes otherwise is left out.
///
/// A lost connection is resumed, and so is a copy whose agent is started anew, for as long as --resume-for
/// says. One that was cut, by a signal or for good, goes on where it was when the same is asked for again, at
/// once: what it has of a large file is kept beside it as .NAME.farpipe-part and .NAME.farpipe-sums, which
/// may be removed; what somebody else may have changed in it is read first, and copied anew if it is not what
/// came. A directory that it was making has a file .farpipe-part in it until it is whole, by which it
/// is known that it is to be gone on with, and not to be copied into.
///
/// Exit status 0 if all was copied, 1 if some entries were not, 125 if the copy broke off.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Accepted for what fingers know, as are -R, -a, -p and -f: directories are copied, modes and times kept
    /// and files replaced anyway
    #[arg(short, long, short_alias = 'R')]
    recursive: bool,
    #[arg(short = 'a', long, hide = true)]
    archive: bool,
    #[arg(short = 'p', hide = true)]
    preserve: bool,
    #[arg(short = 'f', long, hide = true)]
    force: bool,
    /// Make nothing, and print what would be
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// The sources, and where to copy them
    #[arg(required = true, num_args = 2.., value_names = ["SRC", "DST"])]
    paths: Vec<OsString>,
    /// How long to try to get a lost connection, or a lost agent, back (30s, 10m, 2h)
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10m")]
    resume_for: Duration,
    #[command(flatten)]
    route: ReusedRoute,
    #[command(flatten)]
    session: SessionArgs,
}

/// Sources of one host that stand behind one another.
struct Group {
    host: Option<String>,
    paths: Vec<OsString>,
}

pub(crate) async fn run(args: Args, quiet: bool) -> anyhow::Result<u8> {
    let (groups, target) = args.spots()?;
    let status = Status::open(args.session.status_fd, args.dry_run)?;
    let (signals, cancel) = Signals::catch()?;
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let events = args
        .session
        .watch(&mut tasks, Arc::clone(&counts), status.clone(), quiet);
    let show = args.session.progress.resolve(quiet, &[]);
    let work = async {
        let mut sessions = Sessions {
            args: &args,
            events,
            open: HashMap::new(),
            running: JoinSet::new(),
            any_reused: false,
            have_met: false,
            quiet,
        };
        let copying = copy(&args, groups, &target, &mut sessions, &counts, &cancel);
        let copied = progress::during(show, None, &counts, copying).await;
        sessions.settle().await;
        copied
    };
    let (outcome, signal) = signals.run(work).await;
    settle(tasks).await;
    let ended = outcome.unwrap_or_else(|| Ok(PipeError::Cancelled.into()));
    let is_lost = |outcome: &Outcome| matches!(outcome.error, Some(PipeError::Session(_)));
    let may_go_on = signal.is_none() && ended.as_ref().is_ok_and(is_lost);
    let code = conclude(ended, signal, &status);
    if may_go_on {
        output::hint("ask again: what is there is kept");
    }
    code
}

impl Args {
    /// What is copied to where, as far as the command line tells.
    fn spots(&self) -> anyhow::Result<(Vec<Group>, Spot)> {
        let mut spots = self
            .paths
            .iter()
            .map(|text| Spot::of(text, self.route.anew()));
        let target = spots.next_back().transpose()?;
        let target = target.ok_or_else(|| WithStatus::usage("no target", "farpipe cp SRC… DST"))?;
        let mut names = HashSet::new();
        let mut groups: Vec<Group> = Vec::new();
        for spot in spots {
            let Spot { host, path } = spot?;
            if let Some(name) = name_of(&path)
                && !names.insert(name)
            {
                return Err(WithStatus::usage(
                    format!("two sources are called {}", spot::last(&path)),
                    "the second would replace the first; copy them into different directories",
                ));
            }
            match groups.last_mut().filter(|group| group.host == host) {
                Some(group) => group.paths.push(path),
                None => groups.push(Group {
                    host,
                    paths: vec![path],
                }),
            }
        }
        Ok((groups, target))
    }
}

/// Copies one group after the other.
async fn copy(
    args: &Args,
    groups: Vec<Group>,
    target: &Spot,
    sessions: &mut Sessions<'_>,
    counts: &Counts,
    cancel: &Cancel,
) -> anyhow::Result<Outcome> {
    let several = args.paths.len() > 2;
    let mut outcome = Outcome::default();
    let mut troubles = 0;
    for group in groups {
        check_ends(&group, several, target).await?;
        match copy_group(args, &group, several, target, sessions, counts, cancel).await? {
            Ok(summary) => {
                let done = summary.counts;
                tracing::info!(
                    "{} files copied, {} bytes; {} were the same already",
                    done.files,
                    done.bytes,
                    done.unchanged
                );
                troubles += summary.troubles;
                let moved = match group.host {
                    Some(_) => &mut outcome.received,
                    None => &mut outcome.sent,
                };
                *moved += done.bytes - done.kept.min(done.bytes);
            }
            Err(error) => {
                outcome.error = Some(error);
                return Ok(outcome);
            }
        }
    }
    if troubles > 0 {
        let entries = if troubles == 1 { "entry" } else { "entries" };
        output::error(&format!("{troubles} {entries} could not be copied"));
        outcome.local_exit = Some(Exit::Code(STATUS_SOME));
    }
    Ok(outcome)
}

/// Copies one group. If an agent knows a session no more, having been started anew, the same is asked for in
/// a new one: what is in its place is not copied again, and of a large file what is on disk is not read again.
async fn copy_group(
    args: &Args,
    group: &Group,
    several: bool,
    target: &Spot,
    sessions: &mut Sessions<'_>,
    counts: &Counts,
    cancel: &Cancel,
) -> anyhow::Result<Result<Summary, PipeError>> {
    let mut anew = Anew::within(args.resume_for);
    loop {
        let journal = journal(group, target);
        counts.show(Arc::clone(&journal.tally));
        let names = group.paths.iter().map(|path| name_of(path)).collect();
        let source = source(group, sessions).await?;
        let receiver = receiver(args, names, several, target, sessions).await?;
        let error = match ask::run(source, receiver, &journal, cancel.clone()).await {
            Ok(summary) => return Ok(Ok(summary)),
            Err(error) => error,
        };
        let why = match &error {
            PipeError::Session(SessionEnd::Refused(why)) | PipeError::RemoteCancelled(why)
                if sessions.have_met(group, target, &journal.tally) =>
            {
                why
            }
            // It was there, or that says nothing of the far agents: another session finds them, or is told.
            PipeError::Session(SessionEnd::Forgotten(why) | SessionEnd::Gone(why)) => why,
            _ => return Ok(Err(error)),
        };
        if journal.tally.moved_bytes.load(Ordering::Relaxed) > 0 {
            anew.handle_progress();
        }
        let Some(wait) = anew.poll_wait() else {
            return Ok(Err(error));
        };
        if !sessions.quiet {
            let secs = wait.as_secs();
            output::line(&format!(
                "farpipe: {why}; the copy is asked for anew in {secs} s"
            ));
        }
        let waiting = async {
            sessions.leave().await;
            tokio::time::sleep(wait).await;
        };
        if let Err(error) = pipe::unless_cancelled(cancel.clone(), waiting).await {
            return Ok(Err(error));
        }
    }
}

/// A directory in itself would have no end, and a file onto itself no sense; beside others it is one that is
/// the same already.
async fn check_ends(group: &Group, several: bool, target: &Spot) -> anyhow::Result<()> {
    if group.host != target.host {
        return Ok(());
    }
    for path in &group.paths {
        let is_same = match &group.host {
            _ if several => false,
            None => spot::is_same(target.path.clone(), path.clone()).await,
            Some(_) => spot::reads_the_same(&target.path, path),
        };
        if is_same {
            let [path, target] = [path, &target.path].map(|path| shown(&spot::bytes(path)));
            return Err(WithStatus::usage(
                format!("{path} and {target} are the same file"),
                "give another name, or another directory",
            ));
        }
        let is_within = match &group.host {
            None => spot::is_within(target.path.clone(), path.clone()).await,
            // What is a directory there, the agent knows; a file has nothing within.
            Some(_) => spot::lies_below(&target.path, path),
        };
        if is_within {
            return Err(WithStatus::usage(
                format!("{} cannot be copied into itself", shown(&spot::bytes(path))),
                "copy it to a place outside, and move it",
            ));
        }
    }
    Ok(())
}

async fn source(group: &Group, sessions: &mut Sessions<'_>) -> anyhow::Result<End<Sender>> {
    let Some(host) = &group.host else {
        return Ok(End::Here(Sender::new(
            spot::sources(group.paths.clone()).await,
        )));
    };
    let copy = Copy {
        sources: group.paths.iter().map(spot::bytes).collect(),
        ..Copy::default()
    };
    Ok(End::There(sessions.with(host)?, asking(copy)?))
}

async fn receiver(
    args: &Args,
    names: Vec<Option<Vec<u8>>>,
    several: bool,
    target: &Spot,
    sessions: &mut Sessions<'_>,
) -> anyhow::Result<End<Receiver>> {
    let Some(host) = &target.host else {
        let base = spot::base(target.path.clone(), several, names.clone()).await?;
        // Here it was typed what may be made.
        return Ok(End::Here(Receiver::new(
            base,
            Top::Given(names),
            args.dry_run,
        )));
    };
    let copy = Copy {
        target: Some(spot::bytes(&target.path)),
        // It was typed here; a target that is there may be an unfinished copy of it.
        names: names.into_iter().map(Option::unwrap_or_default).collect(),
        several,
        dry_run: args.dry_run,
        ..Copy::default()
    };
    Ok(End::There(sessions.with(host)?, asking(copy)?))
}

fn asking(copy: Copy) -> anyhow::Result<Box<Open>> {
    let words = copy.sources.iter().chain(&copy.names).chain(&copy.target);
    // Each with the few bytes in front of it, and something for the rest.
    let len: usize = words.map(|word| word.len() + 8).sum();
    if len + 1024 > INNER_OPEN_MAX {
        return Err(WithStatus::failure(
            format!("the sources have {len} bytes of names, and 255 KiB is the limit"),
            Some("copy the directory that they are in".to_owned()),
        ));
    }
    Ok(Box::new(Open {
        copy: Some(Box::new(copy)),
        ..Open::default()
    }))
}

/// Says what happens, with the host in front where it is another one.
fn journal(group: &Group, target: &Spot) -> Journal {
    let label = |host: &Option<String>| match host {
        Some(host) => format!("{host}:"),
        None => String::new(),
    };
    let (from, to) = (label(&group.host), label(&target.host));
    let patterns: Vec<String> = match group.host {
        Some(_) => spot::patterns(&group.paths).collect(),
        // The shell here has had its turn.
        None => Vec::new(),
    };
    Journal::new(move |event| match event {
        Event::Trouble {
            path,
            message,
            side,
        } => {
            let label = match side {
                Side::Sending => &from,
                Side::Receiving => &to,
            };
            output::error(&format!("{label}{path}: {message}"));
            if matches!(side, Side::Sending)
                && patterns.contains(&path)
                && message.starts_with("No such file")
            {
                output::hint(
                    "no patterns are expanded at another host; name the files, or copy the directory \
                     that they are in",
                );
            }
        }
        Event::Would(path) => {
            let line = format!("{to}{}\n", shown(&path));
            // A reader that has enough ends nothing that was asked for.
            let _ = output::data(line.as_bytes());
        }
        Event::Kept {
            path,
            kept,
            is_reread,
        } => match is_reread {
            false => {
                tracing::info!("{path}: received part kept, and not read again: {kept} bytes");
            }
            true => tracing::info!(
                "{path}: received part kept, and read again, as it was changed since: {kept} bytes"
            ),
        },
        Event::Restarted { path, why } => tracing::info!("{path}: begins again: {why}"),
    })
}

/// One session with each host.
struct Sessions<'a> {
    args: &'a Args,
    events: Events,
    open: HashMap<String, SessionHandle>,
    running: JoinSet<Result<(), SessionEnd>>,
    /// One of them goes through a local agent.
    any_reused: bool,
    /// All of a copy's hosts have been there at once.
    have_met: bool,
    quiet: bool,
}

impl Sessions<'_> {
    /// The session with a host; it is opened with the first stream.
    fn with(&mut self, host: &str) -> anyhow::Result<SessionHandle> {
        if let Some(handle) = self.open.get(host) {
            return Ok(handle.clone());
        }
        let (route, session) = (&self.args.route, &self.args.session);
        let Way {
            dial,
            mut config,
            is_reused,
        } = route.way_of(host, self.args.resume_for, session)?;
        self.any_reused |= is_reused;
        config.events = Some(self.events.clone());
        let opener = Opener::new(config);
        let handle = opener.handle();
        self.open.insert(host.to_owned(), handle.clone());
        self.running.spawn(async move { opener.run(&*dial).await });
        Ok(handle)
    }

    /// Whether each host has been there: then one that is not comes back, sooner or later. A local agent has
    /// a link at once; behind it a host has been there when it has answered.
    fn have_met(&mut self, group: &Group, target: &Spot, tally: &Tally) -> bool {
        let hosts = [&group.host, &target.host].into_iter().flatten().count();
        let mut handles = self.open.values();
        self.have_met |= match self.any_reused {
            true => tally.hosts.load(Ordering::Relaxed) >= hosts as u64,
            false => handles.all(|handle| handle.linked() != Linked::NotYet),
        };
        self.have_met
    }

    /// Ends all of them, so that nothing of a copy that broke off is in the way of the next.
    ///
    /// # Cancellation
    /// What is left of them ends with [`Sessions::settle`].
    async fn leave(&mut self) {
        self.any_reused = false;
        for (_, handle) in self.open.drain() {
            handle.end(SessionEnd::Closed);
        }
        let left = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, left).await.is_err() {
            self.running.shutdown().await;
        }
    }

    /// Ends all of them. Of a copy that is done each end has said that all is in its place: what becomes of the
    /// sessions afterwards changes nothing, and they say goodbye if they have a link to say it on.
    async fn settle(self) {
        let Self {
            open, mut running, ..
        } = self;
        for handle in open.values() {
            handle.finish_opening();
        }
        let ending = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, ending).await.is_err() {
            for handle in open.values() {
                handle.end(SessionEnd::Closed);
            }
            let left = async { while running.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(DRAIN, left).await;
        }
    }
}
