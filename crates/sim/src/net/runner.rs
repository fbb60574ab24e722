//! Plays one seeded run after the other in virtual time, whatever is played.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::Runtime;

use super::chance;
use super::trace::Trace;

/// A run that went wrong.
#[derive(Debug)]
pub(super) struct Wrong {
    /// What was found.
    pub(super) what: String,
    /// What had happened, with the milliseconds when.
    pub(super) trace: Vec<String>,
}

/// A runtime in virtual time.
#[derive(Debug)]
pub(super) struct Runner(Runtime);

impl Runner {
    /// # Panics
    /// If the system gives no runtime.
    pub(super) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        Self(runtime)
    }

    /// Plays what `perform` makes of a trace, to the end of all its tasks; also the trace's lines.
    ///
    /// # Errors
    /// [`Wrong`], also for a panic.
    pub(super) fn play<R, F: Future<Output = Result<R, String>>>(
        &mut self,
        seed: u64,
        perform: impl FnOnce(Trace) -> F,
    ) -> Result<(R, Vec<String>), Wrong> {
        chance::seed(seed);
        let trace = Trace::default();
        let played = {
            let trace = trace.clone();
            catch_unwind(AssertUnwindSafe(|| self.0.block_on(perform(trace))))
        };
        let left = self.0.metrics().num_alive_tasks();
        let what = match played {
            Ok(Ok(report)) if left == 0 => return Ok((report, trace.lines())),
            Ok(Ok(_)) => format!("{left} tasks are left"),
            Ok(Err(what)) => what,
            Err(panic) => format!("panic: {}", words(panic.as_ref())),
        };
        // What is left of a failed run must not play along in the next.
        *self = Self::new();
        let trace = trace.lines();
        Err(Wrong { what, trace })
    }

    /// Plays twice: the same must happen at the same times.
    ///
    /// # Errors
    /// [`Wrong`].
    pub(super) fn play_twice<R: PartialEq, F: Future<Output = Result<R, String>>>(
        &mut self,
        seed: u64,
        perform: impl Fn(Trace) -> F,
    ) -> Result<R, Wrong> {
        let (once, lines) = self.play(seed, &perform)?;
        let (again, others) = self.play(seed, &perform)?;
        if once == again {
            return Ok(once);
        }
        Err(Wrong {
            what: not_repeatable(&lines, &others),
            trace: lines,
        })
    }
}

/// Where two runs of one seed part.
pub(super) fn not_repeatable(once: &[String], again: &[String]) -> String {
    let same = once.iter().zip(again).take_while(|(a, b)| a == b).count();
    format!(
        "not repeatable: {:?}, then {:?}",
        once.get(same),
        again.get(same)
    )
}

/// What a panic said.
pub(super) fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(words), _) => words,
        (_, Some(words)) => words,
        (None, None) => "without words",
    }
}
