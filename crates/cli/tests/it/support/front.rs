//! Real proxies in front of relays: Envoy and nginx, with the configurations of deploy/.
//!
//! `FARPIPE_WAY=envoy` (or `nginx`) in the environment of the tests puts one in front of every relay that
//! [`Host::relay`] starts, and its URL is the proxy's from then on: the same tests run as without. `ws`
//! goes by HTTP, the other schemes as TCP.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::process::{Invocation, Running};
use super::{DEADLINE, Host, tools};

/// The way to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Envoy,
    Nginx,
}

/// Both proxies.
pub(crate) const PROXIES: [Way; 2] = [Way::Envoy, Way::Nginx];

impl Way {
    /// Of all tests in this process.
    pub(crate) fn of_all() -> Self {
        match std::env::var("FARPIPE_WAY").as_deref() {
            Err(_) | Ok("direct") => Self::Direct,
            Ok("envoy") => Self::Envoy,
            Ok("nginx") => Self::Nginx,
            Ok(other) => panic!("FARPIPE_WAY is direct, envoy or nginx, not {other}"),
        }
    }
}

/// What a proxy does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Ends TLS, passes HTTP on.
    Https,
    /// Passes HTTP on.
    Http,
    /// Passes TCP on.
    Tcp,
    /// The same, and says whose it is.
    TcpTold,
}

/// A running proxy in front of a relay.
#[derive(Debug)]
pub(crate) struct Front {
    way: Way,
    dir: tempfile::TempDir,
    port: u16,
    /// `None` only between two.
    process: Option<Running>,
}

/// The proxies in front of a host's relays, by the URL of the proxy.
#[derive(Debug)]
pub(crate) struct Fronts {
    way: Way,
    known: Mutex<Vec<(String, String, Front)>>,
}

impl Fronts {
    pub(super) fn new(way: Way) -> Self {
        let known = Mutex::default();
        Self { way, known }
    }

    /// Where to dial for the relay that listens at `url`.
    #[track_caller]
    pub(super) fn before(&self, url: String) -> String {
        if self.way == Way::Direct {
            return url;
        }
        let (scheme, authority) = url.split_once("://").expect("a URL");
        let (_, port) = authority.rsplit_once(':').expect("a port");
        let door = if scheme == "ws" {
            Door::Http
        } else {
            Door::Tcp
        };
        let front = Front::start(self.way, door, port.parse().expect("a port"), None);
        let told = format!("{scheme}://127.0.0.1:{}", front.port);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.push((told.clone(), url, front));
        told
    }

    /// Where the relay itself listens, if there is a proxy at `url`.
    pub(super) fn behind(&self, url: &str) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = known.iter();
        known.find_map(|(told, behind, _)| (told == url).then(|| behind.clone()))
    }
}

impl Front {
    /// A proxy whose `door` leads to the relay at `port`; it cuts what is silent for `idle`, if given.
    #[track_caller]
    pub(crate) fn start(way: Way, door: Door, relay: u16, idle: Option<Duration>) -> Self {
        // Another may have taken the port between its choice and its use.
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
            let [https, http, tcp] = ports.map(|free| free.local_addr().expect("bound").port());
            let ports = [("443", https), ("8080", http), ("8443", tcp)];
            let port = match door {
                Door::Https => https,
                Door::Http => http,
                Door::Tcp | Door::TcpTold => tcp,
            };
            let mut front = Self {
                way,
                dir,
                port,
                process: None,
            };
            front.configure(door, &ports, relay, idle);
            if front.launch() {
                return front;
            }
        }
        panic!("{way:?} does not start");
    }

    /// Where it takes connections.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `kill -9`, workers and all.
    pub(crate) fn kill(&mut self) {
        // Dropped is killed with its group, and waited for.
        self.process = None;
    }

    /// Starts it again where it was.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.kill();
        // Workers that were killed with it may hold the port for a moment.
        let until = Instant::now() + DEADLINE;
        while !self.launch() {
            assert!(
                Instant::now() < until,
                "{:?} does not start again",
                self.way
            );
        }
    }

    /// nginx: new workers for the same configuration.
    #[track_caller]
    pub(crate) fn reload(&self) {
        assert_eq!(self.way, Way::Nginx, "Envoy has no reload of this kind");
        self.process.as_ref().expect("it runs").signal(Signal::HUP);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the files of deploy/ with these ports.
    fn configure(&self, door: Door, ports: &[(&str, u16)], relay: u16, idle: Option<Duration>) {
        let certs = certificates()
            .path()
            .to_str()
            .expect("our own name")
            .to_owned();
        let place = |text: &str| {
            let mut text = text.to_owned();
            for (written, port) in ports
                .iter()
                .copied()
                .chain([("7000", relay), ("7001", relay)])
            {
                for before in ["port_value: ", "listen ", "127.0.0.1:"] {
                    for after in [";", "}", " "] {
                        let from = format!("{before}{written}{after}");
                        text = text.replace(&from, &format!("{before}{port}{after}"));
                    }
                }
            }
            // Only this host is to reach what a test starts.
            text = text.replace("0.0.0.0", "127.0.0.1");
            text = text.replace("/etc/farpipe", &certs);
            if door != Door::TcpTold {
                text = without_proxy_protocol(&text);
            }
            if let Some(idle) = idle {
                assert!(text.contains(" 60s"), "no idle limit is there");
                text = text.replace(" 60s", &format!(" {}s", idle.as_secs()));
            }
            text
        };
        match self.way {
            Way::Direct => unreachable!("nothing is in front"),
            Way::Envoy => {
                let text = place(include_str!("../../../../../deploy/envoy/envoy.yaml"));
                fs::write(self.path("envoy.yaml"), text).expect("our directory");
            }
            Way::Nginx => {
                let http = place(include_str!("../../../../../deploy/nginx/http.conf"));
                let http = http.replace("listen ", "listen 127.0.0.1:");
                let http = http.replace("127.0.0.1:127.0.0.1:", "127.0.0.1:");
                let stream = place(include_str!("../../../../../deploy/nginx/stream.conf"));
                let stream = stream.replace("listen ", "listen 127.0.0.1:");
                let (_, module) = tools::nginx();
                // What a distribution's nginx.conf says around them, without its places.
                let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|kind| format!("{kind}_temp_path tmp-{kind};\n"))
                    .concat();
                let user = match rustix::process::geteuid().is_root() {
                    true => "user root;",
                    false => "",
                };
                let text = format!(
                    "load_module {};\n{user}\ndaemon off;\nworker_processes 1;\npid nginx.pid;\n\
                     worker_shutdown_timeout 1s;\nerror_log stderr warn;\nevents {{}}\n\
                     http {{\naccess_log off;\n{temporary}{http}}}\nstream {{\n{stream}}}\n",
                    module.display()
                );
                fs::write(self.path("nginx.conf"), text).expect("our directory");
            }
        }
    }

    /// Starts it; whether it takes connections.
    fn launch(&mut self) -> bool {
        let dir = self.dir.path();
        let start = |program: PathBuf| Invocation::new(dir, program.as_os_str());
        let mut process = match self.way {
            Way::Direct => unreachable!("nothing is in front"),
            Way::Envoy => start(tools::envoy())
                .args([
                    "-c",
                    "envoy.yaml",
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                ])
                .args(["--log-level", "warn"])
                .start(),
            Way::Nginx => {
                let prefix = format!("{}/", dir.display());
                start(tools::nginx().0)
                    .args(["-p", &prefix, "-c", "nginx.conf", "-e", "stderr"])
                    .start()
            }
        };
        let until = Instant::now() + DEADLINE;
        while process.is_running() && Instant::now() < until {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.process = Some(process);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20)); // sleep: polls, with a deadline
        }
        let said = process.end().stderr;
        assert!(
            said.contains("ddress already in use"),
            "{:?}: {said}",
            self.way
        );
        false
    }
}

/// As the files say: for a relay that is not told of the proxy.
fn without_proxy_protocol(text: &str) -> String {
    let text = text.replace("    proxy_protocol on;\n", "");
    match (text.find("# begin PROXY"), text.find("# end PROXY")) {
        (Some(from), Some(to)) => format!("{}{}", &text[..from], &text[to..]),
        _ => text,
    }
}

/// The proxies' own certificate, for every test of this process; its authority is `ca.pem` there.
pub(crate) fn certificates() -> &'static tempfile::TempDir {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    MADE.get_or_init(|| {
        let host = Host::new();
        for args in [
            &["cert", "-q", "init"][..],
            &[
                "cert",
                "-q",
                "issue",
                "proxy",
                "--kind",
                "relay",
                "--san",
                "127.0.0.1",
                "--san",
                "localhost",
            ],
        ] {
            host.farpipe(args).run().exits(0);
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["proxy.pem", "proxy-key.pem", "ca.pem"] {
            let made = host.path("farpipe-certs").join(name);
            fs::copy(made, dir.path().join(name)).expect("a certificate");
        }
        dir
    })
}
