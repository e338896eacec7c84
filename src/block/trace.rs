//! Exchanges about blocks, for people to look at: the messages of the seed by name, in its JSON form. Nothing of this is on the wire.
//!
//! Costs a check of one number when nobody listens; a listener that is too slow loses the oldest.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::{Body, Header};
use crate::primitives::{Clock, Hash, PeerId, SystemClock, UnixMillis};

/// Transactions of a block that are shown.
const TRANSACTIONS: usize = 16;
/// Exchanges kept for a slow listener. Hashes and heights, no bodies: one to three KiB each.
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
    /// How many blocks are asked for, from the height in `data` up: the seed asks for one.
    pub count: Option<u32>,
}

impl Exchange {
    /// The seed's envelope, with who and when beside it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "at": self.at,
            "direction": if self.sent { "sent" } else { "received" },
            "peer": self.peer.map(|peer| peer.to_string()),
            "code": self.code.name(),
            "data": self.data,
        });
        if let Some(count) = self.count {
            json["count"] = count.into();
        }
        json
    }
}

/// A block in the seed's form, a header and transactions, of which there are hashes, and only the first ones of many.
fn block_json(header: &[u8], body: &Bytes) -> Value {
    let Ok(header) = Header::decode(header) else { return Value::Null };
    let body = Body::decode(body.clone()).unwrap_or_default();
    let transactions: Vec<_> = body.transactions().take(TRANSACTIONS).map(|t| Hash::of(t).to_string()).collect();
    json!({
        "block_header": {
            "height": header.height,
            "hash": header.hash().to_string(),
            "parent": header.parent.to_string(),
            "timestamp": header.time,
            "producer": header.producer_address().map(|address| address.to_string()),
            "transactions": header.transactions,
            "bytes": header.body_bytes,
        },
        "transactions": transactions,
    })
}

/// Where exchanges are told. Cheap to clone; clones share the listeners. The queue is made for the first of them.
#[derive(Clone, Default, Debug)]
pub struct Trace(Arc<OnceLock<broadcast::Sender<Exchange>>>);

impl Trace {
    /// `count` blocks from `height` up are asked for.
    pub fn pull(&self, sent: bool, peer: PeerId, height: u64, count: u32) {
        self.tell(sent, Some(peer), Code::PullBlock, Some(count), || json!(height));
    }

    /// Blocks by height, each as its header and its body, one exchange for each. `blocks` is only called when somebody listens.
    pub(super) fn push(&self, sent: bool, peer: PeerId, blocks: impl FnOnce() -> Vec<(Bytes, Bytes)>) {
        if self.is_heard() {
            for (header, body) in blocks() {
                self.tell(sent, Some(peer), Code::PushBlock, None, || block_json(&header, &body));
            }
        }
    }

    /// A message went out. `data` is only called when somebody listens.
    pub fn sent(&self, peer: PeerId, code: Code, data: impl FnOnce() -> Value) {
        self.tell(true, Some(peer), code, None, data);
    }

    /// A message was published on a topic. `data` is only called when somebody listens.
    pub fn published(&self, code: Code, data: impl FnOnce() -> Value) {
        self.tell(true, None, code, None, data);
    }

    /// A message came in. `data` is only called when somebody listens.
    pub fn received(&self, peer: PeerId, code: Code, data: impl FnOnce() -> Value) {
        self.tell(false, Some(peer), code, None, data);
    }

    /// Exchanges from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Exchange> {
        self.0.get_or_init(|| broadcast::Sender::new(KEPT)).subscribe()
    }

    fn is_heard(&self) -> bool {
        self.0.get().is_some_and(|listeners| listeners.receiver_count() > 0)
    }

    fn tell(&self, sent: bool, peer: Option<PeerId>, code: Code, count: Option<u32>, data: impl FnOnce() -> Value) {
        if let Some(listeners) = self.0.get().filter(|listeners| listeners.receiver_count() > 0) {
            // The last listener may just have left.
            let _ = listeners.send(Exchange { at: SystemClock.now(), sent, peer, code, data: data(), count });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::kit;

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
        trace.pull(true, peer, 7, 128);
        trace.clone().received(peer, Code::Shakehand, || json!({ "height": 9 }));
        let (first, second) = (listener.try_recv().unwrap().to_json(), listener.try_recv().unwrap().to_json());
        assert_eq!(
            (&first["code"], &first["data"], &first["direction"], &first["count"]),
            (&json!("PULL_BLOCK"), &json!(7), &json!("sent"), &json!(128))
        );
        assert_eq!((&second["code"], &second["data"]["height"]), (&json!("SHAKEHAND"), &json!(9)));
        assert_eq!((&second["direction"], &second["peer"]), (&json!("received"), &json!(peer.to_string())));
        assert!(first["at"].as_u64().unwrap() > 1_600_000_000_000);
        assert!(listener.try_recv().is_err());
    }

    #[test]
    fn a_block_has_a_header_and_transactions() {
        let transactions: Vec<_> = (0..20).map(|n| vec![n; 3]).collect();
        let block = kit::Maker::new(1).block(&kit::genesis(), 5, &transactions);
        let json = block_json(&block.header().encode(), block.body().bytes());
        assert_eq!(json["block_header"]["hash"], block.hash().to_string());
        assert_eq!(json["block_header"]["transactions"], 20);
        assert_eq!(json["transactions"].as_array().unwrap().len(), TRANSACTIONS);
        assert_eq!(json["transactions"][0], Hash::of(&[0; 3]).to_string());
        assert_eq!(block_json(b"nonsense", &Bytes::new()), Value::Null);
    }
}
