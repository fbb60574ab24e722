//! Whether the policy still allows what a stream does, asked again as long as it lasts: what was taken from a
//! caller ends within [`STANDING_LOOK`] of the change of the policy.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use farpipe_proto::identity::Caller;
use farpipe_proto::limits::STANDING_LOOK;

use super::Serving;
use crate::policy::{Denied, Policy};

/// Questions of one stream that are asked again; of more than that the first ones are. Many more than a
/// stream has: a copy has one for each of its sources, a tail one for each file that it has found.
const QUESTIONS_MAX: usize = 1024;

/// Why it would be denied now, if it would. Looks at the disk.
type Question = dyn Fn(&Policy, &Caller) -> Option<Denied> + Send + Sync;

/// What was asked for a stream and allowed. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Granted(Arc<Mutex<Vec<Arc<Question>>>>);

impl Granted {
    /// It was allowed, and `denied` asks again.
    pub(crate) fn note(
        &self,
        denied: impl Fn(&Policy, &Caller) -> Option<Denied> + Send + Sync + 'static,
    ) {
        let mut questions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if questions.len() < QUESTIONS_MAX {
            questions.push(Arc::new(denied));
        }
    }

    fn questions(&self) -> Vec<Arc<Question>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Granted")
            .field(&self.questions().len())
            .finish()
    }
}

impl Serving {
    /// Ready when the policy has changed and does not allow any more what this stream does; why is in this
    /// host's log by then. Cancel safe.
    pub(super) async fn withdrawn(&self) {
        let Some(caller) = self.caller.clone().filter(|_| self.agent.policy.has_file()) else {
            return std::future::pending().await;
        };
        // By what all of it was found allowed last.
        let mut seen: Option<(Arc<Policy>, usize)> = None;
        loop {
            tokio::time::sleep(STANDING_LOOK).await;
            let questions = self.granted.questions();
            let (live, caller) = (Arc::clone(&self.agent.policy), caller.clone());
            let before = seen.take();
            let asked = tokio::task::spawn_blocking(move || {
                let policy = live.current();
                let is_known = before.is_some_and(|(before, asked)| {
                    Arc::ptr_eq(&before, &policy) && asked == questions.len()
                });
                let denied = match is_known {
                    true => None,
                    false => questions.iter().find_map(|denied| denied(&policy, &caller)),
                };
                (policy, questions.len(), denied)
            });
            match asked.await {
                Ok((policy, asked, None)) => seen = Some((policy, asked)),
                Ok((_, _, Some(why))) => {
                    self.teller().deny(&why.to_string());
                    tracing::warn!(
                        "{}: ended: the policy does not allow it any more",
                        self.name
                    );
                    self.record.withdrawn(&why.to_string());
                    return;
                }
                Err(error) => {
                    tracing::error!("{}: the policy could not be asked: {error}", self.name);
                }
            }
        }
    }
}
