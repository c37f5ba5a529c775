//! What clients talk to: gRPC, HTTP/JSON, XML-RPC and the pages for operators, all on one port.
//!
//! Requests are checked here against their limits before they take memory; what they ask for is
//! done by [`NodeHandle`](crate::NodeHandle).

mod grpc;
mod http;
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
use tercet_client::v1;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::Limits;
use crate::metrics::Metrics;
use crate::node::NodeHandle;
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
}

/// Serves clients until `shutdown`, then answers what is under way.
pub(crate) async fn serve(
    listener: TcpListener,
    node: NodeHandle,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> Result<(), std::io::Error> {
    let context =
        Context { intake: Arc::new(Intake::new(limits, Arc::clone(node.metrics()))), node };
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
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
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
        let service = TowerToHyperService::new(router.clone());
        let connection =
            builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        let metrics = Arc::clone(context.node.metrics());
        metrics.note_connections(1);
        tokio::spawn(async move {
            // What goes wrong on a connection is its client's business.
            if let Err(error) = connection.await {
                tracing::debug!("a client connection ended: {error}");
            }
            metrics.note_connections(-1);
            drop(place);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
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
    router(&Context { intake: Arc::new(Intake::new(limits, metrics)), node })
}
