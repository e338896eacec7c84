//! L1: tasks that hang on an owner. A [`Supervisor`] names each task; one that panics or returns early stops the node
//! with its name. [`Stop`] is the one way to ask a task to end; [`Backoff`] spaces retries with jitter; [`now`] is the time that timers go by.

mod backoff;
mod stop;
mod supervisor;

pub use backoff::Backoff;
pub use stop::Stop;
pub use supervisor::{Ended, Supervisor};

/// Now, by the clock that tokio's timers go by: the system's monotonic clock, or the one of a simulation that runs whole nodes in virtual
/// time. What is compared with a timer, or with what came by one, uses this.
#[must_use]
pub fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}
