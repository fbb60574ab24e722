//! What follows for the opener from a link that did not come about.

use farpipe_proto::link::LinkError;
use farpipe_proto::session::Attempt;
use farpipe_proto::wire::control::{RefuseCode, Refused};

use super::running::{Running, Step};
use super::{Blame, DialError};
use crate::carrier::CarrierError;
use crate::link::{self, HandshakeError};
use crate::shared::SessionEnd;
use crate::tls::TlsError;

/// How a session ended for which the peer stood in, by what it said last.
pub(super) fn behind(code: u32, why: String) -> SessionEnd {
    match RefuseCode::from_wire(code) {
        Some(RefuseCode::UnknownSession) => SessionEnd::Lost(why),
        Some(RefuseCode::OutcomeUnknown) => SessionEnd::Gone(why),
        Some(RefuseCode::EndToEnd) => SessionEnd::Integrity(why),
        Some(RefuseCode::Replaced) => SessionEnd::Replaced(why),
        Some(RefuseCode::Forgotten) => SessionEnd::Forgotten(why),
        _ => SessionEnd::Refused(why),
    }
}

impl Running<'_> {
    pub(super) fn dial_failed(&self, error: DialError) -> Result<Step, SessionEnd> {
        match error.blame {
            Blame::Gone => self.gone(error.message),
            Blame::Final => Err(SessionEnd::Refused(error.message)),
            Blame::Refused | Blame::Stranger if !self.is_known() => {
                let advice = error.advice.map(|advice| format!("; {advice}"));
                Err(SessionEnd::Refused(
                    error.message + &advice.unwrap_or_default(),
                ))
            }
            Blame::Refused | Blame::Reset => Ok(Step::Failed(self.nobody_there(), error.message)),
            Blame::Cut | Blame::Stranger => Ok(Step::Failed(Attempt::Cut, error.message)),
        }
    }

    /// Nobody is left who could say more than was said.
    fn gone(&self, why: String) -> Result<Step, SessionEnd> {
        let mut state = self.opener.shared.lock();
        if !state.session.is_confirmed() {
            return Err(SessionEnd::Gone(why));
        }
        state.session.handle_peer_gone();
        state.dispatch(bytes::BytesMut::new());
        Ok(Step::Complete)
    }

    /// How a reset before the link was up counts.
    fn nobody_there(&self) -> Attempt {
        if self.established {
            Attempt::Refused
        } else {
            Attempt::Cut
        }
    }

    /// Whether the refusal only says that the process which confirmed everything is gone and
    /// another took its place: then all is well.
    fn is_gone(&self, refused: &Refused) -> bool {
        matches!(
            RefuseCode::from_wire(refused.code),
            Some(RefuseCode::UnknownSession | RefuseCode::Busy | RefuseCode::ShuttingDown)
        ) && self.established
            && self.opener.shared.lock().session.is_confirmed()
    }

    pub(super) fn handshake_failed(&self, error: HandshakeError) -> Result<Step, SessionEnd> {
        let why = format!("{}: {error}", self.dial.peer());
        match error {
            HandshakeError::Refused(refused)
            | HandshakeError::Link(LinkError::Refused(refused)) => self.refused(&refused),
            HandshakeError::Carrier(CarrierError::Protocol { .. })
            | HandshakeError::Decode(_)
            | HandshakeError::Link(LinkError::Protocol(_))
                if self.established =>
            {
                // The peer is known to do better: something else stands there for a while.
                Ok(Step::Failed(Attempt::Cut, why))
            }
            // Another program: it says which, if that can be told.
            HandshakeError::Carrier(CarrierError::Protocol { .. }) => Err(SessionEnd::Refused(why)),
            HandshakeError::Decode(_) | HandshakeError::Link(LinkError::Protocol(_)) => {
                Err(SessionEnd::Protocol(why))
            }
            HandshakeError::Carrier(CarrierError::Io(error)) if TlsError::is_final_in(&error) => {
                let why = format!("{}: {error}", self.dial.peer());
                Err(SessionEnd::Refused(why))
            }
            HandshakeError::Carrier(_) => Ok(Step::Failed(self.nobody_there(), why)),
            // The last five are the accepting side's.
            HandshakeError::TimedOut
            | HandshakeError::Endless
            | HandshakeError::Upgrade(_)
            | HandshakeError::Tls(_)
            | HandshakeError::TlsCut(_)
            | HandshakeError::Foreign
            | HandshakeError::Unserved(_) => Ok(Step::Failed(Attempt::Cut, why)),
            HandshakeError::Link(_) => Err(SessionEnd::Refused(why)),
        }
    }

    pub(super) fn refused(&self, refused: &Refused) -> Result<Step, SessionEnd> {
        if RefuseCode::from_wire(refused.code) == Some(RefuseCode::NoRoute) && self.dial.elsewhere()
        {
            tracing::info!("{}", link::printable(&refused.message));
            return Ok(Step::Elsewhere);
        }
        let why = format!(
            "{} refused: {}",
            self.dial.peer(),
            link::printable(&refused.message)
        );
        if RefuseCode::from_wire(refused.code) == Some(RefuseCode::Replaced) {
            return Err(SessionEnd::Replaced(why));
        }
        let is_final = refused.is_final && !self.is_gone(refused);
        let is_unknown = RefuseCode::from_wire(refused.code) == Some(RefuseCode::UnknownSession);
        if is_final && self.established && is_unknown {
            return Err(SessionEnd::Forgotten(why));
        }
        if !is_final && RefuseCode::from_wire(refused.code) == Some(RefuseCode::Cut) {
            // Nobody said no: the answer was lost beyond the relay.
            return Ok(Step::Failed(Attempt::Cut, why));
        }
        if !is_final && self.is_waiting() {
            tracing::info!("{why}");
            return Ok(Step::Waiting);
        }
        if is_final || !self.established {
            Err(SessionEnd::Refused(why))
        } else {
            Ok(Step::Failed(Attempt::Refused, why))
        }
    }
}
