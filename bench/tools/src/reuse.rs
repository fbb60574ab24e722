//! What a command elsewhere takes when its connection is there already, and when it is not.

use std::cell::RefCell;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::options::Options;
use crate::process::{Process, timed};
use crate::relay::{EXEC_RELAY, EXEC_WSS, Net, Way};
use crate::ssh::Server;
use crate::table::{Column, Rounds, Runner, Table};

/// What the others are compared with.
pub const MASTER: &str = "ssh, ControlMaster";
pub const SSH: &str = "ssh, anew";

const COLUMNS: &[Column] = &[
    Column::median("p50 ms", 0),
    Column::quantile("p10 ms", 0, 0.1),
    Column::quantile("p90 ms", 0, 0.9),
];

/// How long a master and the user's own agent may take to be there.
const PATIENCE: Duration = Duration::from_secs(20);
/// The first of each are not counted: they make the connections, and fill the caches.
const WARM_UP: usize = 3;

/// A runtime directory of its own, so that the user's agent, if there is one, keeps out of this.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `exec HOST -- true` one after the other, one of each kind in turn.
pub fn table(options: &Options) -> Result<Table> {
    let farpipe = options.program("farpipe")?;
    let name = format!("farpipe-bench-run-{}", std::process::id());
    let place = Place(std::env::temp_dir().join(name));
    DirBuilder::new().mode(0o700).create(&place.0)?;
    let direct = Way::named(EXEC_WSS)?;
    let relayed = Way::named(EXEC_RELAY)?;
    let direct = (direct, direct.open(farpipe, &["--allow", "exec"])?);
    let relayed = (relayed, relayed.open(farpipe, &["--allow", "exec"])?);
    let mut keeper = ours(farpipe, &place.0);
    keeper.args(["agent", "--client-only"]);
    let _keeper = Process::spawn(keeper)?;
    wait_for(&place.0.join("farpipe/agent.sock"))?;
    let server = match options.wants(MASTER) || options.wants(SSH) {
        true => Server::if_there(options),
        false => None,
    };
    let _master = match &server {
        Some(server) => Some(master(server)?),
        None => None,
    };

    let exec = |(way, net): &(&Way, Net), reuses: bool| {
        let rest = ["--", "true"];
        let args = match reuses {
            true => way.reusing(net, "exec", &rest),
            false => way.command(net, "exec", &rest),
        };
        let mut command = ours(farpipe, &place.0);
        command.args(args);
        command
    };
    let mut commands = vec![
        ("exec wss, reused", exec(&direct, true)),
        ("exec wss relay, reused", exec(&relayed, true)),
    ];
    if let Some(server) = &server {
        commands.push((MASTER, over_ssh(server, &["-S", &server.control()])));
    }
    commands.push(("exec wss, anew", exec(&direct, false)));
    commands.push(("exec wss relay, anew", exec(&relayed, false)));
    if let Some(server) = &server {
        commands.push((SSH, over_ssh(server, &[])));
    }
    let mut runners: Vec<Runner<'_>> = Vec::new();
    for (name, mut command) in commands {
        if options.wants(name) {
            for _ in 0..WARM_UP {
                timed(&mut command)?;
            }
        }
        let command = RefCell::new(command);
        let run = move || Ok(vec![timed(&mut command.borrow_mut())?]);
        runners.push((name, Box::new(run)));
    }
    let rounds = Rounds {
        count: options.commands,
        others_max: None,
        are_told: false,
    };
    let mut title = "`true` elsewhere".to_owned();
    if let Some(server) = &server {
        title.push_str(&format!(" (ssh has {} run it)", server.shell));
    }
    Ok(Table::run(options, rounds, title, COLUMNS, &runners))
}

/// A command of this user, whose own agent is looked for in `place`.
fn ours(farpipe: &Path, place: &Path) -> Command {
    let mut command = Command::new(farpipe);
    command
        .env("XDG_RUNTIME_DIR", place)
        .env_remove("FARPIPE_NO_REUSE")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

fn over_ssh(server: &Server, flags: &[&str]) -> Command {
    let mut command = server.client(server.port);
    command.args(flags).args(["127.0.0.1", "true"]);
    command
}

/// An `ssh -M` that is connected.
fn master(server: &Server) -> Result<Process> {
    let control = server.control();
    let mut command = server.client(server.port);
    command.args(["-M", "-N", "-S", &control, "127.0.0.1"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let master = Process::spawn(command)?;
    wait_for(Path::new(&control))?;
    Ok(master)
}

fn wait_for(socket: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        ensure!(Instant::now() < deadline, "no {}", socket.display());
        sleep(Duration::from_millis(5));
    }
    Ok(())
}
