//! The faults that farpipe claims to survive or to refuse, one row each, in the order of the page.

/// A fault and what becomes of it.
#[derive(Debug)]
pub(crate) struct Row {
    /// A letter for the kind and a number; in the names of tests in small letters.
    pub(crate) id: &'static str,
    pub(crate) fault: &'static str,
    pub(crate) outcome: &'static str,
}

const fn row(id: &'static str, fault: &'static str, outcome: &'static str) -> Row {
    Row { id, fault, outcome }
}

/// A kind of faults: its title and its rows.
pub(crate) const SECTIONS: &[(&str, &[Row])] = &[
    (
        "Network and session",
        &[
            row(
                "N1",
                "a connection is cut in any state, after any byte",
                "resumed where it was, every byte once",
            ),
            row(
                "N2",
                "it is cut between receipt and acknowledgement",
                "sent again, and trimmed",
            ),
            row(
                "N3",
                "a link falls silent, or is half open",
                "noticed after three beats, then as N1",
            ),
            row(
                "N4",
                "a reset with data unread, or an end in one direction only",
                "what was not acknowledged comes again",
            ),
            row("N5", "single bytes, glued frames", "as one write"),
            row(
                "N6",
                "a link that crawls",
                "no timeout while anything moves; memory bounded",
            ),
            row(
                "N7",
                "the reader of one stream stops",
                "that stream waits, the others do not",
            ),
            row(
                "N8",
                "no reader, and a flood of requests",
                "answers are bounded, then the session ends",
            ),
            row(
                "N9",
                "a peer that takes no bytes from its socket",
                "waited for without spinning, memory bounded",
            ),
            row(
                "N10",
                "a new link while the old one looks alive",
                "the old one is fenced",
            ),
            row(
                "N11",
                "two who would resume one session",
                "the newer wins if it is the same identity",
            ),
            row(
                "N12",
                "no link in time, or the other process is a new one",
                "an error at both ends, never a success",
            ),
            row(
                "N13",
                "the relay is killed and started again",
                "sessions go on over it",
            ),
            row(
                "N14",
                "the relay comes back and does not know the agent",
                "another relay is asked, or the error says so",
            ),
            row(
                "N15",
                "the agent is killed while a command runs",
                "no success; the command is not run twice",
            ),
            row(
                "N16",
                "the client is killed",
                "the far end hears of it, and nothing of its command stays",
            ),
            row(
                "N17",
                "the address of one end changes",
                "resumed from the new one",
            ),
            row(
                "N18",
                "a proxy, a login page or a stranger on the way",
                "a message that names the step and what to do",
            ),
            row(
                "N19",
                "all come back at once",
                "with jitter, and all are served",
            ),
            row(
                "N20",
                "names or addresses that do not work",
                "the next address; the error names each",
            ),
            row(
                "N21",
                "the wall clock jumps",
                "links stay; certificates are compared with the clock as it is",
            ),
        ],
    ),
    (
        "Hostile or broken peer",
        &[
            row("P1", "a length bomb", "refused from the header alone"),
            row(
                "P2",
                "unknown types, reserved bits, other versions",
                "an error, or skipped where that is the rule",
            ),
            row(
                "P3",
                "stream numbers that cannot be",
                "the session ends; late frames are ignored",
            ),
            row(
                "P4",
                "credit that overflows, or gives nothing",
                "the session ends",
            ),
            row(
                "P5",
                "data beyond credit",
                "the session ends, nothing was allocated",
            ),
            row(
                "P6",
                "credit that leaks",
                "back at its start when nothing is open",
            ),
            row("P7", "a flood of empty frames", "the session ends"),
            row(
                "P8",
                "streams opened and reset in a loop",
                "the session ends",
            ),
            row(
                "P9",
                "too many streams, or too much to say of one",
                "that one is refused",
            ),
            row(
                "P10",
                "garbage in the place of messages",
                "an error, no panic",
            ),
            row(
                "P11",
                "offsets that cannot be",
                "the session ends; nothing is delivered twice",
            ),
            row(
                "P12",
                "WebSocket frames that break its rules",
                "closed as RFC 6455 says",
            ),
            row(
                "P13",
                "compression offered, or a bomb",
                "never negotiated; bounded",
            ),
            row(
                "P14",
                "a handshake that takes for ever or is very long",
                "given up after its deadline, at its limit",
            ),
            row(
                "P15",
                "a flood of strangers",
                "they give way; who was let in is unharmed",
            ),
            row(
                "P16",
                "a web page of somebody else's",
                "refused before the upgrade",
            ),
            row(
                "P17",
                "a relay that changes, drops or repeats bytes",
                "an integrity error, nothing delivered",
            ),
        ],
    ),
    (
        "Identity and permission",
        &[
            row(
                "A1",
                "certificates that are no good",
                "refused, with the reason",
            ),
            row(
                "A2",
                "tokens that are no good",
                "refused; the reason is in the listener's log only",
            ),
            row("A3", "a token or a proof used again", "refused"),
            row(
                "A4",
                "names that mislead",
                "refused where they are made and where they are read",
            ),
            row("A5", "two names for one caller", "one identity decides"),
            row(
                "A6",
                "a policy that is missing, damaged or half written",
                "nothing is allowed beyond the last good one",
            ),
            row(
                "A7",
                "paths, links and variables that lead elsewhere",
                "resolved first, then compared",
            ),
            row(
                "A8",
                "secrets in arguments, URLs and logs",
                "refused or left out",
            ),
        ],
    ),
    (
        "Files",
        &[
            row(
                "F1",
                "names that are no plain names",
                "stored as they are beneath the root, or refused",
            ),
            row(
                "F2",
                "links that lead out, also swapped meanwhile",
                "not followed",
            ),
            row("F3", "devices, FIFOs, setuid", "left out, cleared"),
            row(
                "F4",
                "files that nobody asked for, of other lengths",
                "refused; what is there stays",
            ),
            row(
                "F5",
                "a full or broken disk",
                "an error with the path; what is there stays",
            ),
            row(
                "F6",
                "a copy that was cut, a source that changed",
                "gone on with, or begun again; never mixed",
            ),
            row(
                "F7",
                "holes, empty files, very many files, names that differ by case",
                "as at the source",
            ),
            row(
                "F8",
                "a kill around the renaming",
                "the old file or the new one, whole",
            ),
        ],
    ),
    (
        "Commands",
        &[
            row("X1", "binary input and output", "byte-exact"),
            row(
                "X2",
                "a reader that goes away",
                "SIGPIPE at the writer, 141",
            ),
            row(
                "X3",
                "a command that ignores signals or leaves children behind",
                "ended after the grace; the status is told",
            ),
            row("X4", "zombies, numbers used again", "all are reaped"),
            row(
                "X5",
                "each way to end, or not to begin",
                "a status of its own",
            ),
            row(
                "X6",
                "no descriptors left",
                "new work is refused, old sessions go on",
            ),
            row("X7", "terminal sizes in a storm", "the last one counts"),
            row(
                "X8",
                "the answer to a request is lost",
                "it is run once; the second answer is the first",
            ),
        ],
    ),
    (
        "The log of topics",
        &[
            row(
                "L1",
                "the power is cut at any operation of the disk",
                "all that was acknowledged is there, once and in order, and nothing that nobody sent",
            ),
            row(
                "L2",
                "the end of a log is cut off, zeros, or garbage",
                "taken away up to the last batch that was acknowledged, and told",
            ),
            row(
                "L3",
                "a bit flips anywhere",
                "found by a sum, never served; what is whole stays",
            ),
            row(
                "L4",
                "a sync fails",
                "nothing is acknowledged before the log is opened anew",
            ),
            row(
                "L5",
                "the disk is full",
                "refused, and taken when there is room; nothing is lost",
            ),
            row(
                "L6",
                "a segment is missing, a foreign file, two processes, another version",
                "not opened, with the file's name; nothing is changed",
            ),
            row(
                "L7",
                "a reader dies between what it wrote and saying so",
                "another one reads from there; what was said to be done is read by none again",
            ),
            row(
                "L10",
                "the clock goes back, with retention by time",
                "nothing is removed for it; times in a log never go back",
            ),
        ],
    ),
    (
        "Configuration and operation",
        &[
            row(
                "G1",
                "a wrong configuration",
                "the place and what to write; nothing is started",
            ),
            row(
                "G2",
                "signals, second instances, missing directories, closed descriptors",
                "as documented",
            ),
        ],
    ),
];

/// What no test can show yet, and why.
pub(crate) const NOT_YET: &[(&str, &str)] = &[
    (
        "transforms in WASM (traps, loops, memory)",
        "there are none yet",
    ),
    (
        "foreign engines (brokers that go away)",
        "there are none yet",
    ),
];
