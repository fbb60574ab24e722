//! A limit on everything, in one place. docs/protocol.md section 9 prints this table; a test keeps
//! the two equal.

use std::time::Duration;

/// Largest hop frame, header included: one carrier message.
pub const HOP_FRAME_MAX: usize = 1024 * 1024;
/// Largest control payload of a hop frame (all but DATA).
pub const HOP_CONTROL_MAX: usize = 16 * 1024;
/// Largest control payload of an inner frame (all but BYTES and OPEN).
pub const INNER_CONTROL_MAX: usize = 16 * 1024;
/// Largest payload of a BYTES frame; a sender uses at most [`FRAME_MAX`].
pub const INNER_BYTES_MAX: usize = HOP_FRAME_MAX - 64;
/// Largest payload of OPEN: a command with its arguments and environment.
pub const INNER_OPEN_MAX: usize = 256 * 1024;
/// Largest payload a sender puts in one BYTES frame: beyond it nothing gets faster and control
/// frames wait longer.
pub const FRAME_MAX: usize = 256 * 1024;
/// Smallest payload limit of the adaptive frame size.
pub const FRAME_MIN: usize = 4 * 1024;
/// A frame should not occupy the link for longer than this.
pub const FRAME_TIME: Duration = Duration::from_millis(2);

/// Of interactive streams no more is on its way than what the link takes in this time, beyond its
/// round trip.
pub const PROMPT_TIME: Duration = Duration::from_millis(250);
/// Bytes of interactive streams that may be on their way however slow the link is.
pub const PROMPT_BYTES_MIN: u64 = 16 * 1024;

/// Credit of a new stream, each direction.
pub const WINDOW_INITIAL: u64 = 256 * 1024;
/// Largest window of one session, all streams together; also what a session retains at most.
pub const WINDOW_SESSION_MAX: u64 = 64 * 1024 * 1024;
/// Largest sum of windows in one process.
pub const WINDOW_PROCESS_MAX: u64 = 256 * 1024 * 1024;
/// What windows that grow leave of [`WINDOW_PROCESS_MAX`], so that a new session finds room for its
/// first stream.
pub const WINDOW_PROCESS_RESERVED: u64 = 64 * 1024 * 1024;
/// A window doubles only if half of it was consumed within max(2 × minimum RTT, this).
pub const WINDOW_GROWTH_TIME_MIN: Duration = Duration::from_millis(2);
/// Up to here a window grows for every reader that keeps up, however long the bytes took that it had to wait for.
pub const WINDOW_LEVEL: u64 = 1 << 20;
/// A stream whose reader has taken nothing for so long leaves its share of the windows to the others.
pub const WINDOW_USE_TIME: Duration = Duration::from_secs(2);
/// Credit is told when so much of it is new, or a quarter of its window.
pub const CREDIT_STEP_MAX: u64 = 1 << 20;
/// Largest stream offset and credit limit; far below overflow.
pub const OFFSET_MAX: u64 = 1 << 62;
/// Sessions at once of one acceptor, with those that wait for a link; one more is refused with
/// LIMIT. A caller with a name has three quarters of them at most.
pub const SESSIONS_MAX: usize = 256;
/// Streams open at once in one session.
pub const STREAMS_MAX: usize = 256;
/// Control frames waiting to be numbered in one session; beyond it the peer is flooding us.
pub const CONTROL_QUEUE_MAX: usize = 4 * STREAMS_MAX;
/// Empty BYTES frames in a row on one stream before the session is closed.
pub const EMPTY_FRAMES_MAX: u32 = 64;
/// Streams a peer may open and reset within [`RESETS_WINDOW`]: an honest one resets all it has open
/// when it is told to end, and again what it opened meanwhile.
pub const RESETS_MAX: u32 = 4 * STREAMS_MAX as u32;
/// The window of [`RESETS_MAX`].
pub const RESETS_WINDOW: Duration = Duration::from_secs(10);
/// How long a command that is told to end may take before it is killed.
pub const COMMAND_GRACE: Duration = Duration::from_secs(5);
/// How long a command's output may be open and silent after the command's end before that is its end
/// too.
pub const COMMAND_SILENCE: Duration = Duration::from_secs(2);
/// Detached commands that an agent keeps, running and ended; for one more the one that ended first is
/// forgotten, and if all run it is refused.
pub const DETACHED_MAX: usize = 256;
/// How long a detached command is kept after its end, with its status and what is left of its output.
pub const DETACHED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Longest id of a detached command.
pub const DETACHED_ID_MAX: usize = 64;
/// Bytes of stdout that wait for somebody to attach, and as many of stderr, unless told otherwise.
pub const KEEP_OUTPUT: usize = 1024 * 1024;
/// What that may be set to.
pub const KEEP_OUTPUT_MAX: usize = 64 * 1024 * 1024;
/// What the output of all that an agent keeps may take.
pub const DETACHED_OUTPUT_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes of stdin that wait for a detached command to read them.
pub const DETACHED_INPUT_MAX: usize = 64 * 1024;
/// Paths and patterns that one stream may ask to follow.
pub const TAIL_PATHS_MAX: usize = 256;
/// Files that one stream follows at once; others that a pattern finds are told and left out.
pub const TAIL_FILES_MAX: usize = 256;
/// Files of one name that are kept open though they have lost it: the older ones are read to their end
/// first, further ones are found by their names.
pub const TAIL_ROTATED_MAX: usize = 32;
/// Entries of directories that a pattern is compared with in one go; what lies beyond is not found.
pub const TAIL_ENTRIES_MAX: usize = 16 * 1024;
/// Largest message of a stream that follows files.
pub const TAIL_MESSAGE_MAX: usize = 256 * 1024;
/// Bytes of a file in one such message.
pub const TAIL_DATA_MAX: usize = 64 * 1024;
/// Bytes before a position that tell a file from another one in its place.
pub const TAIL_LAST_MAX: usize = 64;
/// How often a file is looked at though the system tells of no change: on a network it may not know.
pub const TAIL_LOOK: Duration = Duration::from_secs(1);
/// How long the beginning of a line waits for its end when several files are followed.
pub const TAIL_HOLD: Duration = Duration::from_secs(1);
/// How long a file that has lost its name must be quiet before it is closed.
pub const TAIL_QUIET: Duration = Duration::from_secs(5);
/// When it is closed though it is not quiet, once it was read to its end.
pub const TAIL_ROTATED_FOR: Duration = Duration::from_secs(60);
/// Streams that follow files at one agent, for all callers; one more is refused.
pub const TAILS_MAX: usize = 128;
/// Such streams of one caller.
pub const TAILS_EACH_MAX: usize = 32;
/// Files that all such streams have open, but at most half of the descriptors that the agent's process may
/// have; others are told and wait until one is closed.
pub const TAIL_OPEN_MAX: usize = 4096;
/// Such files of one caller, but at most a quarter of these descriptors.
pub const TAIL_OPEN_EACH_MAX: usize = 1024;
/// Watches of files and directories for all such streams; what is not watched is looked at each second.
pub const TAIL_WATCHES_MAX: usize = 8192;
/// Such watches of one caller.
pub const TAIL_WATCHES_EACH_MAX: usize = 2048;
/// Largest message of a stream that publishes to a topic or reads it; batches stand between messages.
pub const TOPIC_MESSAGE_MAX: usize = 256 * 1024;
/// How long the session of a reader or producer of topics is kept without a link, and as long again; then its partitions are others'.
pub const TOPIC_PARK: Duration = Duration::from_secs(5);
/// How long a member of a group may take to release a partition that another one is to have.
pub const GROUP_RELEASE: Duration = Duration::from_secs(10);
/// Records of a partition that may be sent to a member of a group and not done, unless it says otherwise.
pub const GROUP_IN_FLIGHT_MAX: u32 = 1_000_000;
/// How often a record may be the first that a lost member left undone, unless the member says otherwise, before it is put aside.
pub const GROUP_DELIVERIES_MAX: u32 = 5;
/// Copies that an agent is an end of at once, for all callers; one more is refused.
pub const COPIES_MAX: usize = 64;
/// Such copies of one caller.
pub const COPIES_EACH_MAX: usize = 32;
/// Longest message of a copy, but for data.
pub const COPY_CONTROL_MAX: usize = 16 * 1024;
/// Largest piece of a file in one frame of a copy.
pub const COPY_DATA_MAX: usize = 1024 * 1024;
/// Files that are offered and neither sent nor declined; the sending end waits.
pub const COPY_OFFERS_MAX: usize = 16 * 1024;
/// Directories in one another; what lies deeper is not copied.
pub const COPY_DEPTH_MAX: usize = 128;
/// What of a large file is kept together, when its copy is cut.
pub const COPY_CHUNK: usize = 1024 * 1024;
/// Smallest file of which a part is kept.
pub const COPY_KEEP_MIN: u64 = 4 * 1024 * 1024;
/// Received bytes of a large file that are not on disk yet, at most: what a killed copy loses.
pub const COPY_UNSYNCED_MAX: u64 = 64 * 1024 * 1024;
/// Small files that are written and not in their places yet: they are synced together.
pub const COPY_BATCH_MAX: usize = 4096;
/// Longest human-readable message in a frame, in bytes; longer ones are cut.
pub const MESSAGE_MAX: usize = 1024;

/// An acknowledgement is due at the latest this long after unacknowledged bytes arrived.
pub const ACK_DELAY: Duration = Duration::from_millis(10);
/// An acknowledgement is due at the latest after this many bytes.
pub const ACK_BYTES_MAX: u64 = 256 * 1024;

/// One step of the handshake may take this long without progress.
pub const HANDSHAKE_STEP: Duration = Duration::from_secs(10);
/// The whole handshake: from the connection, through the carrier's upgrade, up to ATTACH.
pub const HANDSHAKE_TOTAL: Duration = Duration::from_secs(30);
/// How long the two ends of a sealed session may have a link to each other and not know each other.
pub const SEAL_HANDSHAKE: Duration = HANDSHAKE_TOTAL;
/// Connections of one listener in the handshake at once, requests at a gateway that are not let in
/// yet among them; for one more the oldest of the source with most gives way that has not shown who it is
/// within [`HANDSHAKE_GRACE`].
pub const HANDSHAKES_MAX: usize = 64;
/// Of those, for sources that have no other connection in the handshake.
pub const HANDSHAKES_FIRST: usize = 16;
/// Connections of one listener that wait for their handshake; of more the source with most loses its newest.
/// Few, because each is a descriptor, of which a process often has no more than 1024.
pub const HANDSHAKES_WAITING_MAX: usize = 256;
/// How long a connection is left in peace though others wait: one round trip shows a certificate.
pub const HANDSHAKE_GRACE: Duration = Duration::from_millis(500);
/// What a source of connections is penalised for a handshake in which it fails to show who it is.
pub const PENALTY_FAILED: Duration = Duration::from_secs(5);
/// The same for one in which it breaks the protocol.
pub const PENALTY_BROKEN: Duration = Duration::from_secs(10);
/// From so much on, all together and less the time since, it gets one connection through in [`PENALTY_EVERY`];
/// others are closed at once. An IPv6 network of 64 bits is one source; this host is none.
pub const PENALTY_FROM: Duration = Duration::from_secs(15);
/// See [`PENALTY_FROM`].
pub const PENALTY_EVERY: Duration = Duration::from_secs(1);
/// A penalty never lasts longer.
pub const PENALTY_MAX: Duration = Duration::from_secs(600);
/// Sources with a penalty that a listener remembers; for one more the one whose penalty is over first is
/// forgotten.
pub const PENALTY_SOURCES_MAX: usize = 4096;
/// How often it is seen whether what let a peer in would let it in still, and whether the policy allows still
/// what a stream does.
pub const STANDING_LOOK: Duration = Duration::from_secs(2);
/// Warnings of refused peers that a listener writes at once; see [`REFUSALS_EVERY`].
pub const REFUSALS_BURST: u32 = 10;
/// After [`REFUSALS_BURST`] one more warning of a refused peer in this time; the others are counted.
pub const REFUSALS_EVERY: Duration = Duration::from_secs(6);

/// Head of an HTTP request or answer in a WebSocket's upgrade, whoever is at the other end.
pub const HTTP_HEAD_MAX: usize = 16 * 1024;
/// Header lines in it.
pub const HTTP_HEADERS_MAX: usize = 100;

/// WebSocket with a foreign end: longest message that has to be whole in memory, which is text or
/// compressed, the latter both before and after it is unfolded; also the longest line that is sent.
/// Binary messages that are not compressed have no limit.
pub const RAW_MESSAGE_MAX: usize = 1024 * 1024;
/// Longest binary message that is sent to one.
pub const RAW_SENT_MAX: usize = 64 * 1024;
/// Bytes received from one that wait to be read, and a message on top of it; then the socket is not
/// read.
pub const RAW_INBOX_MAX: usize = 256 * 1024;
/// Bytes that wait to be sent to one, and a frame on top of it; then the writer waits.
pub const RAW_OUTBOX_MAX: usize = 128 * 1024;
/// Upgrades of one `ws-listen:` at once; for one more the oldest gives way. Of what is upgraded, as
/// many as [`STREAMS_MAX`] are served; further ones wait.
pub const RAW_UPGRADES_MAX: usize = 256;
/// How long one may take, however steadily its bytes trickle.
pub const RAW_UPGRADE: Duration = Duration::from_secs(10);
/// How often a foreign end is asked whether it is there; proxies cut what is silent for 60 s.
pub const RAW_PING: Duration = Duration::from_secs(30);
/// Unanswered pings, with silence otherwise, after which it is not.
pub const RAW_PINGS_MAX: u32 = 3;
/// How long it may be silent when it was told of the end, before that is an end without a closing
/// handshake.
pub const RAW_CLOSE_WAIT: Duration = Duration::from_secs(30);
/// A client that has nothing more to say waits until the answer has paused for so long: many
/// servers stop at a Close, whatever they were saying.
pub const RAW_ANSWER_PAUSE: Duration = Duration::from_secs(1);
/// Longest that it waits for that.
pub const RAW_ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a side that leaves before the end drains so that its Close arrives: less than
/// [`DRAIN`], in which its session has to be settled too.
pub const RAW_DRAIN: Duration = Duration::from_millis(500);

/// A buffer of ciphertext, two for each TLS connection that has something in them: what one system
/// call reads or writes.
pub const TLS_BUFFER: usize = 512 * 1024;
/// TLS sessions one side remembers for resumption.
pub const TLS_SESSIONS_MAX: usize = 256;

/// Agents registered at one relay, unless it is told otherwise; one more is refused with LIMIT.
pub const AGENTS_MAX: usize = 16384;
/// What that may be set to, and how many agents who asks for them takes note of.
pub const AGENTS_SET_MAX: usize = 65536;
/// Pipes that have a writer at one relay; one more is refused with LIMIT.
pub const PIPES_MAX: usize = 1024;
/// Readers that one writer of a pipe waits for, at most.
pub const READERS_MAX: usize = 64;
/// Bytes that the writer of a pipe keeps for readers that are behind, all together, beside what is on its
/// way to each and what is spooled.
pub const SPREAD_MAX: usize = 8 * 1024 * 1024;
/// Tunnels towards one agent at once; one more is refused with LIMIT.
pub const TUNNELS_MAX: usize = 256;
/// Longest of an agent's tags, in bytes.
pub const TAG_MAX: usize = 64;
/// Tags of one agent.
pub const TAGS_MAX: usize = 16;
/// Bytes of DATA payload that an agent may send on a new tunnel before a HOP-CREDIT, and one frame
/// on top of it.
pub const HOP_WINDOW: u64 = 256 * 1024;
/// What the window of one tunnel may grow to: 1 Gbit/s and a round trip of 200 ms have 25 MB under way.
pub const HOP_WINDOW_MAX: u64 = 32 * 1024 * 1024;
/// Largest sum of the tunnels' windows in one relay: what waits there for slow readers.
pub const HOP_WINDOWS_MAX: u64 = 256 * 1024 * 1024;
/// What windows that grow leave of [`HOP_WINDOWS_MAX`], for new tunnels.
pub const HOP_WINDOWS_RESERVED: u64 = 64 * 1024 * 1024;
/// How long a relay holds the ATTACH of an established session for an agent that is not there; at most
/// half of the time for which its opener tries to resume.
pub const HOLD: Duration = Duration::from_secs(30);
/// How long each of several relays holds the first ATTACH to a pipe that has no writer there, before
/// the next one is asked; a relay that is the only one holds it up to [`HOLD`].
pub const HOLD_WALKING: Duration = Duration::from_secs(2);
/// Attaches that one relay holds at once; one more is refused at once.
pub const HELD_MAX: usize = 1024;
/// Requests and WebSockets at a relay's gateway at once that were let in, over all its doors; who has
/// as many as are free gets no more, and is answered 503.
pub const GATEWAY_REQUESTS_MAX: usize = 256;
/// How long the other end of a gateway's session keeps that without a link: the session dies with its
/// relay, but a link to the relay may be back in time.
pub const GATEWAY_RESUME_FOR: Duration = Duration::from_secs(15);
/// Bytes that a gateway's session retains at most.
pub const GATEWAY_BUFFER: u64 = 4 * 1024 * 1024;
/// How long a web page's ticket for one WebSocket is good.
pub const GATEWAY_TICKET_FOR: Duration = Duration::from_secs(60);
/// Tickets at once; for one more the oldest is forgotten.
pub const GATEWAY_TICKETS_MAX: usize = 256;
/// Batches of an upload to a topic that were given to the log and are not acknowledged, of some 128 KiB; then the upload waits.
pub const GATEWAY_BATCHES_MAX: usize = 8;
/// How long nothing of an upload to a topic may be acknowledged, because the disk is full or slow, before it is answered that it failed;
/// unless the request says otherwise.
pub const GATEWAY_KEEP_WAIT: Duration = Duration::from_secs(60);
/// The longest that a request may say.
pub const GATEWAY_KEEP_WAIT_MAX: Duration = Duration::from_secs(600);
/// How often one who reads a topic by server-sent events hears something, if there is nothing to be read.
pub const GATEWAY_EVENTS_BEAT: Duration = Duration::from_secs(10);
/// How long a relay that is told to end waits for its neighbours to leave.
pub const RELAY_DRAIN: Duration = Duration::from_secs(5);

/// Largest message of a command and its local agent about the way to go.
pub const REUSE_WAY_MAX: usize = 64 * 1024;
/// How long a command waits for the local agent's answer before it goes its own way.
pub const REUSE_ANSWER: Duration = Duration::from_secs(1);
/// Commands at once that go through one local agent; one more goes its own way.
pub const REUSE_CLIENTS_MAX: usize = 512;
/// Sessions that a local agent keeps for its user's commands; when one more is wanted and none is idle,
/// the command goes its own way.
pub const REUSE_SESSIONS_MAX: usize = 64;
/// Streams open in one of them, those that the far agent opened included, beyond which the next command
/// gets another session.
pub const REUSE_STREAMS_MAX: usize = STREAMS_MAX / 2;
/// How long a session without streams is kept for the next command.
pub const REUSE_IDLE: Duration = Duration::from_secs(600);
/// Heartbeat of a command and its local agent: either may be stopped for long, and one that has ended
/// is noticed without it.
pub const REUSE_HEARTBEAT: Duration = Duration::from_secs(24 * 3600);

/// Default heartbeat.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// The adapted heartbeat stays between this and [`HEARTBEAT_MAX_PERCENT`] of the set one.
pub const HEARTBEAT_MIN_PERCENT: u32 = 30;
/// See [`HEARTBEAT_MIN_PERCENT`].
pub const HEARTBEAT_MAX_PERCENT: u32 = 250;
/// A link is dead after this many silent beats.
pub const HEARTBEAT_SILENT_MAX: u32 = 3;
/// Window of the minimum round-trip time.
pub const RTT_WINDOW: Duration = Duration::from_secs(10);

/// How long a ticket is good if nobody comes with it, unless told otherwise.
pub const TICKET_FOR: Duration = Duration::from_secs(600);

/// Default of `--resume-for`.
pub const RESUME_FOR: Duration = Duration::from_secs(600);
/// Largest `--resume-for` an acceptor grants.
pub const RESUME_FOR_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// What the acceptor parks beyond the opener's `--resume-for`, at most.
pub const PARK_EXTRA_MAX: Duration = Duration::from_secs(60);
/// The longest an acceptor parks a session, and the default of its own limit: [`RESUME_FOR_MAX`] and
/// [`PARK_EXTRA_MAX`].
pub const PARK_MAX: Duration = Duration::from_secs(7 * 24 * 3600 + 60);
/// How long an acceptor lingers after an unclean end with COMPLETE sent.
pub const LINGER: Duration = Duration::from_secs(2);
/// The same while the opener may still lack the last DONE: long enough for its first backoffs.
pub const LINGER_UNCONFIRMED: Duration = Duration::from_secs(8);
/// How long an acceptor lingers once it is settled without a link: the opener's longest wait and
/// one attempt.
pub const LINGER_PARKED: Duration = Duration::from_secs(60);
/// An opener that has the peer's DONE stops with success once each attempt of this span was
/// refused.
pub const REFUSED_SPAN: Duration = Duration::from_secs(5);
/// How long a refusing or closing side drains so that its reason arrives.
pub const DRAIN: Duration = Duration::from_secs(1);

/// How long a command waits until the session that is to give up something for it has done so.
pub const VACATE_MAX: Duration = Duration::from_secs(5);
/// The same while that session has a link, as far as is known yet: then the command is refused.
pub const VACATE_LINKED: Duration = Duration::from_secs(1);

/// Waits after the first, second… failed attempt in a row; the last one repeats.
pub const BACKOFF: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(30),
];
/// Jitter of a wait, either way.
pub const BACKOFF_JITTER_PERCENT: u32 = 20;
/// The longest wait when a relay had let the last link in, and it was cut before its other end was met:
/// two ends that are cut again and again meet soon only if both are there often.
pub const BACKOFF_LET_IN: Duration = Duration::from_secs(4);
/// Failures in a row that raise the alarm.
pub const ALARM_FAILURES: u32 = 10;
/// A connection that lived this long counts as progress.
pub const PROGRESS_LIFE: Duration = Duration::from_secs(10);

const _: () = assert!(SESSIONS_MAX as u64 * WINDOW_INITIAL <= WINDOW_PROCESS_RESERVED);
