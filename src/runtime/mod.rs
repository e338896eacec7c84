//! L1: tasks that hang on an owner. A [`Supervisor`] names each task; one that panics or returns early stops the node
//! with its name. [`Stop`] is the one way to ask a task to end; [`Backoff`] spaces retries with jitter.

mod backoff;
mod stop;
mod supervisor;

pub use backoff::Backoff;
pub use stop::Stop;
pub use supervisor::{Ended, Supervisor};
