//! A relay that is none of farpipe's: it joins callers to an agent as a relay does, sees all that
//! passes, and does with it what a test says.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use farpipe_net::LoopbackSecret;
use farpipe_proto::wire::control::{Attach, Attached, RefuseCode, Refused, Registered};
use farpipe_proto::wire::hop::{HopFrame, data_header};
use farpipe_proto::wire::id::TunnelId;

use super::peer::{Heard, Peer, TUNNEL};
use super::{DEADLINE, Host};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the caller to the agent.
    There,
    Back,
}

/// Bytes of a session as they came.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The session's place in the order in which their callers came, since the plan was made.
    pub(crate) session: usize,
    pub(crate) way: Way,
    /// Where they lie in what that side said.
    pub(crate) at: usize,
    pub(crate) bytes: Vec<u8>,
}

/// What goes on in place of a piece.
#[derive(Debug)]
pub(crate) enum Act {
    /// These bytes, behind those that went on before, to that session's end.
    Pass(usize, Way, Vec<u8>),
    /// Both ends of the session hear that the other left.
    Detach(usize),
    /// The caller hears that it is refused for good; the agent that the caller left.
    Refuse(usize, &'static str),
}

impl Piece {
    /// It goes on as it is.
    pub(crate) fn pass(self) -> Vec<Act> {
        vec![Act::Pass(self.session, self.way, self.bytes)]
    }
}

/// What the relay does.
pub(crate) struct Plan {
    pub(crate) on_attach: fn(&mut Attach),
    pub(crate) on_piece: Box<dyn FnMut(Piece) -> Vec<Act> + Send>,
}

impl Plan {
    /// Passes all on.
    pub(crate) fn honest() -> Self {
        Self::pieces(Piece::pass)
    }

    /// Changes ATTACH.
    pub(crate) fn attach(on_attach: fn(&mut Attach)) -> Self {
        Self {
            on_attach,
            ..Self::honest()
        }
    }

    /// Changes what passes.
    pub(crate) fn pieces(on_piece: impl FnMut(Piece) -> Vec<Act> + Send + 'static) -> Self {
        Self {
            on_attach: |_| {},
            on_piece: Box::new(on_piece),
        }
    }
}

/// The relay, and what it is told to do. Dropped, its links are cut.
#[derive(Debug)]
pub(crate) struct FalseRelay {
    url: String,
    events: mpsc::Sender<Event>,
}

enum Event {
    /// Somebody came, and wants this.
    Came(Peer, Heard, mpsc::Sender<usize>),
    /// A link said something.
    Said(usize, Heard),
    Plan(Plan),
    /// All that a session's caller said is to be said again under this key; the agent's refusal
    /// goes here.
    Replay(Option<[u8; 32]>, mpsc::Sender<String>),
    Over,
}

impl FalseRelay {
    /// On a free port, for this user's agents and callers. It passes all on.
    pub(crate) fn start(host: &Host) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let (events, told) = mpsc::channel();
        let (secret, came) = (host.secret(), events.clone());
        // Both end with the test's process; connections with the relay.
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (secret, events) = (secret.clone(), came.clone());
                thread::spawn(move || hear(stream, &secret, &events));
            }
        });
        thread::spawn(move || {
            let mut joints = Joints::new();
            while let Ok(event) = told.recv()
                && joints.handle(event)
            {}
            for link in &joints.links {
                link.cut();
            }
        });
        Self {
            url: format!("fp://{addr}"),
            events,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// From now on it does this; sessions are counted from 0 again.
    pub(crate) fn plan(&self, plan: Plan) {
        self.tell(Event::Plan(plan));
    }

    /// Says all that the plan's first caller said once more to the agent, under its key or another;
    /// how the agent refuses that.
    pub(crate) fn replay(&self, key: Option<[u8; 32]>) -> String {
        let (refused, refusal) = mpsc::channel();
        self.tell(Event::Replay(key, refused));
        let refusal = refusal.recv_timeout(DEADLINE);
        refusal.expect("the agent refuses what was said before")
    }

    fn tell(&self, event: Event) {
        self.events.send(event).expect("it runs");
    }
}

impl Drop for FalseRelay {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Over);
    }
}

/// One connection: lets it in and passes on what it says.
fn hear(stream: TcpStream, secret: &LoopbackSecret, events: &mpsc::Sender<Event>) {
    let mut peer = Peer::begin(stream);
    let wish = peer.let_in(secret);
    let (numbered, number) = mpsc::channel();
    if events
        .send(Event::Came(peer.twin(), wish, numbered))
        .is_err()
    {
        return;
    }
    let Ok(link) = number.recv() else { return };
    loop {
        let heard = peer.hear();
        let is_closed = heard == Heard::Closed;
        if events.send(Event::Said(link, heard)).is_err() || is_closed {
            return;
        }
    }
}

/// A session that goes through here, once for each attach.
struct Joint {
    /// The caller's link; none behind a replay.
    caller: Option<usize>,
    /// The tunnel to the agent.
    tunnel: TunnelId,
    attach: Attach,
    /// All that the caller said.
    said: Vec<u8>,
    /// Where each way's next byte lies, as it comes and as it goes on.
    places: [(u64, u64); 2],
    refused: Option<mpsc::Sender<String>>,
}

/// What goes on in one message.
const PART: usize = 16 << 10;

struct Joints {
    plan: Plan,
    links: Vec<Peer>,
    agent: Option<usize>,
    joints: Vec<Joint>,
    /// The first session of the plan.
    first: usize,
}

impl Joints {
    fn new() -> Self {
        Self {
            plan: Plan::honest(),
            links: Vec::new(),
            agent: None,
            joints: Vec::new(),
            first: 0,
        }
    }

    /// Does what follows; `false`: it is over.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Came(peer, wish, number) => {
                let link = self.links.len();
                self.links.push(peer);
                let _ = number.send(link);
                self.came(link, wish);
            }
            Event::Said(link, Heard::Frame(HopFrame::Ping(number))) => {
                self.links[link].send(&HopFrame::Pong(number));
            }
            Event::Said(link, heard) if self.agent == Some(link) => self.agent_said(heard),
            Event::Said(link, heard) => {
                let caller = Some(link);
                let joint = self.joints.iter().position(|joint| joint.caller == caller);
                if let Some(joint) = joint {
                    self.caller_said(joint, heard);
                }
            }
            Event::Plan(plan) => {
                self.plan = plan;
                self.first = self.joints.len();
            }
            Event::Replay(key, refused) => self.replay(key, refused),
            Event::Over => return false,
        }
        true
    }

    fn came(&mut self, link: usize, wish: Heard) {
        match wish {
            Heard::Frame(HopFrame::Register(_)) => {
                self.agent = Some(link);
                // It never has to wait for leave to send.
                let window = u64::MAX / 2;
                self.links[link].send(&HopFrame::Registered(Registered { window }));
            }
            Heard::Frame(HopFrame::Attach(_, mut attach)) => {
                (self.plan.on_attach)(&mut attach);
                self.join(Some(link), attach, None);
            }
            _ => {}
        }
    }

    fn join(
        &mut self,
        caller: Option<usize>,
        attach: Attach,
        refused: Option<mpsc::Sender<String>>,
    ) {
        let number = u32::try_from(2 * self.joints.len() + 2).expect("few");
        let tunnel = TunnelId(number);
        let places = [(0, 0), (attach.received, attach.received)];
        self.tell_agent(&HopFrame::Attach(tunnel, attach.clone()));
        self.joints.push(Joint {
            caller,
            tunnel,
            attach,
            said: Vec::new(),
            places,
            refused,
        });
    }

    fn replay(&mut self, key: Option<[u8; 32]>, refused: mpsc::Sender<String>) {
        let recorded = self.joints.get(self.first).expect("somebody came");
        let (mut attach, said) = (recorded.attach.clone(), recorded.said.clone());
        if let Some(key) = key {
            attach.key = key.to_vec();
        }
        self.join(None, attach, Some(refused));
        self.joints.last_mut().expect("joined").said = said;
    }

    fn caller_said(&mut self, joint: usize, heard: Heard) {
        match heard {
            Heard::Data(_, offset, bytes) => {
                self.joints[joint].said.extend_from_slice(&bytes);
                self.data(joint, Way::There, offset, bytes);
            }
            Heard::Frame(HopFrame::Ack(_, offset)) => {
                let acked = self.acked(joint, Way::Back, offset);
                let tunnel = self.joints[joint].tunnel;
                self.tell_agent(&HopFrame::Ack(tunnel, acked));
            }
            Heard::Frame(HopFrame::Refused(_, refused)) => {
                let tunnel = self.joints[joint].tunnel;
                self.tell_agent(&HopFrame::Refused(tunnel, refused));
            }
            Heard::Frame(HopFrame::Detach(_)) => {
                let tunnel = self.joints[joint].tunnel;
                self.tell_agent(&HopFrame::Detach(tunnel));
            }
            // As a relay says it: the agent is to park the session.
            Heard::Closed => {
                if let Some(link) = self.joints[joint].caller {
                    self.links[link].cut();
                }
                let tunnel = self.joints[joint].tunnel;
                let words = refusal(RefuseCode::Cut, "the caller is gone");
                self.tell_agent(&HopFrame::Refused(tunnel, words));
            }
            Heard::Frame(_) => {}
        }
    }

    fn agent_said(&mut self, heard: Heard) {
        let (tunnel, heard) = match heard {
            Heard::Data(tunnel, ..) => (tunnel, heard),
            Heard::Frame(frame) => match frame {
                HopFrame::Attached(tunnel, _)
                | HopFrame::Ack(tunnel, _)
                | HopFrame::Refused(tunnel, _)
                | HopFrame::Detach(tunnel) => (tunnel, Heard::Frame(frame)),
                _ => return,
            },
            Heard::Closed => return,
        };
        let Some(joint) = self.joints.iter().position(|joint| joint.tunnel == tunnel) else {
            return;
        };
        match heard {
            Heard::Data(_, offset, bytes) => self.data(joint, Way::Back, offset, bytes),
            Heard::Frame(HopFrame::Attached(_, Attached { received, .. })) => {
                self.joints[joint].places[0] = (received, received);
                if self.joints[joint].caller.is_none() {
                    let said = self.joints[joint].said.clone();
                    self.pass(joint, Way::There, &said);
                }
                self.tell_caller(
                    joint,
                    &HopFrame::Attached(
                        TUNNEL,
                        Attached {
                            received,
                            kept_ms: 0,
                        },
                    ),
                );
            }
            Heard::Frame(HopFrame::Ack(_, offset)) => {
                let acked = self.acked(joint, Way::There, offset);
                self.tell_caller(joint, &HopFrame::Ack(TUNNEL, acked));
            }
            Heard::Frame(HopFrame::Refused(_, refused)) => {
                if let Some(told) = &self.joints[joint].refused {
                    let _ = told.send(refused.message.clone());
                }
                self.tell_caller(joint, &HopFrame::Refused(TUNNEL, refused));
            }
            Heard::Frame(HopFrame::Detach(_)) => self.tell_caller(joint, &HopFrame::Detach(TUNNEL)),
            _ => {}
        }
    }

    /// Nobody hears that more arrived than was sent: that would give it away.
    fn acked(&self, joint: usize, way: Way, offset: u64) -> u64 {
        offset.min(self.joints[joint].places[way as usize].0)
    }

    fn data(&mut self, joint: usize, way: Way, offset: u64, bytes: Vec<u8>) {
        let (came, _) = &mut self.joints[joint].places[way as usize];
        assert_eq!(*came, offset, "an honest sender");
        *came += bytes.len() as u64;
        let Some(session) = joint.checked_sub(self.first) else {
            self.pass(joint, way, &bytes);
            return;
        };
        let at = usize::try_from(offset).expect("small");
        let piece = Piece {
            session,
            way,
            at,
            bytes,
        };
        for act in (self.plan.on_piece)(piece) {
            self.act(act);
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Pass(session, way, bytes) => self.pass(self.first + session, way, &bytes),
            Act::Detach(session) => {
                let joint = self.first + session;
                self.tell_caller(joint, &HopFrame::Detach(TUNNEL));
                self.tell_agent(&HopFrame::Detach(self.joints[joint].tunnel));
            }
            Act::Refuse(session, message) => {
                let joint = self.first + session;
                let words = refusal(RefuseCode::Auth, message);
                self.tell_caller(joint, &HopFrame::Refused(TUNNEL, words));
                self.tell_agent(&HopFrame::Detach(self.joints[joint].tunnel));
            }
        }
    }

    fn pass(&mut self, joint: usize, way: Way, bytes: &[u8]) {
        for part in bytes.chunks(PART) {
            let joint = &mut self.joints[joint];
            let (link, tunnel) = match way {
                Way::There => (self.agent, joint.tunnel),
                Way::Back => (joint.caller, TUNNEL),
            };
            let (_, goes) = &mut joint.places[way as usize];
            if let Some(link) = link {
                let header = data_header(tunnel, *goes);
                self.links[link].message([&header, part].concat());
            }
            *goes += part.len() as u64;
        }
    }

    fn tell_agent(&mut self, frame: &HopFrame) {
        if let Some(link) = self.agent {
            self.links[link].send(frame);
        }
    }

    fn tell_caller(&mut self, joint: usize, frame: &HopFrame) {
        if let Some(link) = self.joints[joint].caller {
            self.links[link].send(frame);
        }
    }
}

fn refusal(code: RefuseCode, message: &str) -> Refused {
    Refused {
        code: code as u32,
        is_final: code.is_final(),
        message: message.to_owned(),
    }
}
