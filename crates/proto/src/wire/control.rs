//! Payloads of control frames, in Protobuf so that they can grow (docs/protocol.md section 3; the
//! schema there and these types are the same, field by field).

use prost::Message as _;

use crate::limits::MESSAGE_MAX;
use crate::wire::tail::Tail;
use crate::wire::topic::TopicAsk;

/// First frame of the dialling side.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hello {
    /// Lowest protocol version spoken.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Highest protocol version spoken.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// Bit set of optional features ([`super::super::link::Features`]).
    #[prost(uint64, tag = "3")]
    pub features: u64,
    /// 32 random bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub nonce: Vec<u8>,
    /// Name and version of the software, for logs.
    #[prost(string, tag = "5")]
    pub software: String,
    /// Whether this side wants both sides to prove a secret.
    #[prost(bool, tag = "6")]
    pub wants_proof: bool,
    /// The ticket whose secret that is; empty: another secret.
    #[prost(bytes = "vec", tag = "7")]
    pub ticket: Vec<u8>,
    /// The token whose secret that is; neither: the loopback secret.
    #[prost(bytes = "vec", tag = "8")]
    pub token: Vec<u8>,
}

/// The answer to HELLO.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Welcome {
    /// The version both will speak.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The features both have.
    #[prost(uint64, tag = "2")]
    pub features: u64,
    /// 32 random bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub nonce: Vec<u8>,
    /// Name and version of the software, for logs.
    #[prost(string, tag = "4")]
    pub software: String,
    /// Proof that the accepting side has the loopback secret; empty if none is asked for.
    #[prost(bytes = "vec", tag = "5")]
    pub proof: Vec<u8>,
}

/// The dialling side's credentials.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Auth {
    /// Proof that the dialling side has the loopback secret.
    #[prost(bytes = "vec", tag = "1")]
    pub proof: Vec<u8>,
}

/// Asks for a tunnel to a session.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Attach {
    /// Where to: empty for the process at the other end of this link.
    #[prost(string, tag = "1")]
    pub route: String,
    /// The session's key, 32 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub key: Vec<u8>,
    /// Counts the opener's attaches, from 1; a higher one fences the lower.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// The offset up to which the opener has the acceptor's bytes.
    #[prost(uint64, tag = "4")]
    pub received: u64,
    /// Whether the opener has ever seen an ATTACHED: then an unknown key is an expired session.
    #[prost(bool, tag = "5")]
    pub established: bool,
    /// How long ago the opener first asked, in milliseconds.
    #[prost(uint64, tag = "6")]
    pub age_ms: u64,
    /// The opener's `--resume-for`, in milliseconds.
    #[prost(uint64, tag = "7")]
    pub resume_for_ms: u64,
    /// Who asks, as a relay says it: the identity in the certificate that it verified. Of a
    /// neighbour that is no relay it means nothing.
    #[prost(string, tag = "8")]
    pub caller: String,
    /// The session's byte stream is TLS end to end (docs/protocol.md section 5.1).
    #[prost(bool, tag = "9")]
    pub sealed: bool,
    /// With the route of a pipe and before the first ATTACHED: how long a relay may hold it, in
    /// milliseconds, for the pipe's writer to come.
    #[prost(uint64, tag = "10")]
    pub hold_ms: u64,
}

/// The tunnel is there.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Attached {
    /// The offset up to which the acceptor has the opener's bytes.
    #[prost(uint64, tag = "1")]
    pub received: u64,
    /// Milliseconds for which the acceptor keeps the session without a link, if that is less than the
    /// opener tries to resume; 0: as long as it was asked to. The opener tries no longer.
    #[prost(uint64, tag = "2")]
    pub kept_ms: u64,
}

/// An agent, or a pipe's writer, asks a relay to send those on who ask for its name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Register {
    /// 1 to 64 letters, digits, dots, hyphens and underscores; the one in the certificate, if there
    /// is one.
    #[prost(string, tag = "1")]
    pub name: String,
    /// For people and for choosing among hosts: `key=value` or a word.
    #[prost(string, repeated, tag = "2")]
    pub tags: Vec<String>,
    /// Random, the same as long as the process lives: tells its new link from another process.
    #[prost(bytes = "vec", tag = "3")]
    pub instance: Vec<u8>,
    /// It is the writer of the pipe of that name, and no agent: names of pipes are apart from those of
    /// agents, and belong to whoever has registered them, as long as it has.
    #[prost(bool, tag = "4")]
    pub pipe: bool,
}

/// The agent is known.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Registered {
    /// Bytes of DATA payload that may be sent on each tunnel before a HOP-CREDIT.
    #[prost(uint64, tag = "1")]
    pub window: u64,
}

/// Asks a relay for the agents it knows, in the order of their names.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct List {
    /// Only names behind this one.
    #[prost(string, tag = "1")]
    pub after: String,
    /// Pipes, and no agents: a [`Host`] each, whose sessions are the readers.
    #[prost(bool, tag = "2")]
    pub pipes: bool,
}

/// Agents that a relay knows.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Listed {
    /// As many as fit.
    #[prost(message, repeated, tag = "1")]
    pub hosts: Vec<Host>,
    /// Others follow: ask for those behind the last one.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// One agent.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Host {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it said of itself.
    #[prost(string, repeated, tag = "2")]
    pub tags: Vec<String>,
    /// How long its link has been up, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub up_ms: u64,
    /// Sessions that are joined to it.
    #[prost(uint32, tag = "4")]
    pub sessions: u32,
}

/// The process at the other end of the link is about to leave.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GoAway {
    /// Where else to go, of what the neighbour knows already; empty: wherever it likes.
    #[prost(string, repeated, tag = "1")]
    pub urls: Vec<String>,
}

/// A tunnel or a whole link is refused.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Refused {
    /// A [`RefuseCode`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Whether asking again later cannot help.
    #[prost(bool, tag = "2")]
    pub is_final: bool,
    /// For people.
    #[prost(string, tag = "3")]
    pub message: String,
}

/// Why a tunnel or a link is refused (docs/protocol.md section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefuseCode {
    /// No common protocol version.
    Version = 1,
    /// The proof is missing or wrong.
    Auth = 2,
    /// The one-shot listener already serves another session.
    Busy = 3,
    /// The key of an established session is not known here (any more).
    UnknownSession = 4,
    /// The offsets of the two sides cannot be joined.
    Offset = 5,
    /// A newer attach of the same session is known.
    Fenced = 6,
    /// A limit is reached.
    Limit = 7,
    /// The frame sequence broke the protocol.
    Protocol = 8,
    /// It cannot be known whether the session already ran here.
    OutcomeUnknown = 9,
    /// This process is going away.
    ShuttingDown = 10,
    /// The relay knows no agent of that name now.
    NoRoute = 11,
    /// The connection beyond the relay was lost: the tunnel is, the session is not.
    Cut = 12,
    /// End-to-end TLS cannot be had, or it failed.
    EndToEnd = 13,
    /// What the session had was given to a later command of the same caller.
    Replaced = 14,
    /// Whoever the peer stands in for has had the session, and knows it no more.
    Forgotten = 15,
}

impl RefuseCode {
    /// The code of a number on the wire; unknown ones keep only their finality and message.
    #[must_use]
    pub const fn from_wire(code: u32) -> Option<Self> {
        Some(match code {
            1 => Self::Version,
            2 => Self::Auth,
            3 => Self::Busy,
            4 => Self::UnknownSession,
            5 => Self::Offset,
            6 => Self::Fenced,
            7 => Self::Limit,
            8 => Self::Protocol,
            9 => Self::OutcomeUnknown,
            10 => Self::ShuttingDown,
            11 => Self::NoRoute,
            12 => Self::Cut,
            13 => Self::EndToEnd,
            14 => Self::Replaced,
            15 => Self::Forgotten,
            _ => return None,
        })
    }

    /// Whether asking again cannot help: what REFUSED with this code says. A relay says NO_ROUTE
    /// as final to a session that was never attached.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Version
            | Self::Auth
            | Self::Busy
            | Self::UnknownSession
            | Self::Offset
            | Self::Protocol
            | Self::OutcomeUnknown
            | Self::EndToEnd
            | Self::Replaced
            | Self::Forgotten => true,
            Self::Fenced | Self::Limit | Self::ShuttingDown | Self::NoRoute | Self::Cut => false,
        }
    }
}

/// Opens a stream.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Open {
    /// What to join the stream to; empty for the acceptor's own endpoint.
    #[prost(string, tag = "1")]
    pub target: String,
    /// Interactive streams go before bulk ones.
    #[prost(bool, tag = "2")]
    pub interactive: bool,
    /// Both directions are made of blocks, which may be compressed (docs/protocol.md section 6.6).
    #[prost(bool, tag = "3")]
    pub blocks: bool,
    /// The command to run and to join the stream's two directions to (docs/protocol.md section 6.7).
    #[prost(message, optional, boxed, tag = "4")]
    pub command: Option<Box<Command>>,
    /// The stream carries the stderr of the command at this stream, which the other side opened; 0:
    /// it is no stderr.
    #[prost(uint32, tag = "5")]
    pub stderr_of: u32,
    /// A detached command is asked for (docs/protocol.md section 6.8).
    #[prost(message, optional, boxed, tag = "6")]
    pub manage: Option<Box<Manage>>,
    /// The endpoint of the acceptor's host to join the stream to (docs/protocol.md section 6.10).
    #[prost(message, optional, boxed, tag = "7")]
    pub endpoint: Option<Box<Endpoint>>,
    /// The stream carries a connection to what listens for this stream, which the other side opened;
    /// 0: it does not.
    #[prost(uint32, tag = "8")]
    pub accepted_at: u32,
    /// Files of the acceptor's host to follow (docs/protocol.md section 6.11).
    #[prost(message, optional, boxed, tag = "9")]
    pub tail: Option<Box<Tail>>,
    /// Files are to be copied from or to the acceptor's host (docs/protocol.md section 6.12).
    #[prost(message, optional, boxed, tag = "10")]
    pub copy: Option<Box<Copy>>,
    /// Something is asked of the topics of a relay, whose end this is (docs/protocol.md section 6.13).
    #[prost(message, optional, boxed, tag = "11")]
    pub topic: Option<Box<TopicAsk>>,
}

/// Files that are asked for, or that are to be taken: one of both. All bytes are taken as they are.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Copy {
    /// Files and directories that are to be sent, from the user's home directory on.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub sources: Vec<Vec<u8>>,
    /// Where what comes is to be put, from the user's home directory on.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub target: Option<Vec<u8>>,
    /// What sources are called there, in their order; empty: what the sending end says.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub names: Vec<Vec<u8>>,
    /// There are several sources, and the target must be a directory.
    #[prost(bool, tag = "4")]
    pub several: bool,
    /// Nothing is to be made: what would be is said.
    #[prost(bool, tag = "5")]
    pub dry_run: bool,
}

/// An endpoint that is asked for.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Endpoint {
    /// As on a command line: `/PATH`, `tcp:HOST:PORT`, `tcp-listen:PORT`… Bytes are taken as they are.
    #[prost(bytes = "vec", tag = "1")]
    pub spec: Vec<u8>,
    /// Which [`Halves`] of it.
    #[prost(uint32, tag = "2")]
    pub halves: u32,
    /// A FIFO ends with its first writer.
    #[prost(bool, tag = "3")]
    pub once: bool,
}

/// Which halves of an endpoint are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halves {
    /// What it says, and to say something to it.
    Both = 0,
    /// What it says.
    Source = 1,
    /// To say something to it.
    Sink = 2,
}

impl Halves {
    /// The halves of a number on the wire.
    #[must_use]
    pub const fn from_wire(halves: u32) -> Option<Self> {
        Some(match halves {
            0 => Self::Both,
            1 => Self::Source,
            2 => Self::Sink,
            _ => return None,
        })
    }
}

/// A command that is asked for. All bytes are taken as they are.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Command {
    /// The program and its arguments; none: the user's login shell.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub argv: Vec<Vec<u8>>,
    /// `argv` is one line for `/bin/sh -c`.
    #[prost(bool, tag = "2")]
    pub shell: bool,
    /// Where it runs, from the user's home directory on; empty: there.
    #[prost(bytes = "vec", tag = "3")]
    pub cwd: Vec<u8>,
    /// `NAME=VALUE` each.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub env: Vec<Vec<u8>>,
    /// It runs on a terminal, with stderr as part of its output.
    #[prost(message, optional, tag = "5")]
    pub terminal: Option<Terminal>,
    /// It goes on without its caller: nothing is joined to the stream.
    #[prost(message, optional, tag = "6")]
    pub detached: Option<Detached>,
}

/// How a command is kept that goes on without its caller.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Detached {
    /// What it is asked for by: chosen by the opener. The same request again starts nothing.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Bytes of stdout that wait for somebody, at most, and as many of stderr.
    #[prost(uint64, tag = "2")]
    pub keep: u64,
    /// The oldest output is lost beyond that; else the command waits.
    #[prost(bool, tag = "3")]
    pub drops: bool,
    /// Its stdin is empty.
    #[prost(bool, tag = "4")]
    pub no_stdin: bool,
}

/// What is asked of detached commands.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Manage {
    /// A [`ManageWhat`].
    #[prost(uint32, tag = "1")]
    pub what: u32,
    /// Of which one; empty for a list.
    #[prost(string, tag = "2")]
    pub id: String,
    /// KILL: the signal's number, as Linux counts.
    #[prost(uint32, tag = "3")]
    pub signal: u32,
    /// KILL: milliseconds until SIGKILL to what is left; 0: never.
    #[prost(uint64, tag = "4")]
    pub grace_ms: u64,
    /// ATTACH: the terminal to show it on.
    #[prost(message, optional, tag = "5")]
    pub terminal: Option<Terminal>,
    /// ATTACH: its stdin stays as it is; nothing is sent to it.
    #[prost(bool, tag = "6")]
    pub no_stdin: bool,
}

/// What may be asked of detached commands (docs/protocol.md section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManageWhat {
    /// All of them: the stream carries [`DetachedCommands`].
    List = 1,
    /// Its stdin, stdout and stderr.
    Attach = 2,
    /// Its end.
    Wait = 3,
    /// A signal for it.
    Kill = 4,
}

impl ManageWhat {
    /// What a number on the wire means.
    #[must_use]
    pub const fn from_wire(what: u32) -> Option<Self> {
        Some(match what {
            1 => Self::List,
            2 => Self::Attach,
            3 => Self::Wait,
            4 => Self::Kill,
            _ => return None,
        })
    }
}

/// The detached commands that the asking one may have.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DetachedCommands {
    /// In the order of their ids.
    #[prost(message, repeated, tag = "1")]
    pub commands: Vec<DetachedCommand>,
}

impl DetachedCommands {
    /// What the stream carries.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// What a stream carried; `None` if it is something else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).ok()
    }
}

/// A detached command.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DetachedCommand {
    /// What it is asked for by.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its words with spaces between them, cut to a length for people.
    #[prost(bytes = "vec", tag = "2")]
    pub line: Vec<u8>,
    /// The number of its process.
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    /// When it was started: milliseconds since 1970.
    #[prost(uint64, tag = "4")]
    pub started_ms: u64,
    /// How it ended; absent while it runs.
    #[prost(message, optional, tag = "5")]
    pub exit: Option<Exit>,
    /// Bytes of its output that wait to be taken.
    #[prost(uint64, tag = "6")]
    pub kept: u64,
    /// Bytes of its output that were lost.
    #[prost(uint64, tag = "7")]
    pub dropped: u64,
    /// Somebody is attached to it.
    #[prost(bool, tag = "8")]
    pub attached: bool,
    /// It runs on a terminal.
    #[prost(bool, tag = "9")]
    pub terminal: bool,
}

/// The terminal of a command.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Terminal {
    /// Lines.
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    /// Characters in a line.
    #[prost(uint32, tag = "2")]
    pub cols: u32,
    /// `$TERM`.
    #[prost(bytes = "vec", tag = "3")]
    pub term: Vec<u8>,
}

/// A signal for a command.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Signal {
    /// Its number, as Linux counts.
    #[prost(uint32, tag = "1")]
    pub number: u32,
}

/// The terminal of a command has another size.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Resize {
    /// Lines.
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    /// Characters in a line.
    #[prost(uint32, tag = "2")]
    pub cols: u32,
}

/// A stream is joined to its target.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Accept {
    /// A command is at the target: an EXIT follows, and the stream is not settled before.
    #[prost(bool, tag = "1")]
    pub has_command: bool,
}

/// A stream cannot be had.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Refuse {
    /// The exit code the opener should end with (125, 126, 127).
    #[prost(uint32, tag = "1")]
    pub status: u32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// The end of one direction before its time: RESET by its sender, STOP by its receiver.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Abort {
    /// An [`AbortCode`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// For people; empty for the ordinary `reader gone`.
    #[prost(string, tag = "2")]
    pub message: String,
    /// STOP with [`AbortCode::Ended`]: bytes of the stream that the sink took.
    #[prost(uint64, tag = "3")]
    pub taken: u64,
}

impl Abort {
    /// Says `code`, and why.
    #[must_use]
    pub fn new(code: AbortCode, message: impl Into<String>) -> Self {
        Self {
            code: code as u32,
            message: message.into(),
            taken: 0,
        }
    }
}

/// Why a direction ended before its time (docs/protocol.md section 6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortCode {
    /// STOP: the reader of the sink went away (EPIPE); the writer should get SIGPIPE.
    ReaderGone = 1,
    /// STOP: the sink failed (disk full…). RESET: the source failed (read error).
    Failed = 2,
    /// The process was told to end (^C, SIGTERM).
    Cancelled = 3,
    /// RESET in answer to a STOP: nothing more is coming.
    Stopped = 4,
    /// STOP: the sink's other end has ended in order, with all that came to it. With less than was
    /// sent this is [`AbortCode::ReaderGone`].
    Ended = 5,
}

impl AbortCode {
    /// The code of a number on the wire; unknown ones count as failures.
    #[must_use]
    pub const fn from_wire(code: u32) -> Self {
        match code {
            1 => Self::ReaderGone,
            3 => Self::Cancelled,
            4 => Self::Stopped,
            5 => Self::Ended,
            _ => Self::Failed,
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Exit {
    /// Exit status, if it exited.
    #[prost(uint32, optional, tag = "1")]
    pub code: Option<u32>,
    /// Signal number, if a signal ended it.
    #[prost(uint32, optional, tag = "2")]
    pub signal: Option<u32>,
    /// Whether it left a core.
    #[prost(bool, tag = "3")]
    pub core_dumped: bool,
    /// Bytes of a detached command's output that were lost since this was last said.
    #[prost(uint64, tag = "4")]
    pub dropped: u64,
}

/// Cuts a message for people to what a frame may carry, at a character's end.
pub fn clip(message: &mut String) {
    let end = message.floor_char_boundary(MESSAGE_MAX);
    message.truncate(end);
}
