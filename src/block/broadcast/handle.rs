//! The door: what others tell the broadcast.

use tokio::sync::mpsc;

use crate::{block::Point, primitives::PeerId};

/// What is told and not yet heard. What finds no room is dropped: SHAKEHAND tells it again.
pub(super) const COMMANDS: usize = 256;

/// What the broadcast is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    /// A peer's head.
    Head(PeerId, Point),
}

/// Talks to the broadcast. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
}

impl Handle {
    /// A peer told its head. When that is one or two blocks behind ours, the peer is told of what it lacks.
    pub fn head(&self, peer: PeerId, head: Point) {
        if self.commands.try_send(Command::Head(peer, head)).is_err() {
            tracing::trace!(%peer, "a head found no room");
        }
    }

    /// For tests: whether all that was told is heard.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.commands.capacity() == COMMANDS
    }
}
