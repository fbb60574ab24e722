//! What must hold of each request when all is over.

use farpipe_net::SessionEnd;
use farpipe_proto::limits::REFUSED_SPAN;

use super::log::Request;
use super::plan::{Caller, Plan};
use crate::net::app::Part;
use crate::net::cable::Way;
use crate::net::flow::{Ended, Flow};
use crate::net::judge::judge_flow;

/// What must hold at the end.
///
/// # Errors
/// What does not.
pub(super) fn judge(plan: &Plan, requests: &[Request]) -> Result<(), String> {
    for (number, (caller, request)) in plan.callers.iter().zip(requests).enumerate() {
        request
            .judge(caller)
            .map_err(|what| format!("caller {number}: {what}"))?;
    }
    Ok(())
}

impl Request {
    fn judge(&self, caller: &Caller) -> Result<(), String> {
        for part in self.parts.iter().flatten() {
            if let Ended::Wrong(at) = part.told.ended {
                return Err(format!("a wrong byte at offset {at}: {part:?}"));
            }
        }
        if self.runs > 1 {
            return Err(format!("the command ran {} times", self.runs));
        }
        match &self.ended {
            _ if self.killed => {}
            None => return Err("it has not ended".to_owned()),
            Some(Ok(())) if self.runs == 0 => {
                return Err("success, and the command never ran".to_owned());
            }
            Some(Ok(())) => {}
            // It cannot know how far the process came that is no more.
            Some(Err(_)) if self.agent_died => {}
            Some(Err(_)) if !self.attached => {}
            Some(Err(end)) => return Err(format!("it failed: {end}")),
        }
        let success = matches!(self.ended, Some(Ok(())));
        if success && !self.cut_off && !self.killed {
            match &self.served {
                Some(Ok(())) => {}
                // It had all, found nobody for a while and left; its last words are waited for in vain.
                Some(Err(SessionEnd::Lost(_))) if self.alone >= REFUSED_SPAN => {}
                other => return Err(format!("success, but the agent's session: {other:?}")),
            }
        }
        for (lane, planned) in caller.lanes.iter().enumerate() {
            for (way, flow) in [(Way::Up, &planned.up), (Way::Down, &planned.down)] {
                self.judge_flow(lane, way, flow, success)
                    .map_err(|what| format!("stream {lane} {way:?}: {what}"))?;
            }
        }
        Ok(())
    }

    fn judge_flow(&self, lane: usize, way: Way, flow: &Flow, success: bool) -> Result<(), String> {
        let find = |giver| {
            let mut parts = self.parts.iter().flatten();
            let is = |part: &&Part| part.lane == lane && part.way == way && part.giver == giver;
            parts.find(is).map(|part| &part.told)
        };
        match (find(true), find(false)) {
            (Some(given), Some(taken)) if success => {
                judge_flow(flow, given, taken, self.agent_died)
                    .map_err(|what| format!("{what}: {given:?}, {taken:?}"))
            }
            (Some(given), Some(taken)) if taken.bytes > given.bytes => {
                Err(format!("more was taken than given: {given:?}, {taken:?}"))
            }
            // A sink hears of the source's failure after its caller may have succeeded.
            _ if self.agent_died && (flow.reset_at.is_some() || flow.stop_at.is_some()) => Ok(()),
            (given, taken) if success => Err(format!(
                "success, and an end is missing: {given:?}, {taken:?}"
            )),
            _ => Ok(()),
        }
    }
}
