//! A node from its start to its end: ports, threads, the owner, and what a supervisor is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::LocalSet;

use crate::api;
use crate::coarse_clock::{CoarseClock, WokenBy};
use crate::config::ServerConfig;
use crate::driver::{self, Desk, DriverError, Ended};
use crate::lab::Lab;
use crate::metrics::Metrics;
use crate::node::{LabAccess, NodeHandle, Progress};

/// How many events a slow watcher may fall behind before it is told of a gap.
const EVENTS_KEPT: usize = 4096;
/// How often a node may lose its memory in a minute before it gives up: something keeps deleting
/// its files.
const LOSSES_MAX: usize = 10;
const LOSSES_IN: Duration = Duration::from_secs(60);
/// How long the client API may take to answer what is under way when the node stops.
const API_STOP: Duration = Duration::from_secs(5);
/// With more cores than these, clients have threads of their own, and so many.
const CORES: usize = 2;
const API_THREADS: usize = 2;

/// Where a node listens.
#[derive(Clone, Debug)]
pub struct Listening {
    /// The slot.
    pub node: u8,
    /// For clients.
    pub client: SocketAddr,
    /// For peers.
    pub peer: SocketAddr,
    /// The data directory.
    pub data: PathBuf,
}

/// Why a node cannot run, or could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {what}: {source}. {hint}")]
    Bind {
        /// Which.
        address: String,
        /// For whom.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The data directory cannot be used.
    #[error("{0}")]
    Data(String),
    /// The disk failed while the node ran.
    #[error("{0}")]
    Disk(String),
    /// Something else failed.
    #[error("{0}")]
    Internal(String),
}

impl ServeError {
    /// The exit code that a supervisor sees.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Internal(_) => 1,
            Self::Config(_) => 2,
            Self::Bind { .. } => 10,
            Self::Data(_) => 11,
            Self::Disk(_) => 12,
        }
    }
}

/// Runs a node until `shutdown` completes: takes the calling thread.
///
/// `on_ready` is called once, when both ports are open and the data directory is this node's.
///
/// # Errors
/// What keeps the node from running, in words; nothing that was acknowledged is lost by it.
pub fn run(
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
    on_ready: impl FnOnce(Listening) + Send + 'static,
) -> Result<(), ServeError> {
    config.check().map_err(ServeError::Config)?;
    let internal = |error: std::io::Error| ServeError::Internal(error.to_string());
    let api_threads = config.api_threads.unwrap_or_else(api_threads);
    // Even where the owner's thread serves gRPC, HTTP has one: a node whose disk stands still is to
    // be seen by whoever watches it.
    let api_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(api_threads.max(1))
        .thread_name("tercet-api")
        .enable_all()
        .build()
        .map_err(internal)?;
    let owner_runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;

    let client_listener = {
        let _inside = api_runtime.enter();
        bind(&config.listen.to_string(), "clients")?
    };
    let peer_address = config
        .peer_listen
        .map_or_else(|| config.members[&config.node].clone(), |address| address.to_string());
    let peer_listener = {
        let _inside = owner_runtime.enter();
        bind(&peer_address, "peers")?
    };
    let is_public = |address: SocketAddr| !address.ip().is_loopback();
    let peer_bound = peer_listener.local_addr().map_err(internal)?;
    if is_public(peer_bound) && !config.insecure {
        return Err(ServeError::Config(format!(
            "listening for peers on {peer_bound} lets anyone who can reach it pretend to be a node: there \
             is no TLS yet. Say --insecure (insecure = true) on a network that you trust"
        )));
    }
    let listening = Listening {
        node: config.node,
        client: client_listener.local_addr().map_err(internal)?,
        peer: peer_listener.local_addr().map_err(internal)?,
        data: config.data.clone(),
    };

    let (commands_tx, commands) = mpsc::unbounded_channel();
    let (progress, progress_rx) =
        watch::channel(Progress { first_seq: 1, next_seq: 1, ..Progress::default() });
    let clock = Arc::new(CoarseClock::default());
    api_runtime.spawn(Arc::clone(&clock).run());
    let (serves, serves_rx) = watch::channel(false);
    let (events, _) = broadcast::channel(EVENTS_KEPT);
    let metrics = Arc::new(Metrics::default());
    let (stop_tx, stop) = watch::channel(false);
    let handle = NodeHandle {
        commands: commands_tx,
        progress: progress_rx.clone(),
        serves: serves_rx,
        clock: Arc::clone(&clock),
        woken_by: WokenBy::Clock,
        events: events.clone(),
        metrics: Arc::clone(&metrics),
        id: config.node,
        lab: config
            .lab
            .as_ref()
            .map(|lab| LabAccess { token: lab.token.as_deref().map(Arc::from) }),
    };
    let mut desk = Desk {
        commands,
        progress,
        serves,
        events,
        metrics,
        stop,
        started: Instant::now(),
        event_seq: 0,
        lab: config.lab.as_ref().map(Lab::new),
    };

    api_runtime.spawn(async move {
        shutdown.await;
        let _ = stop_tx.send(true);
    });
    let (api_done_tx, api_done) = tokio::sync::oneshot::channel();
    let (api_stop_tx, api_stop) = tokio::sync::oneshot::channel::<()>();
    let limits = config.limits;
    let grpc_runtime = match api_threads {
        0 => owner_runtime.handle().clone(),
        _ => api_runtime.handle().clone(),
    };
    // The API opens when the directory is known to be this node's.
    let (api_start_tx, api_start) = tokio::sync::oneshot::channel::<()>();
    api_runtime.spawn(async move {
        if api_start.await.is_err() {
            return;
        }
        let stopped = async {
            let _ = api_stop.await;
        };
        let result = api::serve(client_listener, handle, limits, grpc_runtime, stopped).await;
        let _ = api_done_tx.send(result.map_err(|error| error.to_string()));
    });

    let ready = move || {
        let _ = api_start_tx.send(());
        on_ready(listening);
    };
    let outcome = owner_runtime.block_on(own(&config, &mut desk, Rc::new(peer_listener), ready));
    let _ = api_stop_tx.send(());
    if outcome.is_ok() {
        // The owner is gone: whoever still waits is told so at once, and connections end.
        drop(desk);
        let _ = owner_runtime.block_on(async { tokio::time::timeout(API_STOP, api_done).await });
    }
    api_runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

/// How many threads serve clients, by what the machine has.
fn api_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores > CORES { API_THREADS } else { 0 }
}

/// Runs the owner, again and again should the node lose its memory while it runs.
async fn own(
    config: &ServerConfig,
    desk: &mut Desk,
    listener: Rc<TcpListener>,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let mut lost = None;
    let mut ready = Some(ready);
    let mut losses: Vec<Instant> = Vec::new();
    while losses.len() <= LOSSES_MAX {
        let tasks = LocalSet::new();
        let mut random = random_u128;
        let on_open = || {
            if let Some(ready) = ready.take() {
                ready();
            }
        };
        let owner =
            driver::run(config, desk, Rc::clone(&listener), lost.take(), &mut random, on_open);
        match tasks.run_until(owner).await {
            Ok(Ended::Stopped) => return Ok(()),
            Ok(Ended::LostMemory(why)) => {
                tracing::error!("{why}");
                lost = Some(why);
                losses.retain(|at| at.elapsed() < LOSSES_IN);
                losses.push(Instant::now());
            }
            Err(error @ (DriverError::Open { .. } | DriverError::Disk { .. })) => {
                return Err(ServeError::Data(error.to_string()));
            }
            Err(error @ DriverError::Failed { .. }) => {
                return Err(ServeError::Disk(error.to_string()));
            }
        }
    }
    Err(ServeError::Disk(format!(
        "{}: the files of this node were damaged or deleted more than {LOSSES_MAX} times within \
         {LOSSES_IN:?}: find out by whom",
        config.data.display()
    )))
}

fn bind(address: &str, what: &'static str) -> Result<TcpListener, ServeError> {
    let listener = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    listener.map_err(|source| {
        use std::io::ErrorKind;
        let hint = if source.kind() == ErrorKind::AddrInUse {
            "Another process has this port: stop it, or give this node another port"
        } else if source.kind() == ErrorKind::AddrNotAvailable {
            "This machine does not have that address: check the node's id and its entry in the \
             list of members"
        } else if source.kind() == ErrorKind::PermissionDenied {
            "Ports below 1024 need privileges: take a higher one"
        } else {
            "Check the address"
        };
        ServeError::Bind { address: address.to_owned(), what, source, hint }
    })
}

/// A number that nobody else gets.
pub fn random_u128() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    // The standard library's hash keys come from the operating system's generator; each new state
    // differs, and the two halves are hashed under different keys.
    let half = || u128::from(RandomState::new().hash_one(std::time::SystemTime::now()));
    (half() << 64) | half()
}
