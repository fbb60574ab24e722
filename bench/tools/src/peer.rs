//! The pipes that are compared, and how each is started.

/// How the connecting side learns where to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// We choose a free port and wait until something listens there.
    Chosen,
    /// The listener chooses and says `listening on URL` on stderr.
    Announced,
}

/// One configuration. In arguments `PORT` stands for the chosen port, `URL` for what was
/// announced, `CERTS` for the flags that name certificates.
#[derive(Debug)]
pub struct Peer {
    pub name: &'static str,
    /// The program's key in `--program`.
    pub program: &'static str,
    pub address: Address,
    /// The receiving side: to stdout.
    pub listen: &'static [&'static str],
    /// The sending side: from stdin.
    pub connect: &'static [&'static str],
    /// Both sides for round trips through a far `cat`, if it can do that.
    pub echo: Option<(&'static [&'static str], &'static [&'static str])>,
    /// A port that leads to an echo.
    pub forward: Option<Forward>,
}

/// Arguments of the side beside the echo on port `ECHO`, and of the one that listens on port `NEAR`;
/// without the second the first is connected to.
#[derive(Debug)]
pub struct Forward {
    pub far: &'static [&'static str],
    pub near: Option<&'static [&'static str]>,
}

/// The configurations that others are compared with.
pub const LOCAL: &str = "local pipe";
pub const SOCAT: &str = "socat -b 262144";
pub const GORILLA: &str = "Go, gorilla";

pub const PEERS: &[Peer] = &[
    Peer {
        name: "farpipe ws",
        program: "farpipe",
        address: Address::Announced,
        listen: &["listen", "ws://127.0.0.1:0"],
        connect: &["connect", "URL"],
        echo: Some((
            &["listen", "ws://127.0.0.1:0", "exec:cat"],
            &["connect", "URL"],
        )),
        forward: Some(Forward {
            far: &["listen", "ws://127.0.0.1:0", "tcp:127.0.0.1:ECHO"],
            near: Some(&["connect", "URL", "tcp-listen:127.0.0.1:NEAR"]),
        }),
    },
    Peer {
        name: "farpipe fp",
        program: "farpipe",
        address: Address::Announced,
        listen: &["listen", "fp://127.0.0.1:0"],
        connect: &["connect", "URL"],
        echo: Some((
            &["listen", "fp://127.0.0.1:0", "exec:cat"],
            &["connect", "URL"],
        )),
        forward: Some(Forward {
            far: &["listen", "fp://127.0.0.1:0", "tcp:127.0.0.1:ECHO"],
            near: Some(&["connect", "URL", "tcp-listen:127.0.0.1:NEAR"]),
        }),
    },
    Peer {
        name: "farpipe wss",
        program: "farpipe",
        address: Address::Announced,
        listen: &["listen", "wss://127.0.0.1:0", "CERTS"],
        connect: &["connect", "URL", "CERTS"],
        echo: Some((
            &["listen", "wss://127.0.0.1:0", "exec:cat", "CERTS"],
            &["connect", "URL", "CERTS"],
        )),
        forward: None,
    },
    Peer {
        name: "farpipe fps",
        program: "farpipe",
        address: Address::Announced,
        listen: &["listen", "fps://127.0.0.1:0", "CERTS"],
        connect: &["connect", "URL", "CERTS"],
        echo: Some((
            &["listen", "fps://127.0.0.1:0", "exec:cat", "CERTS"],
            &["connect", "URL", "CERTS"],
        )),
        forward: None,
    },
    Peer {
        name: SOCAT,
        program: "socat",
        address: Address::Chosen,
        listen: &[
            "-u",
            "-b",
            "262144",
            "TCP-LISTEN:PORT,bind=127.0.0.1,reuseaddr",
            "STDOUT",
        ],
        connect: &["-u", "-b", "262144", "STDIN", "TCP:127.0.0.1:PORT"],
        echo: None,
        forward: None,
    },
    Peer {
        name: "socat",
        program: "socat",
        address: Address::Chosen,
        listen: &["-u", "TCP-LISTEN:PORT,bind=127.0.0.1,reuseaddr", "STDOUT"],
        connect: &["-u", "STDIN", "TCP:127.0.0.1:PORT"],
        echo: Some((
            &[
                "TCP-LISTEN:PORT,bind=127.0.0.1,reuseaddr,nodelay",
                "EXEC:cat",
            ],
            &["-", "TCP:127.0.0.1:PORT,nodelay"],
        )),
        forward: Some(Forward {
            far: &[
                "TCP-LISTEN:PORT,bind=127.0.0.1,reuseaddr,nodelay",
                "TCP:127.0.0.1:ECHO,nodelay",
            ],
            near: None,
        }),
    },
    Peer {
        name: "ncat",
        program: "ncat",
        address: Address::Chosen,
        listen: &["--recv-only", "-l", "127.0.0.1", "PORT"],
        connect: &["--send-only", "127.0.0.1", "PORT"],
        echo: None,
        forward: None,
    },
    Peer {
        name: "websocat",
        program: "websocat",
        address: Address::Chosen,
        listen: &[
            "--binary",
            "--oneshot",
            "--unidirectional",
            "ws-l:127.0.0.1:PORT",
            "stdio:",
        ],
        connect: &["--binary", "ws://127.0.0.1:PORT/"],
        echo: Some((
            &["--binary", "ws-l:127.0.0.1:PORT", "cmd:cat"],
            &["--binary", "ws://127.0.0.1:PORT/"],
        )),
        forward: Some(Forward {
            far: &["--binary", "ws-l:127.0.0.1:PORT", "tcp:127.0.0.1:ECHO"],
            near: Some(&["--binary", "tcp-l:127.0.0.1:NEAR", "ws://127.0.0.1:PORT/"]),
        }),
    },
    Peer {
        name: GORILLA,
        program: "gorilla",
        address: Address::Announced,
        listen: &["-listen", "127.0.0.1:0"],
        connect: &["-connect", "URL"],
        echo: None,
        forward: None,
    },
    Peer {
        name: "model, copying",
        program: "model",
        address: Address::Chosen,
        listen: &["model-receive", "copy", "PORT"],
        connect: &["model-send", "copy", "PORT"],
        echo: None,
        forward: None,
    },
    Peer {
        name: "model, splice out",
        program: "model",
        address: Address::Chosen,
        listen: &["model-receive", "copy", "PORT"],
        connect: &["model-send", "splice", "PORT"],
        echo: None,
        forward: None,
    },
    Peer {
        name: "model, splice in",
        program: "model",
        address: Address::Chosen,
        listen: &["model-receive", "splice", "PORT"],
        connect: &["model-send", "copy", "PORT"],
        echo: None,
        forward: None,
    },
    Peer {
        name: "model, splice both",
        program: "model",
        address: Address::Chosen,
        listen: &["model-receive", "splice", "PORT"],
        connect: &["model-send", "splice", "PORT"],
        echo: None,
        forward: None,
    },
    Peer {
        name: "model, splice in by two threads",
        program: "model",
        address: Address::Chosen,
        listen: &["model-receive", "splice-by-two", "PORT"],
        connect: &["model-send", "copy", "PORT"],
        echo: None,
        forward: None,
    },
    Peer {
        name: "model, splice both, by two threads",
        program: "model",
        address: Address::Chosen,
        listen: &["model-receive", "splice-by-two", "PORT"],
        connect: &["model-send", "splice", "PORT"],
        echo: None,
        forward: None,
    },
];
