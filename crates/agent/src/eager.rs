//! Polls a future again at once while it wakes itself.
//!
//! The halves of a pipe and its driver wake each other within one task. Left to the runtime each
//! such wake-up costs a look at the network first, a system call that a short message feels.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Polls in a row before the runtime gets its turn.
const TURNS_MAX: usize = 8;

/// Runs `future` as it is, with fewer trips through the runtime. Cancel safe as `future` is.
pub(crate) async fn eager<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    std::future::poll_fn(|cx| poll_eagerly(future.as_mut(), cx, &flag, &waker)).await
}

fn poll_eagerly<F: Future>(
    mut future: Pin<&mut F>,
    cx: &Context<'_>,
    flag: &Flag,
    waker: &Waker,
) -> Poll<F::Output> {
    flag.begin(cx.waker());
    for _ in 0..TURNS_MAX {
        flag.woken.store(false, Ordering::SeqCst);
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
            return Poll::Ready(output);
        }
        if !flag.woken.load(Ordering::SeqCst) {
            break;
        }
    }
    flag.polling.store(false, Ordering::SeqCst);
    // Woken meanwhile, here or by another thread that still saw us polling.
    if flag.woken.load(Ordering::SeqCst) {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}

/// The waker the future sees.
#[derive(Debug, Default)]
struct Flag {
    woken: AtomicBool,
    /// While set, `woken` is looked at by the poll itself.
    polling: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Flag {
    fn begin(&self, task: &Waker) {
        let mut slot = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !slot.as_ref().is_some_and(|known| known.will_wake(task)) {
            *slot = Some(task.clone());
        }
        drop(slot);
        self.polling.store(true, Ordering::SeqCst);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.polling.load(Ordering::SeqCst) {
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(task) = &*task {
                task.wake_by_ref();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wakes itself `left` times, then is ready.
    async fn restless(mut left: usize, polls: &mut usize) {
        std::future::poll_fn(|cx| {
            *polls += 1;
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_at_once() {
        let mut polls = 0;
        let mut future = std::pin::pin!(eager(restless(5, &mut polls)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_ready());
    }

    #[tokio::test]
    async fn a_restless_future_leaves_turns_to_others_and_ends() {
        let mut polls = 0;
        eager(restless(1000, &mut polls)).await;
        assert_eq!(polls, 1001);
    }

    #[tokio::test]
    async fn a_wake_from_another_task_arrives() {
        let (told, hears) = tokio::sync::oneshot::channel();
        let (result, ()) = tokio::join!(eager(hears), async {
            tokio::task::yield_now().await;
            told.send(7).expect("somebody listens");
        });
        assert_eq!(result, Ok(7));
    }
}
