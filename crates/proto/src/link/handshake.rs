//! HELLO, WELCOME, AUTH: versions, features, and the proof of the loopback secret
//! (docs/protocol.md section 4).
//!
//! The proofs keep out processes that do not know the secret and cannot reach one that does. They
//! are bound to the nonces, not to the connection: a process on the dialled port that relays the
//! frames to another listener of the same user is not found out, and sees what follows.

use super::LinkError;
use crate::wire::control::{Auth, Hello, RefuseCode, Refused, Welcome};
use crate::wire::hop::HopFrame;
use crate::wire::id::TunnelId;

/// The protocol version this code speaks.
pub const VERSION: u32 = 1;
/// The oldest version it still speaks.
pub const VERSION_MIN: u32 = 1;

/// Random bytes each side contributes to the proofs.
pub type Nonce = [u8; 32];

/// Optional features, as a bit set; both sides use what both have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u64);

/// Knows the loopback secret and proves it without sending it. The two directions use different
/// labels, so that a proof cannot be reflected.
pub trait Prover: Send + Sync + std::fmt::Debug {
    /// Keyed digest over label, the dialling side's nonce and the accepting side's.
    fn prove(&self, label: &str, dialling: &[u8], accepting: &[u8]) -> [u8; 32];

    /// Compares in constant time.
    fn verify(&self, label: &str, dialling: &[u8], accepting: &[u8], proof: &[u8]) -> bool;
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
    /// `nonce` is fresh and random. With a `prover`, both sides prove the loopback secret, which
    /// costs one more round trip.
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
        HopFrame::Hello(Hello {
            version_min: VERSION_MIN,
            version_max: VERSION,
            features: self.features.0,
            nonce: self.nonce.to_vec(),
            software: self.software.clone(),
            wants_proof: self.prover.is_some(),
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
            return Err(LinkError::PeerUnproven);
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
    prover: Option<&'a dyn Prover>,
    software: String,
    /// The dialling side's nonce, once its HELLO has come.
    hello_nonce: Option<Vec<u8>>,
}

impl<'a> Accepting<'a> {
    /// With a `prover`, the neighbour must prove the loopback secret.
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
            hello_nonce: None,
        }
    }

    /// Takes the neighbour's next frame.
    ///
    /// # Errors
    /// [`LinkError`]; send its [`refusal`], shut down writing, drain, close.
    pub fn handle(&mut self, frame: &HopFrame) -> Result<Step, LinkError> {
        match (frame, &self.hello_nonce) {
            (HopFrame::Hello(hello), None) => self.handle_hello(hello),
            (HopFrame::Auth(auth), Some(nonce)) => match self.prover {
                Some(prover) if prover.verify(LABEL_DIALLING, nonce, &self.nonce, &auth.proof) => {
                    Ok(Step::Up(None))
                }
                Some(_) => Err(refuse(
                    RefuseCode::Auth,
                    "the loopback secret was not proven; both sides must run as the same user",
                )),
                None => Err(LinkError::Protocol("AUTH that was not asked for")),
            },
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
        let welcome = Welcome {
            version: hello.version_max.min(VERSION),
            features: hello.features & self.features.0,
            nonce: self.nonce.to_vec(),
            software: self.software.clone(),
            proof: self.prover.map_or_else(Vec::new, |prover| {
                prover
                    .prove(LABEL_ACCEPTING, &hello.nonce, &self.nonce)
                    .to_vec()
            }),
        };
        self.hello_nonce = Some(hello.nonce.clone());
        let welcome = HopFrame::Welcome(welcome);
        match (self.prover.is_some(), hello.wants_proof) {
            (true, true) => Ok(Step::Send(welcome)),
            (true, false) => Err(refuse(
                RefuseCode::Auth,
                "this side asks for the loopback secret",
            )),
            (false, true) => Err(refuse(
                RefuseCode::Auth,
                "this side has no loopback secret to prove",
            )),
            (false, false) => Ok(Step::Up(Some(welcome))),
        }
    }
}

/// The frame that tells the neighbour why, if it is to be told.
#[must_use]
pub fn refusal(error: &LinkError) -> Option<HopFrame> {
    let (code, message) = match error {
        LinkError::RefusedPeer { code, message } => (*code, message.clone()),
        LinkError::Protocol(what) => (RefuseCode::Protocol, (*what).to_owned()),
        LinkError::Refused(_) | LinkError::PeerUnproven => return None,
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

    fn run(client: Option<&dyn Prover>, server: Option<&dyn Prover>) -> Result<(), LinkError> {
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
            Err(LinkError::PeerUnproven)
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
