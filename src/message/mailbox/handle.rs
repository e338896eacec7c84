//! The door to mailboxes.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};

use super::{
    Metrics,
    collect::{self, FriendStats},
    collector::FRIENDS,
    depositor::Depositor,
    evidence::{self, Claim},
    grant::Grant,
    holder::{self, OwnerStats},
    machine::GrantError,
    refusal::Refusal,
    wire::{self, Desk, DeskWork},
};
use crate::{
    net::rpc::{self, RequestError},
    primitives::PeerId,
};

/// The part of the service that was asked has stopped: the node is stopping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the node is stopping")]
pub struct Stopped;

/// Talks to both sides of mailboxes: what we hold for others, and what others hold for us. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) holder: mpsc::Sender<holder::Command>,
    pub(super) collect: mpsc::Sender<collect::Command>,
    pub(super) desk: rpc::Client<Desk>,
    pub(super) depositor: Depositor,
    pub(super) evidence: evidence::Handle,
    pub(super) claims: (rpc::Client<Claim>, Metrics),
}

impl Handle {
    /// Takes note of a grant of ours as a friend: new, changed, draining or ended; durable when this returns. The same again does
    /// nothing. Grants are remembered over restarts.
    ///
    /// # Errors
    /// [`GrantError`]; nothing changed then, or it may be tried again.
    pub async fn grant(&self, owner: PeerId, grant: Grant) -> Result<(), GrantError> {
        let (reply, answer) = oneshot::channel();
        let command = holder::Command::Grant(owner, grant, reply);
        self.holder.send(command).await.map_err(|_| GrantError::Stopped)?;
        answer.await.map_err(|_| GrantError::Stopped)?
    }

    /// What we hold, by owner.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn held(&self) -> Result<Vec<OwnerStats>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.holder.send(holder::Command::Stats(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// From whom mail is collected: friends whose grant is active or drains, at most 32. Not remembered over restarts.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn set_friends(&self, mut friends: Vec<PeerId>) -> Result<(), Stopped> {
        friends.truncate(FRIENDS);
        self.collect.send(collect::Command::Friends(friends)).await.map_err(|_| Stopped)
    }

    /// How collecting goes, by friend.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn friends(&self) -> Result<BTreeMap<PeerId, FriendStats>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.collect.send(collect::Command::Stats(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Tells a friend that we know what it had to refuse, as [`Handle::friends`] showed it.
    ///
    /// # Errors
    /// [`RequestError`] when the friend was not reached; the [`Refusal`] inside when it did not.
    pub async fn saw_refused(
        &self,
        friend: PeerId,
        refused: &[collect::Refused],
    ) -> Result<Result<(), Refusal>, RequestError> {
        let seen = refused.iter().take(super::machine::MARKERS).map(|r| ((r.who, r.why.code()), r.marker)).collect();
        let answer = self.desk.request(friend, wire::desk(&DeskWork { seen, ..DeskWork::default() })).await?;
        Ok(wire::read_desk_answer(&answer))
    }

    /// How friends keep their promises.
    #[must_use]
    pub fn evidence(&self) -> &evidence::Handle {
        &self.evidence
    }

    /// Leaves messages with the friends of others.
    #[must_use]
    pub fn depositor(&self) -> &Depositor {
        &self.depositor
    }
}
