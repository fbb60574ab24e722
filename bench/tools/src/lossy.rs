//! A link that loses packets: two network namespaces, joined by two TUN devices and the threads here, which
//! hold every packet for the delay, let so many bytes a second through, queue so much and drop some at
//! random. A proxy cannot do that to TCP, and netem is not in every kernel. Needs root.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_rs::{DeviceBuilder, SyncDevice};

/// As Ethernet has it.
const MTU: u16 = 1500;
/// What autotuning may make of a socket's buffers: twice what is under way in a second at 1 Gbit/s would be
/// more than any kernel's default, with which a long link is not filled by anybody.
const SOCKET_BUFFER: u32 = 256 << 20;
/// How soon a thread looks whether it is to end.
const LOOK_MS: u8 = 100;
const LOOK: Duration = Duration::from_millis(LOOK_MS as u64);

/// What a link does to packets, the same both ways.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Of each direction.
    pub delay: Duration,
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may wait for their turn; more are dropped.
    pub queue: u64,
    /// The share of packets that is dropped, 0 to 1.
    pub loss: f64,
    pub seed: u64,
}

/// The link and its two hosts; gone when dropped.
pub struct LossyLink {
    hosts: [String; 2],
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Of its two ends.
pub const ADDRESSES: [&str; 2] = ["10.203.77.1", "10.203.77.2"];

impl LossyLink {
    /// Lays it; TCP has `congestion` as its control at both ends.
    pub fn lay(shape: Shape, congestion: &str) -> Result<Self> {
        let id = std::process::id();
        let hosts = [format!("fpbench{id}a"), format!("fpbench{id}b")];
        let mut link = Self {
            hosts,
            is_over: Arc::default(),
            threads: Vec::new(),
        };
        let mut devices = Vec::new();
        for (host, address) in link.hosts.iter().zip(ADDRESSES) {
            ip(&["netns", "add", host])?;
            let name = format!("fp{id}{}", &host[host.len() - 1..]);
            let builder = DeviceBuilder::new().name(&name).mtu(MTU);
            let device = builder.build_sync().context("cannot make a TUN device")?;
            device.set_nonblocking(true)?;
            ip(&["link", "set", &name, "netns", host])?;
            let within = |args: &[&str]| ip(&[&["-n", host], args].concat());
            within(&["addr", "add", &format!("{address}/24"), "dev", &name])?;
            within(&["link", "set", "lo", "up"])?;
            within(&["link", "set", &name, "up", "txqueuelen", "1000"])?;
            // By the route: a namespace may set only what the whole host allows to everybody.
            let net = ["route", "replace", "10.203.77.0/24", "dev", &name];
            within(&[&net[..], &["congctl", congestion]].concat())?;
            set(host, "tcp_rmem", &format!("4096 131072 {SOCKET_BUFFER}"))?;
            set(host, "tcp_wmem", &format!("4096 131072 {SOCKET_BUFFER}"))?;
            // What one run learned of the way is nothing for the next.
            set(host, "tcp_no_metrics_save", "1")?;
            devices.push(Arc::new(device));
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let (from_device, to_device) = (Arc::clone(&devices[from]), Arc::clone(&devices[to]));
            let queue: Arc<Queue> = Arc::default();
            let mut line = Line::new(shape, from as u64);
            let (is_over, packets) = (Arc::clone(&link.is_over), Arc::clone(&queue));
            link.threads.push(thread::spawn(move || {
                take(&from_device, &packets, &mut line, &is_over);
            }));
            let is_over = Arc::clone(&link.is_over);
            link.threads
                .push(thread::spawn(move || give(&to_device, &queue, &is_over)));
        }
        Ok(link)
    }

    /// A command at one of its ends, 0 or 1.
    pub fn at(&self, end: usize, program: &str, args: &[String]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hosts[end], program]);
        command.args(args);
        command
    }
}

impl Drop for LossyLink {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for host in &self.hosts {
            let _ = Command::new("ip").args(["netns", "del", host]).output();
        }
    }
}

/// Congestion controls that this kernel has, of these.
pub fn has_congestion_control(name: &str) -> bool {
    let all = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    all.is_ok_and(|all| all.split_whitespace().any(|one| one == name))
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output();
    let output = output.context("cannot run ip (the package iproute2)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {said}", args.join(" "));
    Ok(())
}

fn set(host: &str, name: &str, value: &str) -> Result<()> {
    let what = format!("net.ipv4.{name}={value}");
    ip(&["netns", "exec", host, "sysctl", "-qw", &what])
}

/// When a packet arrives, or that it never does.
#[derive(Debug)]
struct Line {
    shape: Shape,
    /// When the last one has left.
    free: Instant,
    random: u64,
}

impl Line {
    fn new(shape: Shape, direction: u64) -> Self {
        Self {
            shape,
            free: Instant::now(),
            random: shape.seed ^ (direction << 63),
        }
    }

    fn arrival(&mut self, len: usize, now: Instant) -> Option<Instant> {
        if self.is_lost() {
            return None;
        }
        let start = self.free.max(now);
        let waiting = (start - now).as_secs_f64() * self.shape.rate as f64;
        if waiting + len as f64 > self.shape.queue as f64 {
            return None;
        }
        self.free = start + Duration::from_secs_f64(len as f64 / self.shape.rate as f64);
        Some(self.free + self.shape.delay)
    }

    /// SplitMix64: which packets are lost depends on the seed and their number only.
    fn is_lost(&mut self) -> bool {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64 <= self.shape.loss
            && self.shape.loss > 0.0
    }
}

/// Packets under way. No more than rate × delay and the line's queue, because [`Line`] drops the others.
#[derive(Debug, Default)]
struct Queue {
    packets: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    come: Condvar,
}

fn take(device: &SyncDevice, queue: &Queue, line: &mut Line, is_over: &AtomicBool) {
    let mut buf = vec![0; 1 << 16];
    while !is_over.load(Ordering::Relaxed) {
        match device.recv(&mut buf) {
            Ok(len) => {
                if let Some(at) = line.arrival(len, Instant::now()) {
                    let mut packets = queue.packets.lock().unwrap_or_else(PoisonError::into_inner);
                    packets.push_back((at, buf[..len].to_vec()));
                    if packets.len() == 1 {
                        queue.come.notify_one();
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
                // Whatever it says, the next read tells.
                let _ = poll(&mut fds, PollTimeout::from(LOOK_MS));
            }
            Err(_) => return,
        }
    }
}

fn give(device: &SyncDevice, queue: &Queue, is_over: &AtomicBool) {
    let mut due = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let next = {
            let packets = queue.packets.lock().unwrap_or_else(PoisonError::into_inner);
            let is_empty = |packets: &mut VecDeque<_>| packets.is_empty();
            let waited = queue.come.wait_timeout_while(packets, LOOK, is_empty);
            let (mut packets, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            while let Some((_, packet)) = packets.pop_front_if(|(at, _)| *at <= now) {
                due.push(packet);
            }
            packets.front().map(|(at, _)| *at)
        };
        for packet in due.drain(..) {
            // Full, or the host is gone: lost, as on any link.
            let _ = device.send(&packet);
        }
        if let Some(at) = next {
            thread::sleep(at.saturating_duration_since(Instant::now()).min(LOOK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        delay: Duration::from_millis(100),
        rate: 1_000_000,
        queue: 3_000,
        loss: 0.0,
        seed: 1,
    };

    #[test]
    fn packets_take_their_turn_and_those_that_find_the_queue_full_are_dropped() {
        let mut line = Line::new(SHAPE, 0);
        let now = line.free;
        let mut arrival = || line.arrival(1_000, now).map(|at| (at - now).as_millis());
        let arrivals: Vec<_> = (0..5).map(|_| arrival()).collect();
        assert_eq!(arrivals, [Some(101), Some(102), Some(103), None, None]);
    }

    #[test]
    fn so_many_are_lost_and_the_same_ones_again() {
        let shape = Shape {
            loss: 0.01,
            ..SHAPE
        };
        let lost = || {
            let mut line = Line::new(shape, 0);
            (0..100_000).filter(|_| line.is_lost()).collect::<Vec<_>>()
        };
        assert!((900..1_100).contains(&lost().len()), "{}", lost().len());
        assert_eq!(lost(), lost());
    }
}
