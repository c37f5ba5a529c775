//! The lab's service: looks and interferes. Registered only with `--lab`; beyond loopback every call
//! must know the token.

use std::time::{Duration, Instant};

use tercet_client::{ApiError, Reason, to_status, v1};
use tonic::{Request, Response, Status};

use crate::lab::Action;
use crate::node::{Command, LabAccess, NodeHandle};

/// The metadata, or the HTTP header, that carries the token.
pub(super) const TOKEN: &str = "lab-token";
/// How long the owner may take: a slow disk of the lab's own making holds it up.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) struct LabService {
    node: NodeHandle,
    access: LabAccess,
}

impl LabService {
    pub(crate) const fn new(node: NodeHandle, access: LabAccess) -> Self {
        Self { node, access }
    }

    fn check<T>(&self, request: Request<T>) -> Result<T, Status> {
        let given = request.metadata().get(TOKEN).map_or(&[][..], |value| value.as_bytes());
        if !self.access.allows(given) {
            return Err(Status::unauthenticated("the lab's token is missing or wrong"));
        }
        Ok(request.into_inner())
    }
}

fn status(error: ApiError) -> Status {
    to_status(&error)
}

#[tonic::async_trait]
impl v1::lab_server::Lab for LabService {
    async fn look(
        &self,
        request: Request<v1::LookRequest>,
    ) -> Result<Response<v1::LookResponse>, Status> {
        let v1::LookRequest { events_from } = self.check(request)?;
        let deadline = Instant::now() + PATIENCE;
        let look = self.node.ask(deadline, |reply| Command::Look { events_from, reply }).await;
        look.and_then(|answer| answer).map(Response::new).map_err(status)
    }

    async fn interfere(
        &self,
        request: Request<v1::InterfereRequest>,
    ) -> Result<Response<v1::InterfereResponse>, Status> {
        let action = Action::of(self.check(request)?).map_err(status)?;
        interfere(&self.node, action).await.map_err(status)?;
        Ok(Response::new(v1::InterfereResponse {}))
    }
}

/// Has the owner do something of the lab's.
pub(crate) async fn interfere(node: &NodeHandle, action: Action) -> Result<(), ApiError> {
    if node.lab.is_none() {
        return Err(ApiError::new(Reason::Invalid, "this node runs without --lab"));
    }
    let deadline = Instant::now() + PATIENCE;
    node.ask(deadline, |reply| Command::Interfere { action, reply }).await?
}
