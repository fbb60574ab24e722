//! Moves sessions over carriers: sockets, tasks, time and the retained bytes.

pub mod carrier;
pub mod tls;
pub mod token;

mod accepted;
mod acceptor;
mod admission;
mod agent_link;
mod budget;
mod bytes;
mod checkup;
mod clock;
mod driver;
mod entrance;
mod event;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod handshakes;
mod hop;
mod host_port;
mod hosts;
mod link;
mod local;
mod messages;
mod opener;
mod peer;
mod penalties;
mod pool;
mod proxy;
mod reach;
mod redact;
mod refusals;
mod relays;
mod retention;
mod secret;
mod segment;
mod session;
mod settings_dir;
mod shared;
mod stamp;
mod standing;
mod stream;
mod tcp;
mod ticket;
mod trunk;
mod tunnel;

pub use accepted::AcceptedSession;
pub use acceptor::{Acceptor, AcceptorConfig, Sessions};
pub use admission::{Admission, AdmissionError};
pub use agent_link::{AgentLink, AgentLinkConfig, RelayEnd};
pub use budget::WindowBudget;
pub use bytes::{ByteReader, ByteWriter, SharedWatch, halves};
pub use checkup::{CheckupError, Seen, Watch, Welcomed, checkup};
pub use clock::{Clock, WallClock};
pub use entrance::{Entrance, Guest, receive};
pub use event::{Events, LinkEvent};
pub use hop::{Heard, Hop, HopError, moved};
pub use host_port::{HostPort, HostPortError};
pub use hosts::{hosts, pipes};
pub use link::{Greeting, HandshakeError, Wanted, system_random};
pub use local::{LocalAgent, LocalDial, LocalError, LocalSocket, Visitor};
pub use messages::Messages;
pub use opener::{Blame, Dial, DialError, Dialled, Opener, OpenerConfig, Waits};
pub use peer::Peer;
pub use pool::Pool;
pub use proxy::{Granted, PORTAL, Proxy, ProxyError, ProxyUrlError};
pub use reach::Unreached;
pub use redact::{redacted, redacted_url};
pub use refusals::Refusals;
pub use relays::RelayDial;
pub use retention::Retention;
pub use secret::{LoopbackSecret, SecretError, runtime_dir};
pub use segment::{Segment, apply_mask};
pub use session::SessionHandle;
pub use settings_dir::settings_dir;
pub use shared::{Linked, SessionEnd};
pub use stamp::FileStamp;
pub use standing::Standing;
pub use stream::{
    Asked, CommandControl, Fate, PAYLOAD_AT, RecvError, RecvStream, SendError, SendStream, Stream,
    StreamWatch,
};
pub use tcp::{ListenError, Listener, ProxyBefore, Scheme, TcpDial, Url, UrlError, connect, tune};
pub use ticket::{Ticket, TicketError, Tickets, UsedUp};
