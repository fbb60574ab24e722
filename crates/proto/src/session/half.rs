//! The two halves of a stream on one side, as transition tables.
//!
//! ```text
//! sending half                                receiving half
//!
//!   Open ──finish──► Finished ──DONE──► Done    Open ──FIN──► Finished ──done──► Done
//!    │ │                │  │                     │ │              │
//!    │ └─────reset──────┤  └──STOP──► Stopped    │ └──RESET──► Reset ◄──RESET──(Finished never)
//!    │                  ▼                        │
//!    └──STOP──► Stopped  Reset                   └──stop──► Stopping ──FIN|RESET──► Stopped
//! ```

/// The half that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SendState {
    /// Bytes may follow.
    Open,
    /// FIN is numbered.
    Finished,
    /// The peer's sink took all and is closed. Final.
    Done,
    /// The peer wants no more. Final.
    Stopped,
    /// This side gave up. Final.
    Reset,
}

/// What happens to a sending half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SendInput {
    /// The source ended.
    Finish,
    /// The source failed.
    Reset,
    /// STOP arrived.
    StopReceived,
    /// DONE arrived.
    DoneReceived,
}

impl SendState {
    /// Every state and input, for the snapshot of the table.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Finished,
        Self::Done,
        Self::Stopped,
        Self::Reset,
    ];

    /// The next state; `None` where the input makes no sense.
    #[must_use]
    pub const fn next(self, input: SendInput) -> Option<Self> {
        match (self, input) {
            (Self::Open, SendInput::Finish) => Some(Self::Finished),
            (Self::Open | Self::Finished, SendInput::Reset) => Some(Self::Reset),
            (Self::Open | Self::Finished, SendInput::StopReceived) => Some(Self::Stopped),
            (Self::Finished, SendInput::DoneReceived) => Some(Self::Done),
            // The peer's STOP and our RESET or its own DONE crossed: nothing changes.
            (Self::Done | Self::Stopped | Self::Reset, SendInput::StopReceived) => Some(self),
            (Self::Open, SendInput::DoneReceived)
            | (Self::Finished, SendInput::Finish)
            | (
                Self::Done | Self::Stopped | Self::Reset,
                SendInput::Finish | SendInput::Reset | SendInput::DoneReceived,
            ) => None,
        }
    }

    /// Whether nothing more can happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Stopped | Self::Reset)
    }
}

/// The half that receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecvState {
    /// Bytes may follow.
    Open,
    /// FIN arrived; the sink may still be writing.
    Finished,
    /// The sink took all and is closed; DONE is numbered. Final.
    Done,
    /// STOP is numbered; what still comes is dropped.
    Stopping,
    /// The sender has confirmed the stop. Final.
    Stopped,
    /// The sender gave up. Final.
    Reset,
}

/// What happens to a receiving half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecvInput {
    /// FIN arrived.
    FinReceived,
    /// RESET arrived.
    ResetReceived,
    /// The sink wants no more, or failed.
    Stop,
    /// The sink's last write and close returned.
    Done,
}

impl RecvState {
    /// Every state, for the snapshot of the table.
    pub const ALL: [Self; 6] = [
        Self::Open,
        Self::Finished,
        Self::Done,
        Self::Stopping,
        Self::Stopped,
        Self::Reset,
    ];

    /// The next state; `None` where the input makes no sense.
    #[must_use]
    pub const fn next(self, input: RecvInput) -> Option<Self> {
        match (self, input) {
            (Self::Open, RecvInput::FinReceived) => Some(Self::Finished),
            (Self::Open, RecvInput::ResetReceived) => Some(Self::Reset),
            (Self::Open, RecvInput::Stop) => Some(Self::Stopping),
            (Self::Finished, RecvInput::Done) => Some(Self::Done),
            // FIN was the sender's last word: it needs no second one.
            (Self::Finished, RecvInput::Stop) => Some(Self::Stopped),
            // A sender whose FIN is not yet confirmed may still fail elsewhere and say so.
            (Self::Finished, RecvInput::ResetReceived) => Some(Self::Reset),
            (Self::Stopping, RecvInput::FinReceived | RecvInput::ResetReceived) => {
                Some(Self::Stopped)
            }
            // Our STOP and its RESET after a FIN crossed.
            (Self::Stopped | Self::Done, RecvInput::ResetReceived) => Some(self),
            (Self::Open | Self::Stopping | Self::Stopped | Self::Reset, RecvInput::Done)
            | (Self::Finished | Self::Done | Self::Stopped | Self::Reset, RecvInput::FinReceived)
            | (Self::Reset, RecvInput::ResetReceived)
            | (Self::Done | Self::Stopping | Self::Stopped | Self::Reset, RecvInput::Stop)
            | (Self::Done, RecvInput::Done) => None,
        }
    }

    /// Whether nothing more can happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Stopped | Self::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn the_tables_are_as_documented() {
        let mut table = String::new();
        for state in SendState::ALL {
            for input in [
                SendInput::Finish,
                SendInput::Reset,
                SendInput::StopReceived,
                SendInput::DoneReceived,
            ] {
                if let Some(next) = state.next(input) {
                    writeln!(table, "send {state:?} {input:?} {next:?}").expect("a string");
                }
            }
        }
        for state in RecvState::ALL {
            for input in [
                RecvInput::FinReceived,
                RecvInput::ResetReceived,
                RecvInput::Stop,
                RecvInput::Done,
            ] {
                if let Some(next) = state.next(input) {
                    writeln!(table, "recv {state:?} {input:?} {next:?}").expect("a string");
                }
            }
        }
        assert_eq!(table, include_str!("half.table"));
    }
}
