//! Who may run what. The one place that decides; everything that a command is asked for through
//! comes here first.

use farpipe_net::Admission;

use super::request::Request;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Where it came from, for people.
    pub peer: String,
    /// What let its connection in.
    pub admission: Admission,
}

/// A request that its caller may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Denied(String);

/// Whether `caller` may have `request`. Until there is a policy: who was let in may run whatever the
/// agent's user may.
pub(crate) fn may(caller: &Caller, _request: &Request) -> Result<(), Denied> {
    match caller.admission {
        // Each has proven, on a link that nobody else can write to, that this host's user let it in.
        Admission::LoopbackSecret | Admission::ClientCertificate | Admission::Ticket => Ok(()),
    }
}

/// Whether `caller` may see, join and end what `starter` has started to go on without it. Until there
/// is a policy: who may run anything may have what runs already.
pub(crate) fn may_manage(_caller: &Caller, _starter: &Caller) -> bool {
    true
}
