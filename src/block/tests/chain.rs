//! The chain through its door.

use super::super::{
    Origin,
    chain::{Event, Judgement, Known, Outcome},
    kit::{self, Maker},
};
use crate::block::{VerifiedHeader, purpose};

#[tokio::test]
async fn a_row_of_blocks_is_imported_committed_and_read_back() {
    let chain = kit::chain();
    let mut events = chain.events();
    let row = Maker::new(1).row(&kit::genesis(), 20, 100);
    let first = VerifiedHeader::new(row[0].header().clone(), &purpose(&kit::network())).unwrap();
    assert_eq!(chain.judge(&first), Ok(Judgement::Good));
    assert_eq!(chain.known(&row[0].hash()), Ok(Known::No));
    let outcome = chain.import(row[0].clone(), Origin::Local).await.unwrap();
    assert_eq!(outcome, Outcome::Imported { new_head: true });
    assert_eq!(chain.judge(&first), Ok(Judgement::Known));
    let outcome = chain.import_segment(row.clone(), Origin::File).await.unwrap();
    assert_eq!((outcome.held, outcome.stopped), (20, None));
    let status = chain.status();
    assert_eq!((status.head.height, status.committed.height), (20, 8));
    assert_eq!(chain.hash_at(3).unwrap(), Some(row[2].hash()));
    assert_eq!(chain.hash_at(20).unwrap(), Some(row[19].hash()));
    assert_eq!(chain.hash_at(21).unwrap(), None);
    let range = chain.range(5, 100, usize::MAX).unwrap();
    assert_eq!(range.len(), 16);
    assert!(range.iter().zip(&row[4..]).all(|(s, b)| s.hash == b.hash() && s.body == b.body().bytes()));
    assert_eq!(chain.range(5, 100, 1000).unwrap().len(), 3);
    assert_eq!(chain.headers(0, 5, 7).unwrap().len(), 3);
    assert!(matches!(events.recv().await.unwrap(), Event::Imported { origin: Origin::Local, .. }));
    assert!(matches!(events.recv().await.unwrap(), Event::Head { .. }));
}
