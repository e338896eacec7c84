//! When production begins, and whole networks.

mod sim;

use super::*;

#[allow(clippy::disallowed_methods, reason = "a test joins its tasks itself")]
async fn alone(after: Option<Duration>) -> (watch::Sender<State>, watch::Receiver<bool>, Stop) {
    let (state, states) = watch::channel(State::Syncing);
    let (ready, mut readiness) = watch::channel(false);
    let stop = Stop::new();
    tokio::spawn(may_produce(states, after, ready, stop.clone()));
    for (next, wanted) in [(State::Synced, true), (State::Stalled, false), (State::NoPeers, false)] {
        state.send(next).unwrap();
        readiness.wait_for(|ready| *ready == wanted).await.unwrap();
    }
    (state, readiness, stop)
}

#[tokio::test]
async fn a_producer_without_peers_produces_after_a_while_if_it_is_told_to() {
    let (state, mut readiness, stop) = alone(Some(Duration::from_millis(30))).await;
    readiness.wait_for(|ready| *ready).await.unwrap();
    state.send(State::CatchingUp).unwrap();
    readiness.wait_for(|ready| !*ready).await.unwrap();
    stop.stop();
}

#[tokio::test]
async fn and_else_it_does_not() {
    let (state, mut readiness, stop) = alone(None).await;
    readiness.mark_unchanged();
    // Time in which the other one would have begun.
    let begins = tokio::time::timeout(Duration::from_millis(200), readiness.wait_for(|ready| *ready));
    assert!(begins.await.is_err());
    state.send(State::Synced).unwrap();
    readiness.wait_for(|ready| *ready).await.unwrap();
    stop.stop();
}
