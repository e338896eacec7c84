//! Peers whose SHAKEHANDs, headers, proofs and bodies are wrong.

use bytes::Bytes;

use super::*;
use crate::block::sync::{
    tests::sized,
    wire::{headers_response, read_headers_request},
};

/// The last height that both chains share, below what is final here.
const FORK: usize = 10;

type Lie = fn(&[Block], Ladder) -> Vec<Bytes>;

/// What an honest peer answers that has `chain`, the genesis block included.
fn headers(chain: &[Block], ladder: Ladder) -> Vec<Bytes> {
    let asked = chain.iter().skip(ladder.start as usize).step_by(ladder.stride as usize).take(ladder.count as usize);
    asked.map(|block| block.header().encode().into()).collect()
}

/// Changes the signature: the header has another hash, and nobody signed it.
fn spoil(header: Option<&mut Bytes>) {
    let header = header.unwrap();
    let mut bytes = header.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    *header = bytes.into();
}

fn one_more(ladder: Ladder) -> Ladder {
    Ladder { count: ladder.count + 1, ..ladder }
}

/// Whether these are to prove a branch; a search begins at the committed block or at the genesis block.
fn are_a_proof(ladder: Ladder) -> bool {
    ladder.start == FORK as u64 + 1
}

#[tokio::test]
async fn headers_that_are_no_chain_too_many_or_not_signed_cost_points_and_raise_no_alarm() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 40, 0);
    let other = Maker::new(2).row(&row[FORK - 1], 40, 0);
    let theirs = [&[kit::genesis()][..], &row[..FORK], &other[..]].concat();
    let node = start_with(&boards, &row).await;
    assert!(node.chain.status().committed.height > FORK as u64);
    let mut events = node.chain.events();
    let (mut tasks, mut liars) = (JoinSet::new(), Vec::new());
    let lies: [Lie; 5] = [
        // No chain, when asked where the chains part.
        |chain, ladder| {
            let mut answer = headers(chain, ladder);
            spoil(answer.first_mut());
            answer
        },
        |chain, ladder| headers(chain, one_more(ladder)),
        // The same in a proof.
        |chain, ladder| {
            let mut answer = headers(chain, ladder);
            if are_a_proof(ladder) {
                spoil(answer.first_mut());
            }
            answer
        },
        |chain, ladder| headers(chain, if are_a_proof(ladder) { one_more(ladder) } else { ladder }),
        // A chain up to the last header, which nobody signed.
        |chain, ladder| {
            let mut answer = headers(chain, ladder);
            if are_a_proof(ladder) {
                spoil(answer.last_mut());
            }
            answer
        },
    ];
    for lie in lies {
        let raw = Raw::join(&boards);
        liars.push(raw.id);
        node.meets(raw.id);
        // As high as ours, so that nothing is pulled.
        let said = Greeting { committed: head_of(&theirs[..=28]), ..raw.greeting(head_of(&theirs[..=40])) };
        let chain = theirs.clone();
        raw.play_all(&mut tasks, said.to_wire(), drop, move |asked| {
            let ladder = read_headers_request(&asked.request).unwrap();
            asked.respond(headers_response(&lie(&chain, ladder)));
        });
    }
    let (forger, others) = liars.split_last().unwrap();
    // Peers have ten seconds to tell their heads before any of them may prove anything.
    until("who forged is named", || node.penalties.points(forger) > Offence::InvalidBlock.points() - 1.0).await;
    until("the others are named", || others.iter().all(|l| node.penalties.points(l) > 10.0)).await;
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, chain::Event::Conflict { .. }), "{event:?}");
    }
    let status = node.chain.status();
    assert_eq!((status.head, status.conflicting_peers), (head_of(&row), 0));
    node.stop().await;
}

#[tokio::test]
async fn a_shakehand_that_makes_no_sense_is_counted_and_not_believed() {
    let boards = Boards::default();
    let row = Maker::new(1).row(&kit::genesis(), 30, 0);
    let node = start_with(&boards, &row).await;
    let (mut tasks, mut liars) = (JoinSet::new(), Vec::new());
    let lies: [fn(&mut pb::Shakehand); 2] = [
        |said| said.address = Maker::new(9).address().to_bytes().into(),
        |said| said.committed_height = said.head_height + 1,
    ];
    for lie in lies {
        let raw = Raw::join(&boards);
        liars.push(raw.id);
        node.meets(raw.id);
        let mut said = raw.greeting(Point { height: 1000, hash: Hash::of(b"no such block") }).to_wire();
        lie(&mut said);
        raw.play_all(&mut tasks, said, drop, drop);
    }
    until("both are named", || liars.iter().all(|l| node.penalties.points(l) > 1.0)).await;
    assert_eq!(node.state(), State::NoPeers);
    let raw = Raw::join(&boards);
    let peer = raw.id;
    node.meets(peer);
    raw.play(&mut tasks, head_of(&row), drop);
    let alone = || node.state() == State::Synced && node.handle.progress().borrow().peers == 1;
    until("only the third one counts", alone).await;
    assert!(node.penalties.points(&peer) < 1.0);
    node.stop().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_wrong_and_one_as_long_as_it_comes_from_who_has_it() {
    let boards = Boards::default();
    let limit = settings().max_body_bytes;
    let mut row = Maker::new(1).row(&kit::genesis(), 20, 50);
    row.push(sized(&row[19], limit, 0));
    let new = start_with(&boards, &[]).await;
    let (raw, mut tasks, chain) = (Raw::join(&boards), JoinSet::new(), row.clone());
    let liar = raw.id;
    new.meets(liar);
    raw.play(&mut tasks, head_of(&row), move |asked| {
        let (span, _) = read_pull_request(&asked.request).unwrap();
        let genesis = kit::genesis();
        // Signed, and good in every other way.
        let long = sized(chain[..span.start as usize - 1].last().unwrap_or(&genesis), limit + 1, 0);
        asked.respond_encoded(push_response(&Push::Blocks(vec![stored(&long)]), span.count));
    });
    until("it is named", || new.penalties.points(&liar) > 1.0).await;
    assert_eq!(new.chain.status().head.height, 0);
    let old = start_with(&boards, &row).await;
    both_meet(&old, &new);
    new.reaches(21).await;
    assert_eq!(new.chain.status().head, head_of(&row));
    assert!(new.penalties.points(&old.id) < 1.0);
    new.stop().await;
    old.stop().await;
}
