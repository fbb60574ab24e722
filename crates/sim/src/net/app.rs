//! The applications at both ends of a session: they open, accept and play the planned streams.

use farpipe_net::{
    AcceptedSession, Dial, Fate, Opener, SessionEnd, SessionHandle, Stream, StreamWatch,
};
use farpipe_proto::wire::control::{Accept, Refuse};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::cable::Way;
use super::chance::mix;
use super::flow::{Told, give, take};
use super::scenario::Lane;

/// One end of one flow, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Number of the stream in the plan.
    pub lane: usize,
    /// The way its bytes go.
    pub way: Way,
    /// Whether this is the end that gives.
    pub giver: bool,
    /// What became of it.
    pub told: Told,
    /// When.
    pub at: Instant,
}

/// How a session ended at one end.
#[derive(Debug)]
pub struct Ended {
    /// What `run` returned.
    pub result: Result<(), SessionEnd>,
    /// When it did.
    pub at: Instant,
    /// Its ends of the flows.
    pub parts: Vec<Part>,
    /// What the other side said of each stream.
    pub fates: Vec<(usize, Fate)>,
}

/// Plays the opener's side.
pub async fn opened(opener: Opener, dial: &dyn Dial, lanes: &[Lane], tag: u64) -> Ended {
    let handle = opener.handle();
    let streams = async {
        let played = streams(&handle, lanes, Way::Up, tag).await;
        handle.finish_opening();
        played
    };
    let run = async { (opener.run(dial).await, Instant::now()) };
    let (ended, played) = tokio::join!(run, streams);
    Ended::new(ended, played)
}

/// Plays the acceptor's side.
pub async fn accepted(session: AcceptedSession, lanes: &[Lane], tag: u64) -> Ended {
    let handle = session.handle();
    handle.hold();
    let streams = async {
        let played = streams(&handle, lanes, Way::Down, tag).await;
        // Nothing more is opened, but that is the opener's to say.
        while handle.accept().await.is_some() {}
        handle.release();
        played
    };
    let run = async { (session.run().await, Instant::now()) };
    let (ended, played) = tokio::join!(run, streams);
    Ended::new(ended, played)
}

impl Ended {
    fn new(
        (result, at): (Result<(), SessionEnd>, Instant),
        (parts, watches): (Vec<Part>, Vec<(usize, StreamWatch)>),
    ) -> Self {
        let fates = watches.iter().map(|(lane, watch)| (*lane, watch.fate()));
        Self {
            result,
            at,
            parts,
            fates: fates.collect(),
        }
    }
}

/// Opens the streams of this side, accepts those of the other, and plays all of them.
async fn streams(
    handle: &SessionHandle,
    lanes: &[Lane],
    side: Way,
    tag: u64,
) -> (Vec<Part>, Vec<(usize, StreamWatch)>) {
    let mut tasks = JoinSet::new();
    for (number, lane) in lanes.iter().enumerate() {
        if lane.by == side {
            let (handle, lane) = (handle.clone(), lane.clone());
            tasks.spawn(async move {
                sleep(lane.after).await;
                let stream = handle.open(&number.to_string())?;
                Some(play(stream, side, number, lane, tag).await)
            });
        }
    }
    for _ in lanes.iter().filter(|lane| lane.by != side) {
        let Some((stream, open)) = handle.accept().await else {
            break;
        };
        let number = open.target.parse::<usize>().ok();
        let Some((number, lane)) = number.and_then(|n| Some((n, lanes.get(n)?.clone()))) else {
            stream.refuse(Refuse::default());
            continue;
        };
        stream.accept(Accept::default());
        tasks.spawn(async move { Some(play(stream, side, number, lane, tag).await) });
    }
    let mut parts = Vec::new();
    let mut watches = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Some((both, number, watch))) => {
                parts.extend(both);
                watches.push((number, watch));
            }
            Ok(None) => {}
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => break,
            },
        }
    }
    watches.sort_by_key(|(number, _)| *number);
    (parts, watches)
}

async fn play(
    stream: Stream,
    side: Way,
    number: usize,
    lane: Lane,
    tag: u64,
) -> ([Part; 2], usize, StreamWatch) {
    let Stream {
        mut send,
        mut recv,
        watch,
    } = stream;
    let (out, into, back) = match side {
        Way::Up => (&lane.up, &lane.down, Way::Down),
        Way::Down => (&lane.down, &lane.up, Way::Up),
    };
    let part = |way, giver, told| Part {
        lane: number,
        way,
        giver,
        told,
        at: Instant::now(),
    };
    let given = async {
        let told = give(out, tag_of(tag, number, side), &mut send).await;
        part(side, true, told)
    };
    let taken = async {
        let told = take(into, tag_of(tag, number, back), &mut recv).await;
        part(back, false, told)
    };
    let (given, taken) = tokio::join!(given, taken);
    ([given, taken], number, watch)
}

/// Each flow has bytes of its own, so that strayed ones show.
pub(super) fn tag_of(tag: u64, lane: usize, way: Way) -> u64 {
    mix(tag.wrapping_add(mix(lane as u64 * 2 + u64::from(way == Way::Down))))
}
