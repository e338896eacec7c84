//! Named tasks. One that ends before it was asked to, or panics, is reported by name.

use std::{future::Future, time::Duration};

use tokio::task::{Id, JoinSet};
use tracing::Instrument;

use super::Stop;

/// Why a supervised task ended before it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// It panicked: a bug.
    #[error("{0} panicked; please report this with the log")]
    Panicked(&'static str),
    /// It returned an error.
    #[error("{0}: {1}")]
    Failed(&'static str, String),
    /// It returned although nobody asked it to stop.
    #[error("{0} ended by itself")]
    Early(&'static str),
}

/// Owns a node's long-running tasks.
#[derive(Debug)]
pub struct Supervisor {
    stop: Stop,
    tasks: JoinSet<Result<(), String>>,
    names: Vec<(Id, &'static str)>,
}

impl Supervisor {
    /// An owner without tasks; its tasks should end when `stop` is given.
    #[must_use]
    pub fn new(stop: Stop) -> Self {
        Self { stop, tasks: JoinSet::new(), names: Vec::new() }
    }

    /// Starts a task in a span of its name. `task` gets the signal that ends it.
    pub fn spawn<F, E>(&mut self, name: &'static str, task: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display,
    {
        let future = task(self.stop.clone());
        let named = async move { future.await.map_err(|e| e.to_string()) };
        let handle = self.tasks.spawn(named.instrument(tracing::info_span!(parent: None, "task", name)));
        self.names.push((handle.id(), name));
    }

    /// Waits for the first task that ends although nobody asked it to. Pending while all is well. Cancel-safe.
    pub async fn failed(&mut self) -> Ended {
        loop {
            let Some(result) = self.tasks.join_next_with_id().await else {
                std::future::pending::<()>().await;
                continue;
            };
            let (name, ended) = self.name_of(result);
            match ended {
                Some(ended) => return ended,
                None if self.stop.is_stopped() => {}
                None => return Ended::Early(name),
            }
        }
    }

    /// Waits until every task has ended; after `deadline` the rest is aborted and their names returned.
    pub async fn join(&mut self, deadline: Duration) -> Vec<&'static str> {
        let all = async {
            while let Some(result) = self.tasks.join_next_with_id().await {
                if let (_, Some(ended)) = self.name_of(result) {
                    tracing::error!(%ended, "task failed while stopping");
                }
            }
        };
        if tokio::time::timeout(deadline, all).await.is_ok() {
            return Vec::new();
        }
        self.tasks.abort_all();
        self.names.iter().map(|(_, name)| *name).collect()
    }

    fn name_of(
        &mut self,
        result: Result<(Id, Result<(), String>), tokio::task::JoinError>,
    ) -> (&'static str, Option<Ended>) {
        let id = match &result {
            Ok((id, _)) => *id,
            Err(e) => e.id(),
        };
        let place = self.names.iter().position(|(task, _)| *task == id);
        let name = place.map_or("task", |i| self.names.swap_remove(i).1);
        match result {
            Ok((_, Ok(()))) => (name, None),
            Ok((_, Err(why))) => (name, Some(Ended::Failed(name, why))),
            Err(e) if e.is_panic() => (name, Some(Ended::Panicked(name))),
            Err(_) => (name, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Nothing = Result<(), std::convert::Infallible>;

    #[tokio::test]
    async fn a_panic_names_its_task() {
        let mut tasks = Supervisor::new(Stop::new());
        tasks.spawn("good", |stop| async move {
            stop.wait().await;
            Nothing::Ok(())
        });
        tasks.spawn("bad", |_| async { if true { panic!("on purpose") } else { Nothing::Ok(()) } });
        assert_eq!(tasks.failed().await, Ended::Panicked("bad"));
    }

    #[tokio::test]
    async fn ending_early_is_a_failure_and_ending_when_asked_is_not() {
        let stop = Stop::new();
        let mut tasks = Supervisor::new(stop.clone());
        tasks.spawn("short", |_| async { Nothing::Ok(()) });
        assert_eq!(tasks.failed().await, Ended::Early("short"));
        tasks.spawn("long", |stop| async move {
            stop.wait().await;
            Nothing::Ok(())
        });
        stop.stop();
        assert!(tasks.join(Duration::from_secs(5)).await.is_empty());
    }

    #[tokio::test]
    async fn a_task_that_does_not_stop_is_named_and_aborted() {
        let mut tasks = Supervisor::new(Stop::new());
        tasks.spawn("stuck", |_| std::future::pending::<Nothing>());
        assert_eq!(tasks.join(Duration::from_millis(10)).await, ["stuck"]);
    }
}
