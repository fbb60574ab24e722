//! The relay's admin: HTTP/1.1 for whoever runs it. Says how it is, and takes orders.
//!
//! It trusts whoever reaches it, so it is on loopback only; a page in a browser of this host reaches
//! it too, and is turned away by its `Origin`, or by a `Host` that is not this one. Orders that concern
//! the process go to whoever runs it, as values on a bounded channel. What looks on from elsewhere, a
//! probe of an orchestrator, has a listener that says how the relay is and takes no order.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use farpipe_audit::Audit;
use farpipe_net::Clock;
use farpipe_proto::Instant;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use self::http::{busy, error, is_local, json_of, text};
use crate::metrics::{Gauges, Metrics};
use crate::registry::Registry;
use crate::windows::Windows;

mod http;

/// Orders that wait for whoever runs the relay. Policy when full: 503, ask again.
const ORDERS_MAX: usize = 4;
/// Connections at once. Policy when full: the next one waits to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long the head of a request may take, and how long an idle connection is kept.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Largest head of a request.
const HEAD_SIZE: usize = 16 * 1024;
/// How long a reload may take before the asker is told so.
const RELOAD_MAX: Duration = Duration::from_secs(10);
/// Wait after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the admin cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Others than this host could give orders.
    #[error("the admin at {0} would take orders from the network")]
    NotLoopback(SocketAddr),
    /// The system says no.
    #[error("cannot listen on {0} for the admin: {1}")]
    Listen(String, #[source] io::Error),
}

impl AdminError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotLoopback(_) => {
                "give an address of this host: 127.0.0.1:9090 or [::1]:9090; from elsewhere: \
                 ssh -L 9090:127.0.0.1:9090 HOST, or --probe-listen for what only looks on"
            }
            Self::Listen(..) => "choose another port, or 0 for any",
        }
    }
}

/// An order for whoever runs the relay.
#[derive(Debug)]
pub enum Order {
    /// End in order, as after SIGTERM.
    Drain,
    /// Read the configuration again, and say what came of it: what was changed, or why nothing was.
    Reload(oneshot::Sender<Result<Vec<String>, String>>),
}

/// The admin of one relay.
#[derive(Debug)]
pub struct Admin {
    registry: Arc<Registry>,
    windows: Arc<Windows>,
    held: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    audit: Audit,
    clock: Clock,
    orders: mpsc::Sender<Order>,
}

/// What may be asked for at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// All of it, of this host only.
    Orders,
    /// Whether it lives and is ready, and its metrics: of anywhere.
    Probes,
}

/// The admin's socket.
#[derive(Debug)]
pub struct AdminListener {
    listener: TcpListener,
    address: SocketAddr,
    scope: Scope,
}

impl AdminListener {
    /// Binds `HOST:PORT`, for orders; port 0 picks a free one.
    ///
    /// # Errors
    /// [`AdminError`]: not loopback, in use, not resolvable.
    pub async fn bind(address: &str) -> Result<Self, AdminError> {
        Self::bind_for(Scope::Orders, address).await
    }

    /// Binds `HOST:PORT` of any interface, for `GET /healthz`, `/readyz` and `/metrics` alone; port 0 picks
    /// a free one.
    ///
    /// # Errors
    /// [`AdminError::Listen`]: in use, not resolvable.
    pub async fn bind_probes(address: &str) -> Result<Self, AdminError> {
        Self::bind_for(Scope::Probes, address).await
    }

    async fn bind_for(scope: Scope, address: &str) -> Result<Self, AdminError> {
        let failed = |error| AdminError::Listen(address.to_owned(), error);
        let addresses = tokio::net::lookup_host(address).await.map_err(failed)?;
        let addresses: Vec<SocketAddr> = addresses.collect();
        if scope == Scope::Orders
            && let Some(other) = addresses.iter().find(|found| !found.ip().is_loopback())
        {
            return Err(AdminError::NotLoopback(*other));
        }
        let bound = TcpListener::bind(addresses.as_slice()).await;
        let listener = bound.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            scope,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Admin {
    pub(crate) fn new(
        registry: Arc<Registry>,
        windows: Arc<Windows>,
        held: Arc<AtomicUsize>,
        metrics: Arc<Metrics>,
        audit: Audit,
        clock: Clock,
    ) -> (Self, mpsc::Receiver<Order>) {
        let (orders, received) = mpsc::channel(ORDERS_MAX);
        let admin = Self {
            registry,
            windows,
            held,
            metrics,
            audit,
            clock,
            orders,
        };
        (admin, received)
    }

    /// Answers for ever.
    ///
    /// # Cancellation
    /// Dropping it closes the socket and every connection.
    pub async fn serve(self: Arc<Self>, listener: AdminListener) -> Infallible {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                    match accepted {
                        Ok((stream, _)) => {
                            connections.spawn(Arc::clone(&self).converse(stream, listener.scope));
                        }
                        Err(error) => {
                            tracing::warn!("admin: cannot accept a connection: {error}");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn converse(self: Arc<Self>, stream: TcpStream, scope: Scope) {
        let answer = service_fn(|request| {
            let admin = Arc::clone(&self);
            async move { Ok::<_, Infallible>(admin.answer(scope, request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_MAX)
            .max_buf_size(HEAD_SIZE)
            .serve_connection(TokioIo::new(stream), answer);
        if let Err(error) = served.await {
            tracing::debug!("admin: {error}");
        }
    }

    async fn answer(&self, scope: Scope, request: Request<Incoming>) -> Response<String> {
        if scope == Scope::Orders
            && let Err(why) = is_local(&request)
        {
            return error(StatusCode::FORBIDDEN, why);
        }
        let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        let (get, post) = (Method::GET, Method::POST);
        let (method, answer) = match path.as_slice() {
            ["healthz"] => (get, Answer::Health),
            ["readyz"] => (get, Answer::Ready),
            ["metrics"] => (get, Answer::Metrics),
            _ if scope == Scope::Probes => {
                let known = "known here: GET /healthz /readyz /metrics; more at --admin-listen";
                return error(StatusCode::NOT_FOUND, known);
            }
            ["agents"] => (get, Answer::Agents),
            ["tunnels"] => (get, Answer::Tunnels),
            ["audit-head"] => (get, Answer::AuditHead),
            ["agents", name, "disconnect"] => (post, Answer::Disconnect(name)),
            ["drain"] => (post, Answer::Drain),
            ["reload"] => (post, Answer::Reload),
            _ => {
                let known = "known here: GET /healthz /readyz /metrics /agents /tunnels /audit-head, POST \
                             /agents/NAME/disconnect /drain /reload";
                return error(StatusCode::NOT_FOUND, known);
            }
        };
        let is_head = request.method() == Method::HEAD && method == Method::GET;
        if *request.method() != method && !is_head {
            let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, &format!("use {method}"));
            if let Ok(method) = HeaderValue::from_str(method.as_str()) {
                refused.headers_mut().insert(ALLOW, method);
            }
            return refused;
        }
        match answer {
            Answer::Health => text(StatusCode::OK, "ok\n".to_owned()),
            Answer::Ready => match self.metrics.is_ready() {
                true => text(StatusCode::OK, "ready\n".to_owned()),
                false => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
            },
            Answer::Metrics => {
                let mut answer = text(StatusCode::OK, self.metrics.text(self.gauges()));
                answer.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
                answer
            }
            Answer::Agents => json_of(StatusCode::OK, &self.agents()),
            Answer::Tunnels => json_of(StatusCode::OK, &self.tunnels()),
            Answer::AuditHead => match self.audit.log() {
                Some(log) => text(StatusCode::OK, format!("{}\n", log.head())),
                None => error(StatusCode::NOT_FOUND, "this relay has no --audit-log"),
            },
            Answer::Disconnect(name) => match self.registry.disconnect(name) {
                true => json_of(StatusCode::OK, &json!({"disconnected": name})),
                false => error(StatusCode::NOT_FOUND, "no agent of that name is registered"),
            },
            Answer::Drain => match self.orders.try_send(Order::Drain) {
                Ok(()) => json_of(StatusCode::ACCEPTED, &json!({"draining": true})),
                Err(_) => busy(),
            },
            Answer::Reload => self.reload().await,
        }
    }

    async fn reload(&self) -> Response<String> {
        let (tell, told) = oneshot::channel();
        if self.orders.try_send(Order::Reload(tell)).is_err() {
            return busy();
        }
        match tokio::time::timeout(RELOAD_MAX, told).await {
            Ok(Ok(Ok(changes))) => json_of(StatusCode::OK, &json!({"changes": changes})),
            Ok(Ok(Err(why))) => error(StatusCode::UNPROCESSABLE_ENTITY, &why),
            Ok(Err(_)) => busy(),
            Err(_) => error(StatusCode::GATEWAY_TIMEOUT, "it takes long; see the log"),
        }
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn gauges(&self) -> Gauges {
        Gauges {
            agents: self.registry.agents_len(),
            held: self.held.load(Ordering::Relaxed),
            windows: self.windows.used(),
        }
    }

    fn agents(&self) -> Value {
        let now = self.now();
        let agents = self.registry.agents();
        let agents = agents.into_iter().map(|agent| {
            json!({
                "name": agent.name,
                "tags": agent.tags,
                "identity": agent.identity,
                "address": agent.address,
                "instance": agent.instance,
                "up_ms": millis(now - agent.since),
                "sessions": agent.sessions,
            })
        });
        json!({"agents": agents.collect::<Vec<_>>()})
    }

    fn tunnels(&self) -> Value {
        let now = self.now();
        let tunnels = self.metrics.tunnels.all();
        let tunnels = tunnels.iter().map(|tunnel| {
            let [to_agent, to_client] = tunnel.passed();
            json!({
                "session": tunnel.key,
                "agent": tunnel.agent,
                "address": tunnel.peer,
                "identity": tunnel.caller,
                "up_ms": millis(now - tunnel.since),
                "bytes_to_agent": to_agent,
                "bytes_to_client": to_client,
            })
        });
        json!({"tunnels": tunnels.collect::<Vec<_>>()})
    }
}

/// What can be asked for.
enum Answer<'a> {
    Health,
    Ready,
    Metrics,
    Agents,
    Tunnels,
    AuditHead,
    Disconnect(&'a str),
    Drain,
    Reload,
}

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
