//! Waiting for a condition with a deadline, for state that has no event of its own.

use std::time::Duration;

/// Asks `condition` every few milliseconds until it holds.
///
/// # Panics
/// After 30 seconds, with `what` was waited for.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let all = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), all).await.is_ok(), "waited 30 s for: {what}");
}
