//! The lab's hands on one machine: runs nodes here for a script that runs elsewhere.
//!
//! An agent has one run at a time. Who does not know the token is told nothing and can do nothing:
//! the check stands before the whole service. A run that nobody asks about any more is ended.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tercet_client::v1;
use tercet_client::v1::lab_agent_server::{LabAgent, LabAgentServer};
use tercet_raft::NodeId;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::ast::Wipe;
use crate::backend::{Done, WorldError};
use crate::processes::{CLUSTER, NodeProcesses, Processes};
use crate::real::TOKEN;
use crate::setup::NodeGiven;

/// How often an agent looks whether its caller is gone, at least.
const LOOK: Duration = Duration::from_secs(1);
/// The longest name of a run.
const RUN_NAME_MAX: usize = 64;
/// The shortest token of an agent that others can reach.
const TOKEN_MIN: usize = 8;
/// What a caller may say of how a node is started: nothing that names files or addresses.
const ARGUMENTS: [&str; 6] = [
    "--lab-profile",
    "--lab-broken-rules",
    "--lab-gate",
    "--lab-frozen-timers",
    "--heartbeat",
    "--election",
];

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It would let anyone in.
    #[error(
        "an agent lets anyone who can reach {0} start and kill nodes here: listen on 127.0.0.1, or set \
         TERCET_LAB_TOKEN to a secret of {TOKEN_MIN} characters at least"
    )]
    NoToken(SocketAddr),
    /// The port cannot be had.
    #[error("{0} cannot be listened on: {1}")]
    Listen(SocketAddr, String),
    /// The directory cannot be had.
    #[error("{0}: {1}")]
    Dir(PathBuf, std::io::Error),
    /// The service ended.
    #[error("the agent ended: {0}")]
    Service(#[from] tonic::transport::Error),
}

/// How an agent is set up.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// What it runs as a node.
    pub program: PathBuf,
    /// Where callers connect.
    pub listen: SocketAddr,
    /// Where all runs have their directories.
    pub dir: PathBuf,
    /// What callers must know, if anything.
    pub token: Option<String>,
    /// How long a run may stay without a word from its caller until its nodes are stopped.
    pub silence: Duration,
}

/// Serves as an agent; for ever.
///
/// `on_ready` is called with the address as soon as callers can connect.
///
/// # Errors
/// What keeps the agent from running.
pub async fn serve_agent(
    options: AgentOptions,
    on_ready: impl FnOnce(SocketAddr) + Send,
) -> Result<(), AgentError> {
    let AgentOptions { program, listen, dir, token, silence } = options;
    let is_secret = token.as_ref().is_some_and(|token| token.len() >= TOKEN_MIN);
    if !listen.ip().is_loopback() && !is_secret {
        return Err(AgentError::NoToken(listen));
    }
    fs::create_dir_all(&dir).map_err(|error| AgentError::Dir(dir.clone(), error))?;
    let dir = dir.canonicalize().map_err(|error| AgentError::Dir(dir, error))?;
    let incoming =
        TcpIncoming::bind(listen).map_err(|error| AgentError::Listen(listen, error.to_string()))?;
    let address =
        incoming.local_addr().map_err(|error| AgentError::Listen(listen, error.to_string()))?;
    let shared = Arc::new(Mutex::new(State { run: None, made: BTreeSet::new() }));
    tokio::spawn(end_silent(Arc::clone(&shared), silence));
    let agent = Agent { program, dir, shared };
    let check = move |request: Request<()>| -> Result<Request<()>, Status> {
        let given = request.metadata().get(TOKEN).map_or(&[][..], |value| value.as_bytes());
        if token.as_ref().is_none_or(|token| is_same(token.as_bytes(), given)) {
            return Ok(request);
        }
        Err(Status::unauthenticated("the lab's token is missing or wrong"))
    };
    on_ready(address);
    tonic::transport::Server::builder()
        .add_service(LabAgentServer::with_interceptor(agent, check))
        .serve_with_incoming(incoming.with_nodelay(Some(true)))
        .await?;
    Ok(())
}

/// Compares in a time that tells nothing about the token.
fn is_same(token: &[u8], given: &[u8]) -> bool {
    let differ = token.iter().zip(given).fold(0, |differ, (a, b)| differ | (a ^ b));
    token.len() == given.len() && differ == 0
}

/// Whether this can be the name of a run, and so of a directory: nothing that leads elsewhere.
fn check_run_name(name: &str) -> Done {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > RUN_NAME_MAX {
        return Err(WorldError(format!("a run's name has 1 to {RUN_NAME_MAX} characters")));
    }
    if name.starts_with('.') || !name.chars().all(is_plain) {
        return Err(WorldError(format!(
            "{name:?} is not the name of a run: letters, digits, - _ and . make one, and no . begins it"
        )));
    }
    Ok(())
}

/// Whether a caller may start a node with this argument.
fn check_argument(argument: &str) -> Done {
    let name = argument.split_once('=').map_or(argument, |(name, _)| name);
    if ARGUMENTS.contains(&name) {
        return Ok(());
    }
    Err(WorldError(format!("{argument:?} is not an argument that a run may set")))
}

#[derive(Debug)]
struct Run {
    name: String,
    processes: Processes,
    heard: Instant,
}

#[derive(Debug)]
struct State {
    run: Option<Run>,
    /// The runs whose directories this agent made: what it may delete.
    made: BTreeSet<String>,
}

type Shared = Arc<Mutex<State>>;

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a run whose caller is gone.
async fn end_silent(shared: Shared, silence: Duration) {
    loop {
        tokio::time::sleep(LOOK.min(silence / 4)).await;
        let shared = Arc::clone(&shared);
        let end = move || {
            let mut state = lock(&shared);
            if state.run.as_ref().is_some_and(|run| run.heard.elapsed() > silence)
                && let Some(mut run) = state.run.take()
            {
                run.processes.stop_all();
            }
        };
        // It panics only if the nodes cannot be stopped in any way; the next round tries again.
        let _ = tokio::task::spawn_blocking(end).await;
    }
}

#[derive(Debug)]
struct Agent {
    program: PathBuf,
    dir: PathBuf,
    shared: Shared,
}

fn refused(error: WorldError) -> Status {
    Status::failed_precondition(error.0)
}

const fn done() -> v1::AgentResponse {
    v1::AgentResponse {}
}

impl Agent {
    /// Does something that takes its time, away from the threads that answer.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut State) -> Done<T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let shared = Arc::clone(&self.shared);
        let task = tokio::task::spawn_blocking(move || act(&mut lock(&shared)));
        let answer = task.await.map_err(|error| Status::internal(error.to_string()))?;
        answer.map(Response::new).map_err(refused)
    }

    /// Does something in the run of this name, to a node of it.
    async fn on_node<T: Send + 'static>(
        &self,
        run: String,
        node: u32,
        act: impl FnOnce(&mut Processes, NodeId) -> Done<T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        self.blocking(move |state| {
            let found = state.run.as_mut().filter(|found| found.name == run);
            let found = found.ok_or_else(|| WorldError(format!("the run {run} has ended here")))?;
            found.heard = Instant::now();
            let count = found.processes.count();
            let slot = u8::try_from(node).ok().filter(|slot| (1..=count).contains(slot));
            let node = slot
                .and_then(NodeId::new)
                .ok_or_else(|| WorldError(format!("the run {run} has no node {node}")))?;
            act(&mut found.processes, node)
        })
        .await
    }

    /// Does something to a node that needs no more than its name.
    async fn order(
        &self,
        request: Request<v1::AgentNodeRequest>,
        act: fn(&mut Processes, NodeId) -> Done,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        let v1::AgentNodeRequest { run, node } = request.into_inner();
        self.on_node(run, node, move |processes, node| act(processes, node).map(|()| done())).await
    }

    /// Takes something of a node's disk away.
    async fn take_away(
        &self,
        request: Request<v1::AgentWipeRequest>,
        act: fn(&mut Processes, NodeId, Wipe) -> Done,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        let v1::AgentWipeRequest { run, node, what } = request.into_inner();
        let what = Wipe::from_name(&what).ok_or_else(|| {
            Status::invalid_argument(format!("{what:?} is neither log nor meta nor all"))
        })?;
        self.on_node(run, node, move |processes, node| act(processes, node, what).map(|()| done()))
            .await
    }
}

fn begin(state: &mut State, program: PathBuf, dir: PathBuf, asked: v1::AgentBeginRequest) -> Done {
    let v1::AgentBeginRequest { run: name, nodes } = asked;
    check_run_name(&name)?;
    if let Some(run) = &state.run {
        return Err(WorldError(format!(
            "it runs {} already, one run at a time: try again when that has ended",
            run.name
        )));
    }
    if nodes.is_empty() || nodes.len() > 7 {
        return Err(WorldError(format!("a cluster has 1 to 7 nodes, not {}", nodes.len())));
    }
    let (clients, peers): (Vec<_>, Vec<_>) =
        nodes.into_iter().map(|node| (node.client, node.peer)).unzip();
    if let Some(wrong) =
        clients.iter().chain(&peers).find(|address| address.parse::<SocketAddr>().is_err())
    {
        return Err(WorldError(format!("{wrong:?} is not an address such as 10.0.0.4:7101")));
    }
    let dir = dir.join(&name);
    fs::create_dir(&dir).map_err(|error| WorldError(format!("{}: {error}", dir.display())))?;
    state.made.insert(name.clone());
    let processes = Processes::at_addresses(program, dir, CLUSTER, clients, peers);
    state.run = Some(Run { name, processes, heard: Instant::now() });
    Ok(())
}

#[tonic::async_trait]
impl LabAgent for Agent {
    async fn begin(
        &self,
        request: Request<v1::AgentBeginRequest>,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        let asked = request.into_inner();
        let (program, dir) = (self.program.clone(), self.dir.clone());
        self.blocking(move |state| begin(state, program, dir, asked).map(|()| done())).await
    }

    async fn prepare(
        &self,
        request: Request<v1::AgentPrepareRequest>,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        let v1::AgentPrepareRequest { run, node, seed, term, voted, log } = request.into_inner();
        let value = |entry: v1::AgentEntry| String::from_utf8(entry.value.to_vec()).ok();
        let entry = |entry: v1::AgentEntry| Some((entry.term, value(entry)?));
        let log = log.into_iter().map(entry).collect::<Option<Vec<_>>>();
        let log = log.ok_or_else(|| Status::invalid_argument("the log's values are not text"))?;
        let voted = u8::try_from(voted).ok().and_then(NodeId::new);
        let given = NodeGiven { term, voted, log };
        self.on_node(run, node, move |processes, node| {
            processes.prepare(seed, node, &given).map(|()| done())
        })
        .await
    }

    async fn start(
        &self,
        request: Request<v1::AgentStartRequest>,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        let v1::AgentStartRequest { run, node, arguments } = request.into_inner();
        self.on_node(run, node, move |processes, node| {
            arguments.iter().try_for_each(|argument| check_argument(argument))?;
            if processes.is_running(node) {
                return Err(WorldError(format!("{node} runs already")));
            }
            processes.start(node, &arguments).map(|()| done())
        })
        .await
    }

    async fn kill(
        &self,
        request: Request<v1::AgentNodeRequest>,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        self.order(request, NodeProcesses::kill).await
    }

    async fn pause(
        &self,
        request: Request<v1::AgentNodeRequest>,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        self.order(request, NodeProcesses::pause).await
    }

    async fn resume(
        &self,
        request: Request<v1::AgentNodeRequest>,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        self.order(request, NodeProcesses::resume).await
    }

    async fn is_running(
        &self,
        request: Request<v1::AgentNodeRequest>,
    ) -> Result<Response<v1::AgentIsRunningResponse>, Status> {
        let v1::AgentNodeRequest { run, node } = request.into_inner();
        self.on_node(run, node, |processes, node| {
            Ok(v1::AgentIsRunningResponse { running: processes.is_running(node) })
        })
        .await
    }

    async fn last_words(
        &self,
        request: Request<v1::AgentNodeRequest>,
    ) -> Result<Response<v1::AgentLastWordsResponse>, Status> {
        let v1::AgentNodeRequest { run, node } = request.into_inner();
        self.on_node(run, node, |processes, node| {
            Ok(v1::AgentLastWordsResponse { line: processes.last_words(node) })
        })
        .await
    }

    async fn forget(
        &self,
        request: Request<v1::AgentWipeRequest>,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        self.take_away(request, NodeProcesses::forget).await
    }

    async fn delete(
        &self,
        request: Request<v1::AgentWipeRequest>,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        self.take_away(request, NodeProcesses::delete).await
    }

    async fn tear(
        &self,
        request: Request<v1::AgentTearRequest>,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        let v1::AgentTearRequest { run, node, count } = request.into_inner();
        self.on_node(run, node, move |processes, node| processes.tear(node, count).map(|()| done()))
            .await
    }

    async fn stop_all(
        &self,
        request: Request<v1::AgentStopAllRequest>,
    ) -> Result<Response<v1::AgentResponse>, Status> {
        let v1::AgentStopAllRequest { run: name, discard } = request.into_inner();
        let dir = self.dir.clone();
        self.blocking(move |state| {
            if let Some(mut run) = state.run.take_if(|run| run.name == name) {
                run.processes.stop_all();
            }
            // Only what this agent made itself: so the name leads nowhere else.
            if discard && state.made.remove(&name) {
                let dir = dir.join(&name);
                fs::remove_dir_all(&dir)
                    .map_err(|error| WorldError(format!("{}: {error}", dir.display())))?;
            }
            Ok(done())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_plainly() {
        for good in ["run1-1", "a", "1764047628-99-run1.2", "A_b.c"] {
            assert_eq!(check_run_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(RUN_NAME_MAX + 1);
        for bad in ["", ".", "..", ".a", "a/b", "/a", "../a", "a\\b", "a b", "a\0", "ä", &long] {
            assert!(check_run_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn callers_may_not_name_files_and_addresses() {
        for good in ["--lab-gate=cut 2", "--heartbeat=50ms", "--lab-frozen-timers"] {
            assert_eq!(check_argument(good), Ok(()), "{good}");
        }
        for bad in ["--data=/etc", "--config=/etc/passwd", "--listen=0.0.0.0:1", "x", "--lab"] {
            assert!(check_argument(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_directory_is_used_once_and_only_what_was_made_is_deleted() {
        let dir = std::env::temp_dir().join(format!("tercet-agent-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let asked = || v1::AgentBeginRequest {
            run: "r".to_owned(),
            nodes: vec![v1::AgentNode {
                client: "127.0.0.1:1".to_owned(),
                peer: "127.0.0.1:2".to_owned(),
            }],
        };
        let mut state = State { run: None, made: BTreeSet::new() };
        let program = PathBuf::from("none");
        begin(&mut state, program.clone(), dir.clone(), asked()).unwrap();
        let busy = begin(&mut state, program.clone(), dir.clone(), asked()).unwrap_err();
        assert!(busy.0.contains("one run at a time"), "{busy}");
        state.run = None;
        assert!(begin(&mut state, program, dir.clone(), asked()).is_err(), "it was used before");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(is_same(b"0123456789", b"0123456789"));
        for wrong in [&b""[..], b"0123", b"01234567890", b"0123456788"] {
            assert!(!is_same(b"0123456789", wrong));
        }
    }
}
