//! What must hold when a session is over at both ends.

use farpipe_net::SessionEnd;
use farpipe_proto::limits::{LINGER_UNCONFIRMED, REFUSED_SPAN};

use super::app::Part;
use super::cable::Way;
use super::flow::{Ended, Flow, Told};
use super::scenario::Scenario;
use super::trace::Noted;

/// How both ends ended.
#[derive(Debug)]
pub struct Ends {
    /// The opener's.
    pub opener: Noted,
    /// The acceptor's; `None`: no session came about.
    pub acceptor: Option<Noted>,
    /// How many came about.
    pub sessions: u64,
}

impl Ends {
    /// All ends of flows.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        let theirs = self.acceptor.iter().flat_map(|noted| &noted.ended.parts);
        self.opener.ended.parts.iter().chain(theirs)
    }
}

/// What must hold at the end.
///
/// # Errors
/// What does not.
pub fn judge(scenario: &Scenario, ends: &Ends) -> Result<(), String> {
    for part in ends.parts() {
        if let Ended::Wrong(at) = part.told.ended {
            return Err(format!("a wrong byte at offset {at}: {part:?}"));
        }
    }
    if ends.sessions != 1 {
        return Err(format!("{} sessions of one request", ends.sessions));
    }
    let Some(acceptor) = &ends.acceptor else {
        return Err("no session came about".to_owned());
    };
    match &acceptor.ended.result {
        Ok(()) => {}
        // An opener that has all and finds nobody for a while leaves; the acceptor waits for its
        // last words in vain.
        Err(SessionEnd::Lost(_))
            if ends.opener.ended.result.is_ok() && ends.opener.unlinked >= REFUSED_SPAN => {}
        Err(end) => return Err(format!("the acceptor failed: {end}")),
    }
    // One end left before the other had heard its last words.
    let is_short = ends.opener.ended.result.is_err() || acceptor.ended.result.is_err();
    for (number, lane) in scenario.lanes.iter().enumerate() {
        for (way, flow) in [(Way::Up, &lane.up), (Way::Down, &lane.down)] {
            let find = |giver| {
                ends.parts()
                    .find(|part| part.lane == number && part.way == way && part.giver == giver)
                    .map(|part| &part.told)
            };
            match (find(true), find(false)) {
                (Some(given), Some(taken)) => {
                    judge_flow(flow, given, taken, is_short).map_err(|what| {
                        format!("stream {number} {way:?}: {what}: {given:?}, {taken:?}")
                    })?
                }
                (given, taken) => {
                    return Err(format!("stream {number} {way:?}: {given:?}, {taken:?}"));
                }
            }
        }
    }
    match &ends.opener.ended.result {
        Ok(()) => Ok(()),
        // A one-shot acceptor that has all and said so leaves one day; whether its last words
        // arrived the opener then cannot know.
        Err(SessionEnd::Lost(_) | SessionEnd::Refused(_) | SessionEnd::Forgotten(_))
            if !scenario.keep && acceptor.unlinked >= LINGER_UNCONFIRMED =>
        {
            Ok(())
        }
        Err(end) => Err(format!("the opener failed: {end}")),
    }
}

/// Whether the two ends of a flow fit together.
///
/// # Errors
/// What does not.
pub(super) fn judge_flow(
    flow: &Flow,
    given: &Told,
    taken: &Told,
    is_short: bool,
) -> Result<(), &'static str> {
    if taken.bytes > given.bytes {
        return Err("more was taken than given");
    }
    match (&given.ended, &taken.ended) {
        (Ended::Whole, Ended::Whole) => {
            if taken.bytes != flow.len || given.bytes != flow.len {
                return Err("cut short");
            }
            if flow.reset_at.is_some() {
                return Err("a source that failed is no end");
            }
            Ok(())
        }
        // Each end may break off at any time, also after the other had done its part.
        (_, Ended::Broke) if flow.stop_at.is_some_and(|at| taken.bytes >= at) => Ok(()),
        (Ended::Broke, Ended::Broken) if flow.reset_at.is_some() => Ok(()),
        (Ended::Broke, Ended::Session(_)) if flow.reset_at.is_some() && is_short => Ok(()),
        _ => Err("an end nobody asked for"),
    }
}
