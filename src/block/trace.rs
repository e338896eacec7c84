//! Exchanges about blocks, for people to look at: the messages of the seed by name, in its JSON form. Nothing of this is on the wire.
//!
//! Costs a check of one number when nobody listens; a listener that is too slow loses the oldest.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::primitives::{Clock, PeerId, SystemClock, UnixMillis};

/// Exchanges kept for a slow listener. Hashes and heights, no bodies: some 300 bytes each.
const KEPT: usize = 1024;

/// A message of the seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Code {
    /// Where somebody's chain stands, and its clock.
    Shakehand,
    /// Asks for blocks by height.
    PullBlock,
    /// Blocks by height.
    PushBlock,
    /// A new block.
    NewBlock,
    /// That there is a new block.
    NewBlockHash,
    /// Asks for a block by its hash.
    GetBlock,
    /// That a block was here before it was announced.
    BlockKnown,
}

impl Code {
    /// Its name in the seed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shakehand => "SHAKEHAND",
            Self::PullBlock => "PULL_BLOCK",
            Self::PushBlock => "PUSH_BLOCK",
            Self::NewBlock => "NEW_BLOCK",
            Self::NewBlockHash => "NEW_BLOCK_HASH",
            Self::GetBlock => "GET_BLOCK",
            Self::BlockKnown => "BLOCK_KNOWN",
        }
    }
}

/// One message that came or went.
#[derive(Clone, PartialEq, Debug)]
pub struct Exchange {
    /// When.
    pub at: UnixMillis,
    /// Whether we sent it.
    pub sent: bool,
    /// The other side; `None` for what was published to all who listen.
    pub peer: Option<PeerId>,
    /// Which message.
    pub code: Code,
    /// What it carries, for people.
    pub data: Value,
}

impl Exchange {
    /// The seed's envelope, with who and when beside it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "at": self.at,
            "direction": if self.sent { "sent" } else { "received" },
            "peer": self.peer.map(|peer| peer.to_string()),
            "code": self.code.name(),
            "data": self.data,
        })
    }
}

/// Where exchanges are told. Cheap to clone; clones share the listeners. The queue is made for the first of them.
#[derive(Clone, Default, Debug)]
pub struct Trace(Arc<OnceLock<broadcast::Sender<Exchange>>>);

impl Trace {
    /// A message went out. `data` is only called when somebody listens.
    pub fn sent(&self, peer: PeerId, code: Code, data: impl FnOnce() -> Value) {
        self.tell(true, Some(peer), code, data);
    }

    /// A message was published on a topic. `data` is only called when somebody listens.
    pub fn published(&self, code: Code, data: impl FnOnce() -> Value) {
        self.tell(true, None, code, data);
    }

    /// A message came in. `data` is only called when somebody listens.
    pub fn received(&self, peer: PeerId, code: Code, data: impl FnOnce() -> Value) {
        self.tell(false, Some(peer), code, data);
    }

    /// Exchanges from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Exchange> {
        self.0.get_or_init(|| broadcast::Sender::new(KEPT)).subscribe()
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.0.get().is_some_and(|listeners| listeners.receiver_count() > 0)
    }

    fn tell(&self, sent: bool, peer: Option<PeerId>, code: Code, data: impl FnOnce() -> Value) {
        if let Some(listeners) = self.0.get().filter(|listeners| listeners.receiver_count() > 0) {
            // The last listener may just have left.
            let _ = listeners.send(Exchange { at: SystemClock.now(), sent, peer, code, data: data() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_built_for_nobody() {
        let trace = Trace::default();
        let peer = PeerId::random();
        trace.sent(peer, Code::PullBlock, || panic!("nobody listens"));
        let listener = trace.listen();
        drop(listener);
        trace.clone().received(peer, Code::PushBlock, || panic!("nobody listens any more"));
    }

    #[test]
    fn a_listener_gets_the_form_of_the_seed() {
        let trace = Trace::default();
        let (mut listener, peer) = (trace.listen(), PeerId::random());
        trace.sent(peer, Code::PullBlock, || json!(7));
        trace.clone().received(peer, Code::Shakehand, || json!({ "height": 9 }));
        let (first, second) = (listener.try_recv().unwrap().to_json(), listener.try_recv().unwrap().to_json());
        assert_eq!(
            (&first["code"], &first["data"], &first["direction"]),
            (&json!("PULL_BLOCK"), &json!(7), &json!("sent"))
        );
        assert_eq!((&second["code"], &second["data"]["height"]), (&json!("SHAKEHAND"), &json!(9)));
        assert_eq!((&second["direction"], &second["peer"]), (&json!("received"), &json!(peer.to_string())));
        assert!(first["at"].as_u64().unwrap() > 1_600_000_000_000);
        assert!(listener.try_recv().is_err());
    }
}
