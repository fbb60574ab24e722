//! A tree of many small files, copied to another host: by `farpipe cp`, rsync and scp.
//!
//! Nothing is removed before the end. ext4 steps over inodes that were freed in the last minutes
//! one by one when it looks for a free one, so whoever comes after a removal pays for it with
//! seconds of system time.

use std::cell::Cell;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::syncfs;

use crate::input;
use crate::options::Options;
use crate::process::Process;
use crate::proxy;
use crate::relay::{EXEC_WS, EXEC_WSS, Way};
use crate::ssh::Server;
use crate::table::{Column, Rounds, Runner, Table};

/// What the others are compared with.
pub const RSYNC: &str = "rsync -a over ssh";
const SCP: &str = "scp -r";

/// Files a second, so that a smaller tree compares.
const COLUMNS: &[Column] = &[
    Column::median("files/s", 0),
    Column::median("s", 1),
    Column::median("files", 2),
];

const FILES_IN_DIRECTORY: usize = 500;
const BYTES_MIN: usize = 10;
const BYTES_MAX: usize = 2000;

/// scp waits for an answer to each file: so many times fewer of them.
const SCP_FEWER: usize = 20;

/// A copy that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(600);

/// Each way: half of a round trip of 50 ms.
const DELAY: &str = "both=25ms";

/// All trees; removed when dropped.
struct Place {
    root: PathBuf,
    /// How many copies there are: each has a name of its own.
    copies: Cell<usize>,
}

struct Tree {
    path: PathBuf,
    files: usize,
}

/// How copies are made.
struct Copies<'a> {
    options: &'a Options,
    place: &'a Place,
    is_far: bool,
}

pub fn tables(options: &Options) -> Result<Vec<Table>> {
    let place = Place::make(options)?;
    let tree = place.grow("tree", options.files)?;
    let few = place.grow("few", (options.files / SCP_FEWER).max(1))?;
    let server = Server::if_there(options);
    if let Some(server) = &server {
        server.give(&place.root.join("ssh"))?;
    }
    let mut tables = Vec::new();
    for is_far in [false, true] {
        let copies = Copies {
            options,
            place: &place,
            is_far,
        };
        let mut runners: Vec<Runner<'_>> = Vec::new();
        for (name, way) in [("farpipe cp, ws", EXEC_WS), ("farpipe cp, wss", EXEC_WSS)] {
            let way = Way::named(way)?;
            let (copies, tree) = (&copies, &tree);
            runners.push((name, Box::new(move || copies.farpipe(way, tree))));
        }
        if let Some(server) = &server {
            let (copies, tree) = (&copies, &tree);
            runners.push((RSYNC, Box::new(move || copies.rsync(server, tree))));
        }
        if let Some(server) = server.as_ref().filter(|_| !is_far) {
            let (copies, few) = (&copies, &few);
            runners.push((SCP, Box::new(move || copies.scp(server, few))));
        }
        let rounds = Rounds {
            count: options.tree_rounds,
            others_max: options.others_max,
            are_told: true,
        };
        let through = match is_far {
            true => "a round trip of 50 ms",
            false => "loopback",
        };
        let title = format!("a tree of {} small files, {through}", options.files);
        tables.push(Table::run(options, rounds, title, COLUMNS, &runners));
    }
    Ok(tables)
}

impl Place {
    fn make(options: &Options) -> Result<Self> {
        let name = format!("farpipe-bench-tree-{}", std::process::id());
        let place = Self {
            root: options.dir.join(name),
            copies: Cell::new(0),
        };
        // Whom ssh lets in passes through.
        for dir in ["", "farpipe", "ssh"] {
            let path = place.root.join(dir);
            let made = DirBuilder::new().mode(0o755).create(&path);
            made.with_context(|| format!("cannot make {}", path.display()))?;
        }
        place.check_room(options)?;
        Ok(place)
    }

    /// A file takes a block, and an inode; with a quarter more for what else there is.
    fn check_room(&self, options: &Options) -> Result<()> {
        // The source, and each round by two ways and rsync, near and far; scp's are few.
        let trees = 1 + options.tree_rounds * 6;
        let stat = nix::sys::statvfs::statvfs(&self.root)?;
        let files = (options.files * trees) as u64 * 5 / 4;
        let blocks = files * (BYTES_MAX as u64).div_ceil(stat.fragment_size());
        let free = stat.blocks_available();
        // Some file systems make inodes as they go, and say that there are none.
        let inodes = stat.files_available();
        ensure!(
            blocks <= free && (files <= inodes || stat.files() == 0),
            "{} has no room for {trees} trees of {} files\nhint: --files, --rounds or --dir",
            self.root.display(),
            options.files
        );
        Ok(())
    }

    /// Files of random bytes and lengths, the same each time.
    fn grow(&self, name: &str, files: usize) -> Result<Tree> {
        let path = self.root.join(name);
        let mut numbers = input::blocks();
        for number in 0..files {
            let (dir, file) = (number / FILES_IN_DIRECTORY, number % FILES_IN_DIRECTORY);
            let dir = path.join(format!("d{dir:05}"));
            if file == 0 {
                fs::create_dir_all(&dir)?;
            }
            let random = numbers.next().context("random numbers do not end")?;
            let more = u64::from_le_bytes(random) % (BYTES_MAX - BYTES_MIN + 1) as u64;
            let bytes = BYTES_MIN + more as usize;
            let text: Vec<u8> = numbers.by_ref().flatten().take(bytes).collect();
            fs::write(dir.join(format!("f{file:03}")), text)?;
        }
        Ok(Tree { path, files })
    }

    fn next(&self, dir: &str) -> String {
        self.copies.set(self.copies.get() + 1);
        let name = self.copies.get().to_string();
        self.root.join(dir).join(name).display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Copies<'_> {
    fn farpipe(&self, way: &Way, tree: &Tree) -> Result<Vec<f64>> {
        let program = self.options.program("farpipe")?;
        let target = self.place.next("farpipe");
        let root = self.place.root.join("farpipe").display().to_string();
        let net = way.open(program, &["--allow", &format!("write:{root}")])?;
        let (_proxy, address) = self.lay(net.address())?;
        let args = way.copy(&address, &tree.path.display().to_string(), &target);
        self.measure(program, &args, tree, &target)
    }

    fn rsync(&self, server: &Server, tree: &Tree) -> Result<Vec<f64>> {
        let target = self.place.next("ssh");
        let (_proxy, port) = self.lay_ssh(server)?;
        let shell = server.as_words(port);
        // With the slash it is what is in the directory.
        let source = format!("{}/", tree.path.display());
        let args = ["-a", "-e", &shell, &source, &format!("127.0.0.1:{target}")];
        let args = args.map(str::to_owned);
        self.measure(self.options.program("rsync")?, &args, tree, &target)
    }

    fn scp(&self, server: &Server, tree: &Tree) -> Result<Vec<f64>> {
        let target = self.place.next("ssh");
        let (_proxy, port) = self.lay_ssh(server)?;
        let source = tree.path.display().to_string();
        let what = ["-q", "-r", &source, &format!("127.0.0.1:{target}")].map(str::to_owned);
        let args = [&server.flags(port)[..], &what].concat();
        self.measure(self.options.program("scp")?, &args, tree, &target)
    }

    /// The way to `address`, with a proxy in it if that is to be far.
    fn lay(&self, address: &str) -> Result<(Option<Process>, String)> {
        if !self.is_far {
            return Ok((None, address.to_owned()));
        }
        let program = self.options.program("faultproxy")?;
        let (proxy, address) = proxy::before(program, address, &["--delay", DELAY])?;
        Ok((Some(proxy), address))
    }

    fn lay_ssh(&self, server: &Server) -> Result<(Option<Process>, u16)> {
        let (proxy, address) = self.lay(&format!("127.0.0.1:{}", server.port))?;
        let port = address.rsplit_once(':').context("an address has a port")?.1;
        Ok((proxy, port.parse()?))
    }

    /// Files a second, seconds, files.
    fn measure(
        &self,
        program: &Path,
        args: &[String],
        tree: &Tree,
        target: &str,
    ) -> Result<Vec<f64>> {
        // What the last one left to be written is not this one's.
        syncfs(File::open(&self.place.root)?)?;
        let began = Instant::now();
        let copy = Process::start(program, args, Stdio::null(), Stdio::null())?;
        copy.finish_within(LIMIT)?;
        let seconds = began.elapsed().as_secs_f64();
        let same = same(&tree.path, Path::new(target))?;
        ensure!(
            same == tree.files,
            "{same} of {} files arrived whole",
            tree.files
        );
        let files = tree.files as f64;
        Ok(vec![files / seconds, seconds, files])
    }
}

/// How many files of one tree are in the other as well; an error if one is not as it was.
fn same(source: &Path, copy: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(source)? {
        let name = entry?.file_name();
        let (ours, theirs) = (source.join(&name), copy.join(&name));
        if ours.is_dir() {
            count += same(&ours, &theirs)?;
            continue;
        }
        let arrived = fs::read(&theirs);
        let arrived = arrived.with_context(|| format!("{} did not arrive", ours.display()))?;
        ensure!(
            arrived == fs::read(&ours)?,
            "{} came changed",
            ours.display()
        );
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_compared_file_by_file() {
        let name = format!("farpipe-bench-same-{}", std::process::id());
        let place = Place {
            root: std::env::temp_dir().join(name),
            copies: Cell::new(0),
        };
        let (source, copy) = (place.grow("a", 501).unwrap(), place.grow("b", 501).unwrap());
        assert_eq!(same(&source.path, &copy.path).unwrap(), 501);
        let last = copy.path.join("d00001/f000");
        fs::write(&last, "other").unwrap();
        assert!(same(&source.path, &copy.path).is_err());
        fs::remove_file(&last).unwrap();
        assert!(same(&source.path, &copy.path).is_err());
    }
}
