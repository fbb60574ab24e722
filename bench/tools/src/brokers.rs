//! What topics are measured through: farpipe's relay and commands, and NATS JetStream with a client of the
//! same shape.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::Process;

/// How long a command may take before it counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A broker with its settings and a way to publish: a row of the tables.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    server: Server,
    /// One of so many records is enough for a run: all are to take seconds.
    pub share: usize,
    /// Whether reading is measured too: of few records it would be the start of a process.
    pub is_read: bool,
    /// What an acknowledged record has gone through.
    pub promise: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Farpipe,
    /// What its configuration has beside the folder, and how nats-client publishes.
    Nats {
        settings: &'static str,
        way: &'static str,
    },
}

const DEFAULT: &str = "";
const ALWAYS: &str = ", sync_interval: always";
const IN_MEMORY: &str =
    "written, not synced: in the memory of the system until a sync every 2 minutes";

pub const FARPIPE: &str = "farpipe";

pub const KINDS: &[Kind] = &[
    Kind {
        name: FARPIPE,
        server: Server::Farpipe,
        share: 1,
        is_read: true,
        promise: "written and synced before it is acknowledged or read, one sync for all batches that wait; \
                  a batch that is sent twice is kept once",
    },
    Kind {
        name: "NATS default, async",
        server: nats(DEFAULT, "async"),
        share: 3,
        is_read: true,
        promise: IN_MEMORY,
    },
    Kind {
        name: "NATS default, fast batch",
        server: nats(DEFAULT, "fast"),
        share: 3,
        is_read: true,
        promise: IN_MEMORY,
    },
    Kind {
        name: "NATS always, async",
        server: nats(ALWAYS, "async"),
        share: 600,
        is_read: false,
        promise: "written and synced, each record by itself",
    },
    Kind {
        name: "NATS always, fast batch",
        server: nats(ALWAYS, "fast"),
        share: 600,
        is_read: false,
        promise: "written and synced, each record by itself; one acknowledgement for many",
    },
    Kind {
        name: "NATS always, atomic batches",
        server: nats(ALWAYS, "atomic"),
        share: 12,
        is_read: true,
        promise: "written and synced, one sync for up to 1,000 records, of which all or none are kept",
    },
];

const fn nats(settings: &'static str, way: &'static str) -> Server {
    Server::Nats { settings, way }
}

/// Where the programs lie; NATS may be missing.
#[derive(Debug, Default)]
pub struct Programs {
    pub farpipe: Option<PathBuf>,
    pub nats_server: Option<PathBuf>,
    pub nats_client: Option<PathBuf>,
}

impl Kind {
    pub fn can_run(&self, programs: &Programs) -> bool {
        match self.server {
            Server::Farpipe => programs.farpipe.is_some(),
            Server::Nats { .. } => programs.nats_server.is_some() && programs.nats_client.is_some(),
        }
    }

    /// Starts its server with an empty folder inside `dir`.
    pub fn start(&self, programs: &Programs, dir: &Path) -> Result<Broker> {
        let data = Data::make(dir)?;
        let folder = data.0.display();
        let (server, client, url) = match self.server {
            Server::Farpipe => {
                let program = programs.farpipe.as_ref().context("no farpipe")?;
                let args = format!("relay --listen ws://127.0.0.1:0 --data {folder}/topics");
                let server = start(program, &args, Stdio::null(), Stdio::null())?;
                let url = server.announced()?;
                (server, program, url)
            }
            Server::Nats { settings, .. } => {
                let config = data.0.join("nats.conf");
                let text = format!("jetstream {{ store_dir: \"{folder}/store\"{settings} }}\n");
                std::fs::write(&config, text)?;
                let program = programs.nats_server.as_ref().context("no nats-server")?;
                let args = format!("-a 127.0.0.1 -p -1 -c {}", config.display());
                let server = start(program, &args, Stdio::null(), Stdio::null())?;
                let address = server.said("for client connections on ")?;
                let client = programs.nats_client.as_ref().context("no nats-client")?;
                (server, client, format!("nats://{address}"))
            }
        };
        Ok(Broker {
            _server: server,
            kind: self.server,
            client: client.clone(),
            url,
            _data: data,
        })
    }
}

/// A server that runs, and its clients' program. What it has kept goes with it.
#[derive(Debug)]
pub struct Broker {
    // Ends before its folder goes.
    _server: Process,
    kind: Server,
    client: PathBuf,
    url: String,
    _data: Data,
}

impl Broker {
    pub fn create(&self, topic: &str) -> Result<()> {
        let args = match self.kind {
            Server::Farpipe => format!(
                "topic create {topic} --durability disk --relay {}",
                self.url
            ),
            Server::Nats { .. } => format!("-url {} create {topic}", self.url),
        };
        start(&self.client, &args, Stdio::null(), Stdio::null())?.finish()?;
        Ok(())
    }

    /// Lines of `from` to the topic; ends when all are acknowledged.
    pub fn publisher(&self, topic: &str, from: Stdio) -> Result<Process> {
        let args = match self.kind {
            Server::Farpipe => format!("pub {topic} --relay {}", self.url),
            Server::Nats { way, .. } => format!("-url {} -way {way} pub {topic}", self.url),
        };
        start(&self.client, &args, from, Stdio::null())
    }

    /// The topic's first `count` records, whether they are there already or not.
    pub fn reader(&self, topic: &str, count: usize) -> Result<Process> {
        let args = match self.kind {
            Server::Farpipe => {
                let url = &self.url;
                format!("sub {topic} --from earliest --count {count} --relay {url}")
            }
            Server::Nats { .. } => format!("-url {} -count {count} sub {topic}", self.url),
        };
        start(&self.client, &args, Stdio::null(), Stdio::piped())
    }

    /// All that is kept, of which there are so many.
    pub fn reader_of_all(&self, topic: &str, count: usize) -> Result<Process> {
        if self.kind != Server::Farpipe {
            return self.reader(topic, count);
        }
        let args = format!(
            "sub {topic} --from earliest --exit-at-end --relay {}",
            self.url
        );
        start(&self.client, &args, Stdio::null(), Stdio::piped())
    }
}

/// `args` have spaces between them, and none inside.
fn start(program: &Path, args: &str, stdin: Stdio, stdout: Stdio) -> Result<Process> {
    let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
    Process::start(program, &args, stdin, stdout)
}

/// A folder of one run.
#[derive(Debug)]
struct Data(PathBuf);

impl Data {
    fn make(dir: &Path) -> Result<Self> {
        let folder = dir.join(format!("farpipe-bench-topics-{}", std::process::id()));
        ensure!(
            !folder.display().to_string().contains([' ', '"']),
            "--dir: no spaces or quotes, please"
        );
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
        // Else the next run would pay for what this one left to be written.
        nix::unistd::sync();
    }
}
