//! Peers that come and go, and peers that are slow.

use super::*;

#[tokio::test]
async fn n20_a_peer_that_went_is_neither_asked_nor_told() {
    let rig = Rig::start();
    let (mut gone, mut here) = (rig.peer(), rig.peer());
    let block = rig.block(&kit::genesis(), LARGE, 1);
    assert_eq!(next(&mut rig.gossip(&gone, topic(&block)).await).await, Verdict::Accept);
    let _asked = next(&mut gone.asked).await;
    rig.announce(&here, &block).await;
    rig.control.down(gone.id);
    let mut tasks = JoinSet::new();
    let asks = std::mem::replace(&mut here.asked, mpsc::channel(1).1);
    tasks.spawn(serve_all(asks, vec![block.clone()]));
    rig.held(&block).await;
    // Before it went it was asked for this block.
    while gone.asked.try_recv().is_ok() {}
    // Of the next one its source has nothing, nor has the only neighbour that is left: whoever else were known would be tried.
    let mut bystander = rig.peer();
    let child = rig.block(&block, LARGE, 2);
    assert_eq!(next(&mut rig.gossip(&here, topic(&child)).await).await, Verdict::Accept);
    next(&mut bystander.asked).await.refuse(Status::NotFound);
    // Longer than it would take to try it.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(5)).await;
    tokio::time::resume();
    rig.announce(&bystander, &child).await;
    let asks = std::mem::replace(&mut bystander.asked, mpsc::channel(1).1);
    tasks.spawn(serve_all(asks, vec![child.clone()]));
    rig.held(&child).await;
    assert!(gone.asked.try_recv().is_err());
    let mut parent = child;
    for salt in 3..5 {
        let block = rig.block(&parent, 100, salt);
        assert_eq!(next(&mut rig.gossip(&here, topic(&block)).await).await, Verdict::Accept);
        rig.held(&block).await;
        while next(&mut bystander.notified).await.request.hash != block.hash().0.to_vec() {}
        parent = block;
    }
    assert!(gone.notified.try_recv().is_err());
}

#[tokio::test]
async fn a_source_that_drips_is_helped_out_by_one_that_announced_the_block() {
    let rig = Rig::start();
    let (drip, quick) = (rig.peer(), rig.peer());
    const PIECES: usize = 16;
    let block = rig.block(&kit::genesis(), PIECES * PIECE_BYTES, 1);
    assert_eq!(next(&mut rig.gossip(&drip, topic(&block)).await).await, Verdict::Accept);
    let mut announced = rig.announce(&quick, &block).await;
    assert_eq!(next(&mut announced).await, Verdict::Ignore);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_all(quick.asked, vec![block.clone()]));
    // A piece just before each time-out: the whole body would take this long.
    let pace = Duration::from_millis(500);
    let (whole, mut dripped, begun) = (pace * PIECES as u32, 0, std::time::Instant::now());
    let mut asked = drip.asked;
    let dripping = async {
        loop {
            let piece = next(&mut asked).await;
            tokio::time::sleep(pace).await;
            serve(piece, &block);
            dripped += 1;
        }
    };
    tokio::select! {
        () = rig.held(&block) => {}
        () = dripping => unreachable!("it ends with the block"),
    }
    assert!(dripped < PIECES / 2, "{dripped} pieces came from it");
    assert!(begun.elapsed() < whole, "{:?}", begun.elapsed());
    assert_eq!(rig.penalties.points(&quick.id), 0.0);
}
