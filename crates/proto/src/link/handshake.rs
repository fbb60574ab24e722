//! HELLO, WELCOME, AUTH: versions, features, and the proof of a secret: the loopback secret, a
//! ticket's or a token's (docs/protocol.md section 4).
//!
//! The proofs keep out processes that do not know the secret and cannot reach one that does. They
//! are bound to the nonces, not to the connection: a process on the dialled port that relays the
//! frames to another listener of the same user is not found out, and sees what follows. TLS, which
//! a ticket's pin belongs to, stops that.

use super::LinkError;
use crate::wire::control::{Auth, Hello, RefuseCode, Refused, Welcome};
use crate::wire::hop::HopFrame;
use crate::wire::id::{SessionKey, TunnelId};

/// The protocol version this code speaks.
pub const VERSION: u32 = 1;
/// The oldest version it still speaks.
pub const VERSION_MIN: u32 = 1;

/// Random bytes each side contributes to the proofs.
pub type Nonce = [u8; 32];

/// Optional features, as a bit set; both sides use what both have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u64);

/// Which secret it is that is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretId {
    /// The user's, on this host.
    Loopback,
    /// That of a ticket.
    Ticket(Vec<u8>),
    /// That of a token.
    Token(Vec<u8>),
}

impl SecretId {
    fn of(hello: &Hello) -> Result<Self, LinkError> {
        match (hello.ticket.is_empty(), hello.token.is_empty()) {
            (true, true) => Ok(Self::Loopback),
            (false, true) => Ok(Self::Ticket(hello.ticket.clone())),
            (true, false) => Ok(Self::Token(hello.token.clone())),
            (false, false) => Err(LinkError::Protocol("HELLO with a ticket and a token")),
        }
    }

    /// The ticket; empty: it is another secret.
    #[must_use]
    pub fn ticket(&self) -> &[u8] {
        match self {
            Self::Ticket(id) => id,
            Self::Loopback | Self::Token(_) => &[],
        }
    }

    /// The token; empty: it is another secret.
    #[must_use]
    pub fn token(&self) -> &[u8] {
        match self {
            Self::Token(id) => id,
            Self::Loopback | Self::Ticket(_) => &[],
        }
    }
}

/// Why a neighbour is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotLetIn {
    /// What it is told.
    pub told: String,
    /// For the log of this side.
    pub why: String,
}

impl NotLetIn {
    /// For a neighbour that may hear all of it.
    #[must_use]
    pub fn openly(why: impl Into<String>) -> Self {
        let why = why.into();
        let told = why.clone();
        Self { told, why }
    }
}

/// Knows a secret and proves it without sending it. The two directions use different labels, so
/// that a proof cannot be reflected.
pub trait Prover: Send + Sync + std::fmt::Debug {
    /// Which secret this is.
    fn secret(&self) -> SecretId {
        SecretId::Loopback
    }

    /// Proof over label, the dialling side's nonce and the accepting side's.
    fn prove(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> [u8; 32];

    /// Verifies the accepting side's. Compares in constant time.
    fn verify(&self, label: &str, dialling: &[u8], accepting: &[u8], proof: &[u8]) -> bool;
}

/// A secret that both sides have as it is, so that both prove it alike.
pub trait Shared: Prover {}

/// The secrets that the accepting side takes.
pub trait Keys: Send + Sync + std::fmt::Debug {
    /// This side's proof of that secret, as [`Prover::verify`] wants it.
    ///
    /// # Errors
    /// Why there is none.
    fn prove_for(
        &self,
        secret: &SecretId,
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
    ) -> Result<[u8; 32], NotLetIn>;

    /// Verifies what [`Prover::prove`] made; what is not known is never proven.
    ///
    /// # Errors
    /// Why it is not.
    fn verify_for(
        &self,
        secret: &SecretId,
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
        proof: &[u8],
    ) -> Result<(), NotLetIn>;

    /// A neighbour that has proven `ticket` attaches `session`. A ticket is good for one session,
    /// as often as that is attached.
    ///
    /// # Errors
    /// Why not, for the neighbour.
    fn claim(&self, ticket: &[u8], session: &SessionKey) -> Result<(), String>;

    /// `session` is over.
    fn release(&self, session: &SessionKey);
}

/// A single secret: any number of sessions, and no other than itself.
impl<P: Shared> Keys for P {
    fn prove_for(
        &self,
        secret: &SecretId,
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
    ) -> Result<[u8; 32], NotLetIn> {
        match secret {
            secret if *secret == self.secret() => Ok(self.prove(label, dialling, accepting)),
            SecretId::Token(_) => Err(NotLetIn::openly("this side takes no tokens")),
            SecretId::Loopback | SecretId::Ticket(_) => {
                Err(NotLetIn::openly("this side takes no tickets"))
            }
        }
    }

    fn verify_for(
        &self,
        secret: &SecretId,
        label: &str,
        dialling: &[u8],
        accepting: &[u8],
        proof: &[u8],
    ) -> Result<(), NotLetIn> {
        if *secret == self.secret() && self.verify(label, dialling, accepting, proof) {
            return Ok(());
        }
        Err(NotLetIn::openly(match secret {
            SecretId::Ticket(_) => "the ticket's secret was not proven; copy the whole ticket",
            SecretId::Loopback | SecretId::Token(_) => {
                "the loopback secret was not proven; both sides must run as the same user"
            }
        }))
    }

    fn claim(&self, _ticket: &[u8], _session: &SessionKey) -> Result<(), String> {
        Ok(())
    }

    fn release(&self, _session: &SessionKey) {}
}

const LABEL_ACCEPTING: &str = "farpipe loopback, accepting side";
const LABEL_DIALLING: &str = "farpipe loopback, dialling side";

/// What the accepting side does after a handshake frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this frame, wait for the next.
    Send(HopFrame),
    /// Send this frame; the link is up.
    Up(Option<HopFrame>),
}

/// The dialling side's handshake.
#[derive(Debug)]
pub struct Dialling<'a> {
    nonce: Nonce,
    features: Features,
    prover: Option<&'a dyn Prover>,
    software: String,
}

impl<'a> Dialling<'a> {
    /// `nonce` is fresh and random. With a `prover`, both sides prove its secret, which costs one
    /// more round trip.
    #[must_use]
    pub fn new(
        nonce: Nonce,
        features: Features,
        prover: Option<&'a dyn Prover>,
        software: &str,
    ) -> Self {
        Self {
            nonce,
            features,
            prover,
            software: software.to_owned(),
        }
    }

    /// The first frame.
    #[must_use]
    pub fn hello(&self) -> HopFrame {
        let secret = self.prover.map(Prover::secret);
        let secret = secret.unwrap_or(SecretId::Loopback);
        HopFrame::Hello(Hello {
            version_min: VERSION_MIN,
            version_max: VERSION,
            features: self.features.0,
            nonce: self.nonce.to_vec(),
            software: self.software.clone(),
            wants_proof: self.prover.is_some(),
            ticket: secret.ticket().to_vec(),
            token: secret.token().to_vec(),
        })
    }

    /// Takes the neighbour's answer: the link is up. Returns AUTH if one is due.
    ///
    /// # Errors
    /// [`LinkError`] when refused, when the neighbour cannot prove itself, or on any other frame.
    pub fn handle(&self, frame: &HopFrame) -> Result<Option<HopFrame>, LinkError> {
        let welcome = match frame {
            HopFrame::Welcome(welcome) => welcome,
            HopFrame::Refused(_, refused) => return Err(LinkError::Refused(refused.clone())),
            _ => return Err(LinkError::Protocol("no WELCOME in answer to HELLO")),
        };
        if !(VERSION_MIN..=VERSION).contains(&welcome.version) {
            return Err(LinkError::Protocol("WELCOME names a version not offered"));
        }
        if welcome.features & !self.features.0 != 0 {
            return Err(LinkError::Protocol("WELCOME names a feature not offered"));
        }
        let Some(prover) = self.prover else {
            return Ok(None);
        };
        // The neighbour proves itself first: a port squatter that knows nobody who can learns
        // nothing and gets no data.
        if !prover.verify(LABEL_ACCEPTING, &self.nonce, &welcome.nonce, &welcome.proof) {
            return Err(LinkError::PeerUnproven(prover.secret()));
        }
        let proof = prover.prove(LABEL_DIALLING, &self.nonce, &welcome.nonce);
        Ok(Some(HopFrame::Auth(Auth {
            proof: proof.to_vec(),
        })))
    }
}

/// The accepting side's handshake.
#[derive(Debug)]
pub struct Accepting<'a> {
    nonce: Nonce,
    features: Features,
    keys: Option<&'a dyn Keys>,
    needs_proof: bool,
    software: String,
    /// The dialling side's nonce and the secret it names, once its HELLO has come.
    named: Option<(Vec<u8>, SecretId)>,
    is_proven: bool,
}

impl<'a> Accepting<'a> {
    /// With `keys`, the neighbour must prove one of their secrets.
    #[must_use]
    pub fn new(
        nonce: Nonce,
        features: Features,
        keys: Option<&'a dyn Keys>,
        software: &str,
    ) -> Self {
        Self {
            nonce,
            features,
            keys,
            needs_proof: keys.is_some(),
            software: software.to_owned(),
            named: None,
            is_proven: false,
        }
    }

    /// The neighbour need not prove a secret: the transport has shown who it is.
    #[must_use]
    pub fn or_transport(mut self) -> Self {
        self.needs_proof = false;
        self
    }

    /// The secret that the neighbour names, proven or not; `None`: it said no HELLO yet.
    #[must_use]
    pub fn named(&self) -> Option<&SecretId> {
        Some(&self.named.as_ref()?.1)
    }

    /// The secret that the neighbour has proven.
    #[must_use]
    pub fn into_proven(self) -> Option<SecretId> {
        let (_, secret) = self.named?;
        self.is_proven.then_some(secret)
    }

    /// Takes the neighbour's next frame.
    ///
    /// # Errors
    /// [`LinkError`]; send its [`refusal`], shut down writing, drain, close.
    pub fn handle(&mut self, frame: &HopFrame) -> Result<Step, LinkError> {
        match (frame, &self.named, self.keys) {
            (HopFrame::Hello(hello), None, _) => self.handle_hello(hello),
            (HopFrame::Auth(auth), Some((dialling, secret)), Some(keys)) => {
                keys.verify_for(secret, LABEL_DIALLING, dialling, &self.nonce, &auth.proof)
                    .map_err(LinkError::from)?;
                self.is_proven = true;
                Ok(Step::Up(None))
            }
            (HopFrame::Auth(_), Some(_), None) => {
                Err(LinkError::Protocol("AUTH that was not asked for"))
            }
            _ => Err(LinkError::Protocol("a handshake frame out of order")),
        }
    }

    fn handle_hello(&mut self, hello: &Hello) -> Result<Step, LinkError> {
        if hello.version_min > VERSION || hello.version_max < VERSION_MIN {
            return Err(refuse(
                RefuseCode::Version,
                &format!(
                    "no common protocol version: this side ({}) speaks {VERSION_MIN} to {VERSION}, \
                     the other ({}) {} to {}",
                    self.software,
                    printable(&hello.software),
                    hello.version_min,
                    hello.version_max
                ),
            ));
        }
        if hello.nonce.len() != self.nonce.len() {
            return Err(LinkError::Protocol("HELLO without a nonce of 32 bytes"));
        }
        let secret = SecretId::of(hello)?;
        let proof = match self.keys {
            Some(keys) if hello.wants_proof => keys
                .prove_for(&secret, LABEL_ACCEPTING, &hello.nonce, &self.nonce)
                .map_err(LinkError::from)?
                .to_vec(),
            _ => Vec::new(),
        };
        let welcome = Welcome {
            version: hello.version_max.min(VERSION),
            features: hello.features & self.features.0,
            nonce: self.nonce.to_vec(),
            software: self.software.clone(),
            proof,
        };
        self.named = Some((hello.nonce.clone(), secret));
        let welcome = HopFrame::Welcome(welcome);
        match (self.keys.is_some(), hello.wants_proof) {
            (true, true) => Ok(Step::Send(welcome)),
            (true, false) if self.needs_proof => Err(refuse(
                RefuseCode::Auth,
                "this side asks for a secret: the user's on loopback, a ticket's or a token's elsewhere",
            )),
            (true, false) => Ok(Step::Up(Some(welcome))),
            (false, true) => Err(refuse(RefuseCode::Auth, "this side has no secret to prove")),
            (false, false) => Ok(Step::Up(Some(welcome))),
        }
    }
}

/// The frame that tells the neighbour why, if it is to be told.
#[must_use]
pub fn refusal(error: &LinkError) -> Option<HopFrame> {
    let (code, message) = match error {
        LinkError::RefusedPeer { code, message, .. } => (*code, message.clone()),
        LinkError::Protocol(what) => (RefuseCode::Protocol, (*what).to_owned()),
        LinkError::Refused(_) | LinkError::PeerUnproven(_) => return None,
    };
    Some(HopFrame::Refused(
        TunnelId::LINK,
        Refused {
            code: code as u32,
            is_final: true,
            message,
        },
    ))
}

fn refuse(code: RefuseCode, message: &str) -> LinkError {
    LinkError::RefusedPeer {
        code,
        message: message.to_owned(),
        why: message.to_owned(),
    }
}

impl From<NotLetIn> for LinkError {
    fn from(NotLetIn { told, why }: NotLetIn) -> Self {
        Self::RefusedPeer {
            code: RefuseCode::Auth,
            message: told,
            why,
        }
    }
}

/// A peer's words without what could move a terminal's cursor.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .take(crate::limits::MESSAGE_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A keyed digest good enough for the rules: it depends on every argument.
    #[derive(Debug)]
    struct Toy(u8);

    /// The same behind a ticket.
    #[derive(Debug)]
    struct Ticketed(Toy);

    impl Shared for Toy {}

    impl Shared for Ticketed {}

    impl Prover for Ticketed {
        fn secret(&self) -> SecretId {
            SecretId::Ticket(vec![self.0.0])
        }

        fn prove(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> [u8; 32] {
            self.0.prove(label, dialling, accepting)
        }

        fn verify(&self, label: &str, dialling: &[u8], accepting: &[u8], proof: &[u8]) -> bool {
            self.0.verify(label, dialling, accepting, proof)
        }
    }

    impl Prover for Toy {
        fn prove(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> [u8; 32] {
            let mut out = [self.0; 32];
            let all = label.bytes().chain(dialling.iter().copied());
            for (i, byte) in all.chain(accepting.iter().copied()).enumerate() {
                out[i % 32] = out[i % 32].wrapping_mul(31).wrapping_add(byte);
            }
            out
        }

        fn verify(&self, label: &str, dialling: &[u8], accepting: &[u8], proof: &[u8]) -> bool {
            self.prove(label, dialling, accepting) == proof
        }
    }

    fn run(client: Option<&dyn Prover>, server: Option<&dyn Keys>) -> Result<(), LinkError> {
        let dialling = Dialling::new([1; 32], Features(3), client, "test/1");
        let mut accepting = Accepting::new([2; 32], Features(6), server, "test/1");
        match accepting.handle(&dialling.hello())? {
            Step::Send(welcome) => {
                let Some(auth) = dialling.handle(&welcome)? else {
                    panic!("no AUTH");
                };
                assert_eq!(accepting.handle(&auth)?, Step::Up(None));
            }
            Step::Up(Some(welcome)) => assert_eq!(dialling.handle(&welcome)?, None),
            Step::Up(None) => panic!("no WELCOME"),
        }
        Ok(())
    }

    #[test]
    fn both_prove_the_same_secret() {
        run(Some(&Toy(7)), Some(&Toy(7))).expect("the same secret");
        run(None, None).expect("no secret wanted");
    }

    #[test]
    fn a_process_without_the_secret_is_found_out_by_either_side() {
        assert_eq!(
            run(Some(&Toy(7)), Some(&Toy(8))),
            Err(LinkError::PeerUnproven(SecretId::Loopback))
        );
        assert!(matches!(
            run(None, Some(&Toy(7))),
            Err(LinkError::RefusedPeer {
                code: RefuseCode::Auth,
                ..
            })
        ));
        let mut accepting = Accepting::new([2; 32], Features(0), Some(&Toy(1)), "t");
        let dialling = Dialling::new([1; 32], Features(0), Some(&Toy(1)), "t");
        accepting.handle(&dialling.hello()).expect("welcome");
        let forged = HopFrame::Auth(Auth { proof: vec![0; 32] });
        assert!(accepting.handle(&forged).expect_err("forged").is_final());
    }

    #[test]
    fn a_ticket_opens_only_where_it_is_known() {
        run(Some(&Ticketed(Toy(7))), Some(&Ticketed(Toy(7)))).expect("its own listener");
        for (client, server) in [
            (&Ticketed(Toy(7)) as &dyn Prover, &Toy(7) as &dyn Keys),
            (&Ticketed(Toy(7)), &Ticketed(Toy(8))),
            (&Toy(7), &Ticketed(Toy(7))),
        ] {
            assert!(matches!(
                run(Some(client), Some(server)),
                Err(LinkError::RefusedPeer {
                    code: RefuseCode::Auth,
                    ..
                })
            ));
        }
    }

    #[test]
    fn a_proof_cannot_be_reflected() {
        let toy = Toy(9);
        assert_ne!(
            toy.prove(LABEL_ACCEPTING, &[1; 32], &[2; 32]),
            toy.prove(LABEL_DIALLING, &[1; 32], &[2; 32])
        );
    }

    #[test]
    fn p2_a_version_mismatch_names_both_ranges() {
        let mut accepting = Accepting::new([2; 32], Features(0), None, "farpipe 0.1");
        let hello = HopFrame::Hello(Hello {
            version_min: 7,
            version_max: 9,
            nonce: vec![0; 32],
            software: "farpipe\x1b[2J 9.9".to_owned(),
            ..Hello::default()
        });
        let error = accepting.handle(&hello).expect_err("no common version");
        let Some(HopFrame::Refused(_, refused)) = refusal(&error) else {
            panic!("a refusal");
        };
        assert!(refused.is_final);
        assert!(refused.message.contains("7 to 9"), "{}", refused.message);
        assert!(!refused.message.contains('\x1b'));
    }

    #[test]
    fn features_are_those_of_both() {
        let mut accepting = Accepting::new([2; 32], Features(0b110), None, "t");
        let dialling = Dialling::new([1; 32], Features(0b011), None, "t");
        let Step::Up(Some(HopFrame::Welcome(welcome))) =
            accepting.handle(&dialling.hello()).expect("welcome")
        else {
            panic!("no WELCOME");
        };
        assert_eq!(welcome.features, 0b010);
    }

    #[test]
    fn p2_frames_out_of_order_end_the_link() {
        let mut accepting = Accepting::new([2; 32], Features(0), None, "t");
        let error = accepting.handle(&HopFrame::Ping(1)).expect_err("no HELLO");
        assert!(refusal(&error).is_some());
        let dialling = Dialling::new([1; 32], Features(0), None, "t");
        assert!(dialling.handle(&HopFrame::Pong(1)).is_err());
    }
}
