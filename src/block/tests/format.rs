//! Headers, bodies and pieces: what is encoded comes back, and nothing else is taken.

use bytes::Bytes;
use proptest::prelude::*;

use crate::{
    block::{
        Block, BlockError, Body, BodyError, DEFAULT_MAX_BODY_BYTES, Genesis, GenesisError, Header, HeaderError,
        MAX_BODY_BYTES, MAX_EXTRA_BYTES, MAX_HEADER_BYTES, MAX_TRANSACTIONS, PIECE_BYTES, Pieces, VerifiedHeader,
        kit::{self, Maker},
        purpose,
    },
    primitives::Hash,
};

fn transactions() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::btree_set(proptest::collection::vec(any::<u8>(), 1..40), 0..20)
        .prop_map(|set| set.into_iter().collect())
}

fn body_of(bytes: usize) -> Bytes {
    let mut all = Vec::new();
    let mut n = 0u32;
    while all.len() < bytes {
        n += 1;
        let length = (bytes - all.len()).saturating_sub(4).clamp(1, 1000);
        all.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        let mut transaction = vec![1; length];
        let tag = n.to_be_bytes();
        let tagged = 4.min(length);
        transaction[..tagged].copy_from_slice(&tag[4 - tagged..]);
        all.extend_from_slice(&transaction);
    }
    all.into()
}

proptest! {
    #[test]
    fn a_header_comes_back_and_every_changed_byte_is_noticed(
        extra in proptest::collection::vec(any::<u8>(), 0..=MAX_EXTRA_BYTES),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut header = kit::genesis().header().clone();
        header.extra = extra;
        let header = Maker::new(1).sign(header, Body::default()).header().clone();
        let mut bytes = header.encode();
        prop_assert!(bytes.len() <= MAX_HEADER_BYTES);
        prop_assert_eq!(bytes.len(), header.encoded_bytes());
        prop_assert_eq!(Header::decode(&bytes), Ok(header.clone()));
        prop_assert!(header.verify(&purpose(&kit::network())).is_ok());
        prop_assert!(header.verify(&purpose(&"other".parse().unwrap())).is_err(), "signed for one network");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = Header::decode(&bytes) {
            prop_assert_ne!(changed.hash(), header.hash());
            prop_assert_eq!(changed.encode(), bytes.clone(), "one encoding only");
            prop_assert_eq!(VerifiedHeader::new(changed, &purpose(&kit::network())), Err(HeaderError::Signature));
        }
        let mut longer = header.encode();
        prop_assert_eq!(Header::decode(&longer[..longer.len() - 1]), Err(HeaderError::Malformed));
        longer.push(0);
        prop_assert_eq!(Header::decode(&longer), Err(HeaderError::Malformed));
    }

    #[test]
    fn noise_is_no_header_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes.clone());
        }
        if let Ok(body) = Body::decode(bytes.clone().into()) {
            prop_assert_eq!(body.bytes().as_ref(), bytes.as_slice());
        }
    }

    #[test]
    fn a_body_comes_back_and_its_root_covers_every_byte(
        transactions in transactions(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let body = Body::new(&transactions).unwrap();
        prop_assert_eq!(body.transactions().map(<[u8]>::to_vec).collect::<Vec<_>>(), transactions.clone());
        prop_assert_eq!(Body::decode(body.bytes().clone()), Ok(body.clone()));
        prop_assert_eq!(Pieces::of(body.bytes()).root(), body.root());
        if !body.is_empty() {
            let mut changed = body.bytes().to_vec();
            let at = at.index(changed.len());
            changed[at] ^= 1 << bit;
            prop_assert_ne!(Hash::of(&changed), body.root());
            prop_assert_ne!(Pieces::of(&changed).root(), body.root());
        }
    }

    #[test]
    fn pieces_of_any_length_are_the_hash_tree_and_are_checked_alone(
        bytes in prop_oneof![0..3000usize, (1..5usize).prop_map(|n| n * PIECE_BYTES), 0..400_000usize],
        at in any::<prop::sample::Index>(),
    ) {
        let body = vec![3; bytes];
        let pieces = Pieces::of(&body);
        prop_assert_eq!(pieces.root(), Hash::of(&body));
        prop_assert_eq!(pieces.count(), bytes.div_ceil(PIECE_BYTES));
        let received = Pieces::from_nodes(pieces.root(), bytes, pieces.nodes().to_vec()).unwrap();
        for i in 0..pieces.count() {
            prop_assert!(received.check(i, &body[pieces.range(i)]));
        }
        prop_assert!(!received.check(pieces.count(), &[]));
        if bytes > 0 {
            let i = at.index(pieces.count());
            let mut piece = body[pieces.range(i)].to_vec();
            let n = at.index(piece.len());
            piece[n] ^= 1;
            prop_assert!(!received.check(i, &piece));
            piece[n] ^= 1;
            piece.push(3);
            prop_assert!(!received.check(i, &piece));
        }
    }
}

#[test]
fn wrong_nodes_are_no_pieces() {
    let body = body_of(3 * PIECE_BYTES + 5);
    let good = Pieces::of(&body);
    let root = good.root();
    let with = |change: fn(&mut Vec<[u8; 32]>)| {
        let mut nodes = good.nodes().to_vec();
        change(&mut nodes);
        Pieces::from_nodes(root, body.len(), nodes)
    };
    assert_eq!(with(|_| {}).as_ref(), Some(&good));
    assert_eq!(with(|n| n[2][7] ^= 1), None);
    assert_eq!(with(|n| n.swap(0, 1)), None);
    assert_eq!(with(|n| n.truncate(3)), None);
    assert_eq!(with(|n| n.push([0; 32])), None);
    assert_eq!(with(Vec::clear), None);
    assert_eq!(Pieces::from_nodes(root, body.len() + PIECE_BYTES, good.nodes().to_vec()), None);
    assert_eq!(Pieces::from_nodes(root, usize::MAX, Vec::new()), None);
    assert_eq!(Pieces::from_nodes(Hash::of(b"x"), 1, vec![[0; 32]]), None, "one piece has no nodes");
    assert!(Pieces::from_nodes(Hash::of(b""), 0, Vec::new()).is_some_and(|p| p.count() == 0));
}

#[test]
fn bodies_over_a_limit_or_with_a_bad_transaction_are_refused() {
    let one = |bytes: usize| Body::new(&[vec![1; bytes]]);
    assert!(one(MAX_BODY_BYTES - 4).is_ok());
    assert_eq!(one(MAX_BODY_BYTES - 3), Err(BodyError::TooLarge));
    assert_eq!(one(0), Err(BodyError::Transaction));
    assert_eq!(Body::new(&[b"a", b"a"]), Err(BodyError::Transaction));
    let many = |n: usize| Body::new(&(0..n).map(|i| i.to_be_bytes().to_vec()).collect::<Vec<_>>());
    assert!(many(MAX_TRANSACTIONS).is_ok());
    assert_eq!(many(MAX_TRANSACTIONS + 1), Err(BodyError::TooLarge));
    let decode = |bytes: &[u8]| Body::decode(bytes.to_vec().into());
    assert_eq!(decode(&[0, 0, 0]), Err(BodyError::Malformed));
    assert_eq!(decode(&[0, 0, 0, 2, 1]), Err(BodyError::Malformed));
    assert_eq!(decode(&[255, 255, 255, 255, 1]), Err(BodyError::Malformed));
    assert_eq!(decode(&[0, 0, 0, 0]), Err(BodyError::Transaction));
}

#[test]
fn a_block_is_only_what_its_header_commits_to() {
    let network = purpose(&kit::network());
    let block = Maker::new(1).block(&kit::genesis(), 2000, &[b"one".to_vec(), b"two".to_vec()]);
    let check =
        |header: &Header, body: &Bytes| Block::check(header.clone(), body.clone(), DEFAULT_MAX_BODY_BYTES, &network);
    assert_eq!(check(block.header(), block.body().bytes()), Ok(block.clone()));
    let other = Body::new(&[b"one".to_vec(), b"too".to_vec()]).unwrap();
    let mismatch = Err(BlockError::Body(BodyError::Mismatch));
    assert_eq!(check(block.header(), other.bytes()), mismatch);
    assert_eq!(check(block.header(), &Bytes::new()), mismatch);
    let verified = VerifiedHeader::new(block.header().clone(), &network).unwrap();
    assert_eq!(
        Block::complete(verified.clone(), other.bytes().clone(), DEFAULT_MAX_BODY_BYTES),
        Err(BlockError::Body(BodyError::Mismatch))
    );
    assert_eq!(
        Block::complete(verified.clone(), block.body().bytes().clone(), DEFAULT_MAX_BODY_BYTES),
        Ok(block.clone())
    );
    let small = Block::complete(verified, block.body().bytes().clone(), 5);
    assert_eq!(small, Err(BlockError::Body(BodyError::TooLarge)));
    // A header that says something else about the body, signed by somebody who may.
    let mut lying = block.header().clone();
    lying.transactions = 1;
    let lying = Maker::new(1).sign(lying, block.body().clone());
    assert_eq!(check(lying.header(), block.body().bytes()), mismatch);
    let mut stolen = block.header().clone();
    stolen.producer = [5; 32];
    assert_eq!(check(&stolen, block.body().bytes()), Err(BlockError::Header(HeaderError::Signature)));
}

#[test]
fn the_genesis_block_follows_from_the_network_or_from_a_file() {
    let of = |network: &str| Genesis::of(&network.parse().unwrap()).block();
    assert_eq!(of("test").hash(), kit::genesis().hash());
    assert_ne!(of("test").hash(), of("main").hash());
    // It never changes: a chain is known by it.
    assert_eq!(of("main").hash().to_string(), MAIN_GENESIS);
    let dir = tempfile::tempdir().unwrap();
    let read = |text: &str| {
        let path = dir.path().join("genesis.toml");
        std::fs::write(&path, text).unwrap();
        Genesis::read(&path)
    };
    let genesis = read("time = 5\nextra = \"ours\"\n").unwrap();
    assert_eq!((genesis.block().header().time.0, genesis.block().header().extra.as_slice()), (5, &b"ours"[..]));
    assert_ne!(genesis.block().hash(), read("time = 5\nextra = \"theirs\"\n").unwrap().block().hash());
    let wrong = |text: &str| read(text).unwrap_err().to_string();
    assert!(wrong("time = 5\nextra = \"a\"\nmore = 1\n").contains("more"));
    assert!(wrong("time = 5").contains("extra"));
    assert!(wrong(&format!("time = 5\nextra = \"{}\"", "x".repeat(256))).contains("255"));
    assert!(wrong(&"#".repeat(20_000)).contains("16384"));
    assert!(matches!(Genesis::read(&dir.path().join("none")), Err(GenesisError::Unreadable(..))));
}

/// Hash of the genesis block of the network `main`.
const MAIN_GENESIS: &str = "8e46f4ad73c822c16ba30a57703e7715161bc1f556eefc1ee537f37763f4da71";
