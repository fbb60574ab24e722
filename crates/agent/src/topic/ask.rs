//! What is asked of topics themselves.

use farpipe_net::{ByteWriter, Dial, Messages, Opener, OpenerConfig};
use farpipe_proto::wire::topic::{TopicState, TopicWant};

use super::{Broken, Ended, session};
use crate::outcome::PipeError;

/// Asks, once: what the relay says of topics.
///
/// # Errors
/// Why it says nothing.
///
/// # Cancellation
/// Dropped, it may be done or not.
pub async fn ask(
    config: OpenerConfig,
    dial: &dyn Dial,
    want: TopicWant,
) -> Result<Vec<TopicState>, PipeError> {
    let talk = async |mut messages: Messages, mut writer: ByteWriter| {
        writer.finish();
        let mut states = Vec::new();
        while let Some(state) = messages.message::<TopicState>().await? {
            states.push(state);
        }
        Ok::<_, Broken>(states)
    };
    match session(Opener::new(config), dial, want, talk).await {
        Ended::Done(states) => Ok(states),
        Ended::Lost(why) => Err(PipeError::Local(format!(
            "{why}; whether the relay has done it is not known"
        ))),
        Ended::Failed(error) => Err(error),
    }
}
