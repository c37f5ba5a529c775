//! Unary calls over gRPC, with messages written by hand: no schema has to be compiled.

use tercet_client::connect_lazy;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// A connection to one node, made when it is first used, and again after it broke.
#[derive(Clone)]
pub(crate) struct Client(Grpc<Channel>);

impl Client {
    /// Of a node by its client port.
    pub(crate) fn new(port: u16) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true);
        Ok(Self(Grpc::new(connect_lazy(&endpoint))))
    }

    pub(crate) async fn call<Q, A>(&mut self, path: &'static str, question: Q) -> anyhow::Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.0.unary(tonic::Request::new(question), path, codec).await?.into_inner())
    }
}
