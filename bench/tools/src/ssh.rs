//! An sshd of its own, and ssh to it with a key of its own: the peer of commands and copies.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::bulk::free_port;
use crate::options::Options;
use crate::process::Process;

/// Keys by themselves; nothing of the user's or the system's configuration. sshd has the shell of
/// whom it lets in run a command, as everywhere; in an empty home, for what some shells read there
/// first takes longer than all the rest.
const CONFIG: &str = "\
PermitUserEnvironment HOME
ListenAddress 127.0.0.1
StrictModes no
UsePAM no
UseDNS no
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
";

/// Ended, and its keys removed, when dropped.
#[derive(Debug)]
pub struct Server {
    _process: Process,
    folder: Folder,
    pub port: u16,
    /// Who is let in.
    user: String,
    /// What runs a command for them.
    pub shell: String,
    client: PathBuf,
}

#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Server {
    /// One, unless ssh cannot be had, which is said.
    pub fn if_there(options: &Options) -> Option<Self> {
        let started = Self::start(options);
        started
            .inspect_err(|error| eprintln!("without ssh: {error:#}"))
            .ok()
    }

    fn start(options: &Options) -> Result<Self> {
        let (program, client) = (options.program("sshd")?, options.program("ssh")?);
        let own = said_by(Command::new("id").arg("-un"))?;
        let user = options.ssh_user.clone().unwrap_or(own);
        let entry = said_by(Command::new("getent").args(["passwd", &user]))?;
        let shell = entry.rsplit(':').next().unwrap_or_default().to_owned();
        let name = format!("farpipe-bench-ssh-{}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        // Who is let in looks for its key there.
        DirBuilder::new().mode(0o755).create(&folder.0)?;
        for key in ["host", "id"] {
            let mut made = Command::new("ssh-keygen");
            made.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
            said_by(made.arg(folder.0.join(key)))?;
        }
        let keys = folder.0.join("keys");
        let home = folder.0.join("home");
        DirBuilder::new().mode(0o755).create(&home)?;
        let key = fs::read_to_string(folder.0.join("id.pub"))?;
        fs::write(
            &keys,
            format!("environment=\"HOME={}\" {key}", home.display()),
        )?;
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o644))?;
        let port = free_port()?;
        let config = folder.0.join("config");
        let text = format!(
            "{CONFIG}Port {port}\nHostKey {}\nAuthorizedKeysFile {}\n",
            folder.0.join("host").display(),
            keys.display()
        );
        fs::write(&config, text)?;
        let args = ["-D", "-e", "-f", &config.display().to_string()].map(str::to_owned);
        let process = Process::start(program, &args, Stdio::null(), Stdio::null())?;
        // As root it wants /run/sshd, which the system's service makes.
        process.said("Server listening on ")?;
        Ok(Self {
            _process: process,
            folder,
            port,
            user,
            shell,
            client: client.to_owned(),
        })
    }

    /// Flags that ssh and scp know alike.
    pub fn flags(&self, port: u16) -> Vec<String> {
        let id = self.folder.0.join("id").display().to_string();
        let set = [
            format!("Port={port}"),
            format!("User={}", self.user),
            "IdentitiesOnly=yes".to_owned(),
            "StrictHostKeyChecking=no".to_owned(),
            "UserKnownHostsFile=/dev/null".to_owned(),
            "LogLevel=ERROR".to_owned(),
        ];
        let set = set.into_iter().flat_map(|set| ["-o".to_owned(), set]);
        let begin = ["-F", "none", "-i", &id].map(str::to_owned);
        begin.into_iter().chain(set).collect()
    }

    /// `ssh` with these flags.
    pub fn client(&self, port: u16) -> Command {
        let mut command = Command::new(&self.client);
        command.args(self.flags(port));
        command
    }

    /// `ssh` with these flags as rsync takes it.
    pub fn as_words(&self, port: u16) -> String {
        let begin = self.client.display().to_string();
        [vec![begin], self.flags(port)].concat().join(" ")
    }

    /// Where a master of many commands is found.
    pub fn control(&self) -> String {
        self.folder.0.join("control").display().to_string()
    }

    /// Gives a directory to whom ssh lets in.
    pub fn give(&self, dir: &Path) -> Result<()> {
        said_by(Command::new("chown").arg(&self.user).arg(dir)).map(drop)
    }
}

/// The line that a command says.
fn said_by(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {command:?}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {words}");
    let said = String::from_utf8(output.stdout)?;
    Ok(said.trim().to_owned())
}
