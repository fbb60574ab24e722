//! One try after the other; each says what came of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use farpipe_sandbox::Sandbox;
use rustix::io::Errno;

/// The process to be closed gets its directory by this name.
const INSIDE: &str = "inside";

pub(crate) fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == INSIDE) {
        let dir = args.next().expect("a directory");
        inside(Path::new(&dir));
        return ExitCode::SUCCESS;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in ["mine", "others"] {
        fs::create_dir(dir.path().join(name)).expect("a directory");
        fs::write(dir.path().join(name).join("file"), name).expect("a file");
    }
    let this = std::env::current_exe().expect("this program");
    let status = Command::new(this).arg(INSIDE).arg(dir.path()).status();
    assert!(status.expect("this program").success());
    ExitCode::SUCCESS
}

fn inside(dir: &Path) {
    let (mine, others) = (dir.join("mine"), dir.join("others"));
    let allowed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = |listener: &TcpListener| listener.local_addr().expect("an address");
    let mut sandbox = Sandbox::new();
    sandbox.look_up_names();
    sandbox.connect_only_to(&[port(&allowed).port()]);
    sandbox.read(&mine.join("file"));
    sandbox.append(&mine.join("log"));
    let enforced = sandbox.enforce();
    // A kernel that has less is not one to run this on: nothing would be shown.
    assert_eq!(enforced.missing(), Vec::<String>::new());

    // Files.
    let denied =
        |tried: io::Result<File>| assert_eq!(kind(tried), Err(ErrorKind::PermissionDenied));
    assert_eq!(fs::read(mine.join("file")).expect("open"), b"mine");
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(mine.join("log"))
        .expect("open");
    denied(File::open(others.join("file")));
    denied(File::open("/etc/shadow"));
    denied(File::open("/proc/self/mem"));
    denied(File::create(others.join("new")));
    assert_eq!(
        kind(fs::remove_file(mine.join("log"))),
        Err(ErrorKind::PermissionDenied)
    );
    assert_eq!(
        kind(fs::read_dir("/root")),
        Err(ErrorKind::PermissionDenied)
    );
    // What landlock does not know.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    assert_eq!(
        kind(fs::set_permissions(mine.join("file"), mode)),
        Err(ErrorKind::PermissionDenied)
    );

    // Programs: EPERM is the system call's, EACCES would be the file's. The first fails at its fork.
    let started = Command::new("/bin/true")
        .status()
        .map_err(|error| error.raw_os_error());
    assert_eq!(started.map(drop), Err(Some(Errno::PERM.raw_os_error())));
    // And the fork by itself: with it, the directory would be what is wrong.
    let forked = Command::new("/bin/true")
        .current_dir("/no-such-directory")
        .status();
    assert_eq!(kind(forked), Err(ErrorKind::PermissionDenied));
    let became = Command::new("/bin/true").exec().raw_os_error();
    assert_eq!(became, Some(Errno::PERM.raw_os_error()));

    // Other processes.
    let parent = rustix::process::getppid().expect("who started us");
    let parent = rustix::process::pidfd_open(parent, rustix::process::PidfdFlags::empty());
    let parent = parent.expect("to look at it is allowed");
    let stolen =
        rustix::process::pidfd_getfd(&parent, 0, rustix::process::PidfdGetfdFlags::empty());
    assert_eq!(stolen.map(drop), Err(Errno::PERM));
    let killed = rustix::process::pidfd_send_signal(&parent, rustix::process::Signal::CONT);
    assert_eq!(killed, Err(Errno::PERM));
    let traced = nix::sys::ptrace::traceme();
    assert_eq!(traced, Err(nix::errno::Errno::EPERM));
    let mounted = rustix::mount::mount_bind("/etc", &mine);
    assert_eq!(mounted, Err(Errno::PERM));

    // The network.
    TcpStream::connect(port(&allowed)).expect("an open port");
    assert_eq!(
        kind(TcpStream::connect(port(&closed))),
        Err(ErrorKind::PermissionDenied)
    );
    let (_stream, _) = allowed.accept().expect("the one that came");
    TcpListener::bind("127.0.0.1:0").expect("another port");
    let found = ("localhost", 1)
        .to_socket_addrs()
        .expect("a name of this host");
    assert!(found.count() > 0);
    let packets = rustix::net::socket(
        rustix::net::AddressFamily::PACKET,
        rustix::net::SocketType::DGRAM,
        None,
    );
    assert_eq!(packets.map(drop), Err(Errno::PERM));

    // Threads there are, and they are closed as well.
    let thread = std::thread::spawn(move || kind(File::open(others.join("file"))));
    assert_eq!(
        thread.join().expect("no panic"),
        Err(ErrorKind::PermissionDenied)
    );
}

fn kind<T>(tried: io::Result<T>) -> Result<(), ErrorKind> {
    tried.map(drop).map_err(|error| error.kind())
}
