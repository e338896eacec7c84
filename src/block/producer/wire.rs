//! How transactions travel. A small one goes through gossip as it is. Of a larger one gossip carries the hash, and each node takes the
//! transaction from whoever passed the hash on, over a stream of its own: all topics of a neighbour share one stream and one queue, and
//! a burst of large transactions in it would be what a new block's header waits for (spec `blocks.md` 1.2).

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::{
    block::pool::MAX_TRANSACTION_BYTES, net::rpc::Wire, primitives::Hash, wire::proto::block as pb,
    wire::proto::block::transaction_news::What,
};

/// The topic of transactions.
pub const TOPIC: &str = "block/tx/1";
/// Bytes of the largest transaction that goes through gossip as it is: the queue of a slow neighbour, 256 of them, is 128 KiB.
pub const MAX_WHOLE: usize = 512;
/// Largest message on the topic: the transaction, its tag, and two bytes of its length.
pub const MAX_NEWS: usize = MAX_WHOLE + 3;

/// `block/transaction/1`: a waiting transaction by its hash.
#[derive(Debug)]
pub struct GetTransaction;

impl Wire for GetTransaction {
    const NAME: &'static str = "block/transaction/1";
    const MAX_REQUEST: usize = 34;
    const MAX_RESPONSE: usize = MAX_TRANSACTION_BYTES + 8;
    /// Gossip forgets a message after twelve seconds: what is accepted later is not passed on.
    const TIMEOUT: Duration = Duration::from_secs(4);
    const QUEUE: usize = 256;
    const RATE: u32 = 512;
    type Request = pb::TransactionRequest;
    type Response = pb::TransactionResponse;
}

/// What a message on the topic tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// A transaction of at most [`MAX_WHOLE`] bytes.
    Whole(Bytes),
    /// The hash of a larger one.
    Announced(Hash),
}

impl News {
    /// A transaction's message.
    #[must_use]
    pub fn encode(transaction: &Bytes) -> Vec<u8> {
        let what = match transaction.len() <= MAX_WHOLE {
            true => What::Transaction(transaction.clone()),
            false => What::Hash(hash_bytes(&Hash::of(transaction))),
        };
        pb::TransactionNews { what: Some(what) }.encode_to_vec()
    }

    /// Reads a message; `None` when it is malformed, or not of its only encoding: the same news would travel twice.
    #[must_use]
    pub fn read(data: Vec<u8>) -> Option<Self> {
        let data = Bytes::from(data);
        let message = pb::TransactionNews::decode(data.clone()).ok()?;
        if message.encoded_len() != data.len() || message.encode_to_vec() != data {
            return None;
        }
        match message.what? {
            What::Transaction(bytes) => (1..=MAX_WHOLE).contains(&bytes.len()).then_some(Self::Whole(bytes)),
            What::Hash(hash) => Some(Self::Announced(read_hash(&hash)?)),
        }
    }
}

/// Asks for a transaction.
#[must_use]
pub fn request(hash: &Hash) -> pb::TransactionRequest {
    pb::TransactionRequest { hash: hash_bytes(hash) }
}

/// The transaction that is asked for; `None` when that is no hash.
#[must_use]
pub fn read_request(request: &pb::TransactionRequest) -> Option<Hash> {
    read_hash(&request.hash)
}

/// The answer.
#[must_use]
pub fn response(transaction: Bytes) -> pb::TransactionResponse {
    pb::TransactionResponse { transaction }
}

fn hash_bytes(hash: &Hash) -> Bytes {
    Bytes::copy_from_slice(hash.as_bytes())
}

fn read_hash(bytes: &Bytes) -> Option<Hash> {
    <[u8; 32]>::try_from(&bytes[..]).ok().map(Hash)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_ones_travel_as_they_are_and_larger_ones_by_their_hash() {
        for length in [1, 100, MAX_WHOLE] {
            let transaction = Bytes::from(vec![7; length]);
            let message = News::encode(&transaction);
            assert!(message.len() <= MAX_NEWS);
            assert_eq!(News::read(message), Some(News::Whole(transaction)));
        }
        for length in [MAX_WHOLE + 1, MAX_TRANSACTION_BYTES] {
            let transaction = Bytes::from(vec![7; length]);
            assert_eq!(News::read(News::encode(&transaction)), Some(News::Announced(Hash::of(&transaction))));
        }
        let longest = response(Bytes::from(vec![7; MAX_TRANSACTION_BYTES]));
        assert!(longest.encoded_len() <= GetTransaction::MAX_RESPONSE);
        assert!(request(&Hash([1; 32])).encoded_len() <= GetTransaction::MAX_REQUEST);
    }

    #[test]
    fn what_has_another_encoding_is_refused() {
        let good = News::encode(&Bytes::from_static(b"pay anna"));
        let mut unknown = good.clone();
        unknown.extend([0x18, 0x01]);
        let twice = [good.clone(), good.clone()].concat();
        let empty = pb::TransactionNews { what: Some(What::Transaction(Bytes::new())) }.encode_to_vec();
        let long = pb::TransactionNews { what: Some(What::Transaction(vec![1; MAX_WHOLE + 1].into())) }.encode_to_vec();
        let short = pb::TransactionNews { what: Some(What::Hash(vec![1; 31].into())) }.encode_to_vec();
        for bad in [unknown, twice, empty, long, short, Vec::new(), good[..3].to_vec()] {
            assert_eq!(News::read(bad.clone()), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(News::Whole(transaction)) = News::read(data.clone()) {
                prop_assert_eq!(News::encode(&transaction), data);
            }
        }
    }
}
