//! Peers that the broadcast has nothing to do with: banned ones, and those of another chain.

use super::*;
use crate::block::penalty::Offence;

type Shun = fn(&Rig, PeerId);

fn ban(rig: &Rig, peer: PeerId) {
    (0..2).for_each(|_| rig.penalties.report(peer, Offence::InvalidBlock));
    assert!(rig.penalties.is_banned(&peer));
}

fn part(rig: &Rig, peer: PeerId) {
    rig.sync.set_foreign(peer);
}

/// It says nothing that counts, gets nothing, and is told nothing.
async fn nothing_is_heard_nor_given(shun: Shun) {
    let rig = Rig::start();
    let (mut shunned, mut honest) = (rig.peer(), rig.peer());
    shun(&rig, shunned.id);
    let held = rig.block(&kit::genesis(), 100, 1);
    rig.chain.import(held.clone(), Origin::File).await.unwrap();
    assert_eq!(next(&mut honest.notified).await.request.hash, held.hash().0.to_vec());
    // Whoever may lack a block is told at the same moment.
    assert_eq!(rig.metrics.notified.get(), 1);
    let good = rig.block(&held, 100, 2);
    assert_eq!(next(&mut rig.gossip(&shunned, topic(&good)).await).await, Verdict::Ignore);
    let answer = shunned.get.request(rig.local, get_request(held.hash(), Wanted::Block)).await;
    assert_eq!(answer, Err(RequestError::Status(Status::Refused)));
    let answer = shunned.notify.request(rig.local, announcement(&good).to_request()).await;
    assert_eq!(answer, Err(RequestError::Status(Status::Refused)));
    assert_eq!(rig.chain.known(&good.hash()), Ok(Known::No));
    // One queue, so the first announcement is seen to before the second one.
    rig.announce(&shunned, &good).await;
    rig.announce(&honest, &good).await;
    serve(next(&mut honest.asked).await, &good);
    rig.held(&good).await;
    assert_eq!(rig.metrics.announcements.get(), 1);
    assert_eq!(rig.metrics.asked.get(), 1);
    assert!(shunned.asked.try_recv().is_err() && shunned.notified.try_recv().is_err());
}

/// Whatever makes it a source, it is as if it had nothing.
async fn nothing_is_asked_of_it(shun: Shun) {
    let rig = Rig::start();
    let (mut shunned, mut honest) = (rig.peer(), rig.peer());
    let small = rig.block(&kit::genesis(), 100, 1);
    assert_eq!(rig.notify(&shunned, announcement(&small)).await, NotifyAnswer::WillAsk);
    shun(&rig, shunned.id);
    rig.announce(&honest, &small).await;
    serve(next(&mut honest.asked).await, &small);
    rig.held(&small).await;
    // The source of this one has nothing, so a neighbour is tried that never spoke of it.
    let large = rig.block(&small, LARGE, 2);
    assert_eq!(next(&mut rig.gossip(&honest, topic(&large)).await).await, Verdict::Accept);
    next(&mut honest.asked).await.refuse(Status::NotFound);
    rig.announce(&honest, &large).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_all(honest.asked, vec![large.clone()]));
    rig.held(&large).await;
    assert!(shunned.asked.try_recv().is_err());
}

#[tokio::test]
async fn a_banned_peer_is_neither_heard_nor_served_nor_told() {
    nothing_is_heard_nor_given(ban).await;
}

#[tokio::test]
async fn a_peer_of_another_chain_is_neither_heard_nor_served_nor_told() {
    nothing_is_heard_nor_given(part).await;
}

#[tokio::test]
async fn a_banned_peer_is_not_asked_for_what_it_announced_nor_as_a_neighbour() {
    nothing_is_asked_of_it(ban).await;
}

#[tokio::test]
async fn a_peer_of_another_chain_is_not_asked_for_what_it_announced_nor_as_a_neighbour() {
    nothing_is_asked_of_it(part).await;
}
