//! How a link ends for a session that writes on it.

use std::future::poll_fn;
use std::sync::Mutex;
use std::time::Duration;

use farpipe_proto::wire::control::{Attached, RefuseCode};
use farpipe_proto::wire::hop::HopFrame;
use tokio::task::JoinSet;

use crate::carrier::{Carrier, mem};
use crate::link::{self, TUNNEL, Wire};
use crate::tunnel::Tunnel;
use crate::{Dial, Dialled, Greeting, Opener, OpenerConfig, SessionEnd, system_random};

fn greeting() -> Greeting {
    Greeting {
        software: "test".to_owned(),
        prover: None,
        keys: None,
        tokens: None,
        random: system_random,
    }
}

/// A peer that lets one in, refuses the session and is gone, before it is written to.
#[derive(Debug, Default)]
struct Gone {
    tasks: Mutex<JoinSet<()>>,
}

impl Dial for Gone {
    fn dial(&self) -> Dialled<'_> {
        let (near, far) = mem::pair(1 << 16);
        self.tasks.lock().expect("no panic").spawn(async move {
            let mut wire = Wire::new(Box::new(far));
            let asking = link::accept(&mut wire, &greeting()).await;
            assert!(asking.is_ok());
            wire.queue(&HopFrame::Attached(
                TUNNEL,
                Attached {
                    received: 0,
                    kept_ms: 0,
                },
            ));
            let why = "closed today";
            wire.queue(&Tunnel::refusal(TUNNEL, RefuseCode::EndToEnd, why));
            let said = poll_fn(|cx| wire.carrier.poll_flush(cx)).await;
            assert!(said.is_ok());
        });
        Box::pin(async move { Ok(Box::new(near) as Box<dyn Carrier>) })
    }

    fn peer(&self) -> String {
        "agent".to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_said_counts_though_it_is_gone_when_it_is_written_to() {
    let opener = Opener::new(OpenerConfig::new(greeting()));
    let _stream = opener.handle().open("").expect("room");
    let dial = Gone::default();
    let running = tokio::time::timeout(Duration::from_secs(60), opener.run(&dial));
    let end = running.await.expect("it dials once");
    assert_eq!(
        end,
        Err(SessionEnd::Refused(
            "agent ended the session: closed today".to_owned()
        ))
    );
}
