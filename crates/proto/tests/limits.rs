//! docs/protocol.md section 9 prints limits.rs. A failing test prints the table as it should be.

use std::fmt::Write as _;
use std::time::Duration;

use farpipe_proto::limits;

const DOCUMENT: &str = include_str!("../../../docs/protocol.md");
const LIMITS: &str = include_str!("../src/limits.rs");

#[test]
fn the_table_of_limits_is_limits_rs() {
    let mut table = String::from("| limit | value | what it is |\n|---|---|---|\n");
    let mut meaning = String::new();
    let mut values = values().into_iter();
    for line in LIMITS.lines() {
        if let Some(doc) = line.strip_prefix("/// ") {
            meaning = format!("{meaning} {doc}").trim().to_owned();
        } else if let Some(rest) = line.strip_prefix("pub const ") {
            let name = rest.split(':').next().unwrap_or(rest);
            let (known, value) = values.next().expect("a value for every limit");
            assert_eq!(known, name, "the list of values has the order of limits.rs");
            let meaning = std::mem::take(&mut meaning).replace(['[', ']'], "");
            writeln!(table, "| `{name}` | {value} | {meaning} |").expect("a string");
        }
    }
    assert_eq!(values.next(), None);
    assert!(
        DOCUMENT.contains(&table),
        "section 9 of docs/protocol.md should have:\n{table}"
    );
}

/// Every limit in the order of limits.rs, as people write it.
fn values() -> Vec<(&'static str, String)> {
    macro_rules! values {
        ($($name:ident),* $(,)?) => {
            vec![$((stringify!($name), limits::$name.written(stringify!($name)))),*]
        };
    }
    values![
        HOP_FRAME_MAX,
        HOP_CONTROL_MAX,
        INNER_CONTROL_MAX,
        INNER_BYTES_MAX,
        INNER_OPEN_MAX,
        FRAME_MAX,
        FRAME_MIN,
        FRAME_TIME,
        PROMPT_TIME,
        PROMPT_BYTES_MIN,
        WINDOW_INITIAL,
        WINDOW_SESSION_MAX,
        WINDOW_PROCESS_MAX,
        WINDOW_PROCESS_RESERVED,
        WINDOW_GROWTH_TIME_MIN,
        WINDOW_LEVEL,
        WINDOW_USE_TIME,
        CREDIT_STEP_MAX,
        OFFSET_MAX,
        SESSIONS_MAX,
        STREAMS_MAX,
        CONTROL_QUEUE_MAX,
        EMPTY_FRAMES_MAX,
        RESETS_MAX,
        RESETS_WINDOW,
        COMMAND_GRACE,
        COMMAND_SILENCE,
        DETACHED_MAX,
        DETACHED_FOR,
        DETACHED_ID_MAX,
        KEEP_OUTPUT,
        KEEP_OUTPUT_MAX,
        DETACHED_OUTPUT_MAX,
        DETACHED_INPUT_MAX,
        TAIL_PATHS_MAX,
        TAIL_FILES_MAX,
        TAIL_ROTATED_MAX,
        TAIL_ENTRIES_MAX,
        TAIL_MESSAGE_MAX,
        TAIL_DATA_MAX,
        TAIL_LAST_MAX,
        TAIL_LOOK,
        TAIL_HOLD,
        TAIL_QUIET,
        TAIL_ROTATED_FOR,
        TAILS_MAX,
        TAILS_EACH_MAX,
        TAIL_OPEN_MAX,
        TAIL_OPEN_EACH_MAX,
        TAIL_WATCHES_MAX,
        TAIL_WATCHES_EACH_MAX,
        TOPIC_MESSAGE_MAX,
        TOPIC_PARK,
        GROUP_RELEASE,
        GROUP_IN_FLIGHT_MAX,
        GROUP_DELIVERIES_MAX,
        COPIES_MAX,
        COPIES_EACH_MAX,
        COPY_CONTROL_MAX,
        COPY_DATA_MAX,
        COPY_OFFERS_MAX,
        COPY_DEPTH_MAX,
        COPY_CHUNK,
        COPY_KEEP_MIN,
        COPY_UNSYNCED_MAX,
        COPY_BATCH_MAX,
        MESSAGE_MAX,
        ACK_DELAY,
        ACK_BYTES_MAX,
        HANDSHAKE_STEP,
        HANDSHAKE_TOTAL,
        SEAL_HANDSHAKE,
        HANDSHAKES_MAX,
        HANDSHAKES_FIRST,
        HANDSHAKES_WAITING_MAX,
        HANDSHAKE_GRACE,
        PENALTY_FAILED,
        PENALTY_BROKEN,
        PENALTY_FROM,
        PENALTY_EVERY,
        PENALTY_MAX,
        PENALTY_SOURCES_MAX,
        STANDING_LOOK,
        REFUSALS_BURST,
        REFUSALS_EVERY,
        HTTP_HEAD_MAX,
        HTTP_HEADERS_MAX,
        RAW_MESSAGE_MAX,
        RAW_SENT_MAX,
        RAW_INBOX_MAX,
        RAW_OUTBOX_MAX,
        RAW_UPGRADES_MAX,
        RAW_UPGRADE,
        RAW_PING,
        RAW_PINGS_MAX,
        RAW_CLOSE_WAIT,
        RAW_ANSWER_PAUSE,
        RAW_ANSWER_MAX,
        RAW_DRAIN,
        TLS_BUFFER,
        TLS_SESSIONS_MAX,
        AGENTS_MAX,
        AGENTS_SET_MAX,
        PIPES_MAX,
        READERS_MAX,
        SPREAD_MAX,
        TUNNELS_MAX,
        TAG_MAX,
        TAGS_MAX,
        HOP_WINDOW,
        HOP_WINDOW_MAX,
        HOP_WINDOWS_MAX,
        HOP_WINDOWS_RESERVED,
        HOLD,
        HOLD_WALKING,
        HELD_MAX,
        GATEWAY_REQUESTS_MAX,
        GATEWAY_RESUME_FOR,
        GATEWAY_BUFFER,
        GATEWAY_TICKET_FOR,
        GATEWAY_TICKETS_MAX,
        GATEWAY_BATCHES_MAX,
        GATEWAY_KEEP_WAIT,
        GATEWAY_KEEP_WAIT_MAX,
        GATEWAY_EVENTS_BEAT,
        RELAY_DRAIN,
        REUSE_WAY_MAX,
        REUSE_ANSWER,
        REUSE_CLIENTS_MAX,
        REUSE_SESSIONS_MAX,
        REUSE_STREAMS_MAX,
        REUSE_IDLE,
        REUSE_HEARTBEAT,
        HEARTBEAT,
        HEARTBEAT_MIN_PERCENT,
        HEARTBEAT_MAX_PERCENT,
        HEARTBEAT_SILENT_MAX,
        RTT_WINDOW,
        TICKET_FOR,
        RESUME_FOR,
        RESUME_FOR_MAX,
        PARK_EXTRA_MAX,
        PARK_MAX,
        LINGER,
        LINGER_UNCONFIRMED,
        LINGER_PARKED,
        REFUSED_SPAN,
        DRAIN,
        VACATE_MAX,
        VACATE_LINKED,
        BACKOFF,
        BACKOFF_JITTER_PERCENT,
        BACKOFF_LET_IN,
        ALARM_FAILURES,
        PROGRESS_LIFE,
    ]
}

/// A limit as people write it.
trait Written {
    fn written(self, name: &str) -> String;
}

impl Written for u64 {
    fn written(self, name: &str) -> String {
        const COUNTS: [&str; 47] = [
            "GATEWAY_BATCHES_MAX",
            "GROUP_IN_FLIGHT_MAX",
            "GROUP_DELIVERIES_MAX",
            "COPIES_MAX",
            "COPIES_EACH_MAX",
            "TAILS_MAX",
            "TAILS_EACH_MAX",
            "TAIL_OPEN_MAX",
            "TAIL_OPEN_EACH_MAX",
            "TAIL_WATCHES_MAX",
            "TAIL_WATCHES_EACH_MAX",
            "COPY_OFFERS_MAX",
            "COPY_DEPTH_MAX",
            "COPY_BATCH_MAX",
            "TAIL_PATHS_MAX",
            "TAIL_FILES_MAX",
            "TAIL_ROTATED_MAX",
            "TAIL_ENTRIES_MAX",
            "REUSE_CLIENTS_MAX",
            "REUSE_SESSIONS_MAX",
            "REUSE_STREAMS_MAX",
            "GATEWAY_REQUESTS_MAX",
            "GATEWAY_TICKETS_MAX",
            "AGENTS_MAX",
            "AGENTS_SET_MAX",
            "PIPES_MAX",
            "READERS_MAX",
            "DETACHED_MAX",
            "TUNNELS_MAX",
            "TAGS_MAX",
            "HELD_MAX",
            "REFUSALS_BURST",
            "HTTP_HEADERS_MAX",
            "RAW_UPGRADES_MAX",
            "RAW_PINGS_MAX",
            "HANDSHAKES_MAX",
            "HANDSHAKES_FIRST",
            "HANDSHAKES_WAITING_MAX",
            "PENALTY_SOURCES_MAX",
            "SESSIONS_MAX",
            "STREAMS_MAX",
            "CONTROL_QUEUE_MAX",
            "EMPTY_FRAMES_MAX",
            "RESETS_MAX",
            "HEARTBEAT_SILENT_MAX",
            "ALARM_FAILURES",
            "TLS_SESSIONS_MAX",
        ];
        if name.ends_with("PERCENT") {
            format!("{self} %")
        } else if COUNTS.contains(&name) {
            self.to_string()
        } else if self == 1 << 62 {
            "2^62".to_owned()
        } else if self.is_multiple_of(1 << 20) {
            format!("{} MiB", self >> 20)
        } else if self.is_multiple_of(1 << 10) {
            format!("{} KiB", self >> 10)
        } else {
            format!("{self} bytes")
        }
    }
}

impl Written for usize {
    fn written(self, name: &str) -> String {
        (self as u64).written(name)
    }
}

impl Written for u32 {
    fn written(self, name: &str) -> String {
        u64::from(self).written(name)
    }
}

impl Written for Duration {
    fn written(self, _: &str) -> String {
        match self.as_millis() {
            ms if !ms.is_multiple_of(1000) => format!("{ms} ms"),
            ms if ms.is_multiple_of(86_400_000) => format!("{} d", ms / 86_400_000),
            ms if ms.is_multiple_of(60_000) && ms > 60_000 => format!("{} min", ms / 60_000),
            ms => format!("{} s", ms / 1000),
        }
    }
}

impl<const N: usize> Written for [Duration; N] {
    fn written(self, name: &str) -> String {
        self.map(|span| span.written(name)).join(", ")
    }
}
