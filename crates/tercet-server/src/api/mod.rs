//! What clients talk to: gRPC, HTTP/JSON, XML-RPC and the pages for operators, all on one port.
//!
//! Requests are checked here against their limits before they take memory; what they ask for is
//! done by [`NodeHandle`](crate::NodeHandle).

mod feed;
mod grpc;
mod http;
mod in_order;
mod intake;
mod json;
mod lab;
mod openapi;
mod xmlrpc;

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tercet_client::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, Gather, STREAM_WINDOW_BYTES, v1};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::Limits;
use crate::metrics::Metrics;
use crate::node::NodeHandle;
use feed::Feed;
use intake::Intake;
pub use intake::request_id_of_key;

/// How long a connection may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an HTTP/2 connection is asked whether anyone is there, and how long it may think.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// How long requests under way may take when the node stops.
const DRAIN: Duration = Duration::from_secs(3);

/// What every handler needs.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) node: NodeHandle,
    pub(crate) intake: Arc<Intake>,
    feed: Arc<Feed>,
}

impl Context {
    fn new(node: NodeHandle, limits: Limits, metrics: Arc<Metrics>, grpc_runtime: &Handle) -> Self {
        let feed = Feed::start(node.clone(), grpc_runtime);
        Self { node, intake: Arc::new(Intake::new(limits, metrics)), feed }
    }

    /// For a stream, which polls all its requests in one task.
    fn for_stream(&self) -> Self {
        Self { node: self.node.woken_by_caller(), ..self.clone() }
    }
}

/// Serves clients until `shutdown`, then answers what is under way. Connections of gRPC are served
/// on `grpc_runtime`, all others on this one.
pub(crate) async fn serve(
    listener: TcpListener,
    node: NodeHandle,
    limits: Limits,
    grpc_runtime: Handle,
    shutdown: impl Future<Output = ()>,
) -> Result<(), std::io::Error> {
    let metrics = Arc::clone(node.metrics());
    let context = Context::new(node, limits, metrics, &grpc_runtime);
    let router = router(&context)?;
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .max_concurrent_streams(1024)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES);
    let (open, closing) = watch::channel(());
    tokio::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: it passes.
                    tracing::warn!("a client could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(
                "more than {} client connections: one was closed",
                limits.connections_max
            );
            continue;
        };
        if set_options(&stream).is_err() {
            continue;
        }
        let place = Place::new(place, Arc::clone(context.node.metrics()));
        let service = TowerToHyperService::new(router.clone());
        let (builder, watcher) = (builder.clone(), graceful.watcher());
        let (grpc_runtime, mut closing) = (grpc_runtime.clone(), closing.clone());
        tokio::spawn(async move {
            let is_grpc = tokio::select! {
                is_http2 = speaks_http2(&stream) => is_http2,
                _ = closing.changed() => return,
            };
            let Ok(stream) = stream.into_std() else { return };
            let serve = async move {
                // Bound to the runtime that it is served on.
                let Ok(stream) = TcpStream::from_std(stream) else { return };
                let io = TokioIo::new(Gather::new(stream));
                let connection = builder.serve_connection_with_upgrades(io, service);
                // What goes wrong on a connection is its client's business.
                if let Err(error) = watcher.watch(connection.into_owned()).await {
                    tracing::debug!("a client connection ended: {error}");
                }
                drop(place);
            };
            if is_grpc {
                grpc_runtime.spawn(serve)
            } else {
                tokio::spawn(serve)
            };
        });
    }
    drop(open);
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
}

/// A client connection that counts as one.
struct Place {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, metrics: Arc<Metrics>) -> Self {
        metrics.note_connections(1);
        Self { _permit: permit, metrics }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.note_connections(-1);
    }
}

/// Whether a connection begins as one of HTTP/2 does; gRPC knows no other. A client that is slow
/// with its first bytes may be taken for another: it is served all the same.
async fn speaks_http2(stream: &TcpStream) -> bool {
    let mut first = [0; 3];
    let peeked = tokio::time::timeout(HEAD_TIMEOUT, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(3))) && first == *b"PRI"
}

fn set_options(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)
}

fn router(context: &Context) -> Result<axum::Router, std::io::Error> {
    let log = grpc::LogService::new(context.clone());
    let bytes_max = context.intake.message_bytes_max();
    let log = v1::log_server::LogServer::new(log)
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(usize::MAX);
    let cluster =
        v1::cluster_server::ClusterServer::new(grpc::ClusterService::new(context.clone()))
            .max_decoding_message_size(64 << 10);
    let lab = context.node.lab.clone().map(|access| {
        v1::lab_server::LabServer::new(lab::LabService::new(context.node.clone(), access))
            .max_encoding_message_size(usize::MAX)
    });
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(grpc::report_health(reporter, context.node.clone()));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let other = std::io::Error::other;
    let mut routes = tonic::service::Routes::new(log);
    if let Some(lab) = lab {
        routes = routes.add_service(lab);
    }
    let grpc = routes
        .add_service(cluster)
        .add_service(health)
        .add_service(reflection().build_v1().map_err(other)?)
        .add_service(reflection().build_v1alpha().map_err(other)?)
        .into_axum_router()
        .fallback(http::nothing);
    Ok(http::router(context.clone()).fallback_service(grpc))
}

/// The routes of the client port alone, for fuzzing.
pub(crate) fn for_fuzzing(
    node: NodeHandle,
    limits: Limits,
    metrics: Arc<Metrics>,
) -> Result<axum::Router, std::io::Error> {
    router(&Context::new(node, limits, metrics, &Handle::current()))
}
