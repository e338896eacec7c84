//! A stop signal: asked once, seen by every clone.

use tokio_util::sync::CancellationToken;

/// Asks tasks to end. Clones share the signal; a [`Stop::child`] can be stopped alone.
#[derive(Clone, Debug, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// A signal that nobody has given yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A signal that is given with this one, or alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Asks everyone who holds this signal to end.
    pub fn stop(&self) {
        self.0.cancel();
    }

    /// Whether stopping was asked for.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until stopping is asked for. Cancel-safe.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }
}
