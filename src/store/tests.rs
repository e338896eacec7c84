//! The store: durability, order, versions, and what a second holder is told.

use std::ops::Bound;

use super::*;

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn one(family: Family, key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(family, key, value);
    batch
}

#[tokio::test]
async fn what_was_committed_is_there_after_opening_again() {
    let (dir, store) = open();
    store.commit(one(Family::Meta, b"a", b"1")).await.unwrap();
    store.write_unsynced(one(Family::Map, b"b", b"2")).unwrap();
    store.close();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.get(Family::Meta, b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(store.get(Family::Map, b"b").unwrap().as_deref(), Some(&b"2"[..]));
}

#[tokio::test]
async fn a_batch_is_atomic_over_families_and_deletes_too() {
    let (_dir, store) = open();
    store.commit(one(Family::Inbox, b"old", b"x")).await.unwrap();
    let mut batch = one(Family::Inbox, b"new", b"y");
    batch.put(Family::Seen, b"new".as_slice(), b"".as_slice()).delete(Family::Inbox, b"old".as_slice());
    store.commit(batch).await.unwrap();
    assert!(!store.contains(Family::Inbox, b"old").unwrap());
    assert!(store.contains(Family::Inbox, b"new").unwrap() && store.contains(Family::Seen, b"new").unwrap());
}

#[tokio::test]
async fn many_waiting_commits_share_few_syncs() {
    let (_dir, store) = open();
    let commits = (0..500u32).map(|i| store.commit(one(Family::Outbox, &i.to_be_bytes(), b"v")));
    for result in futures::future::join_all(commits).await {
        result.unwrap();
    }
    let stats = store.writer_stats();
    assert_eq!(stats.commits, 500);
    assert!(stats.syncs < 250, "{stats:?}");
    assert_eq!(store.scan(Family::Outbox, &[], None, 1000).unwrap().len(), 500);
}

#[tokio::test]
async fn scans_stay_in_their_prefix_and_go_on_after_a_key() {
    let (_dir, store) = open();
    let mut batch = Batch::new();
    for key in ["a1", "b1", "b2", "b3", "c1"] {
        batch.put(Family::Map, key.as_bytes(), key.as_bytes());
    }
    store.commit(batch).await.unwrap();
    let keys = |after: Option<&[u8]>, limit| {
        let pairs = store.scan(Family::Map, b"b", after, limit).unwrap();
        pairs.into_iter().map(|(k, _)| String::from_utf8(k).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(keys(None, 10), ["b1", "b2", "b3"]);
    assert_eq!(keys(Some(b"b1"), 1), ["b2"]);
    assert_eq!(keys(Some(b"b3"), 10), Vec::<String>::new());
    assert_eq!(store.last(Family::Map, b"b").unwrap().unwrap().0, b"b3");
    assert_eq!(store.last(Family::Map, b"x").unwrap(), None);
    let mut seen = 0;
    store
        .for_each(Family::Map, b"", Bound::Unbounded, |_, _| {
            seen += 1;
            seen < 2
        })
        .unwrap();
    assert_eq!(seen, 2, "it ends when told");
}

#[test]
fn packed_bodies_come_back_from_their_places_alone_and_together() {
    let (dir, store) = open();
    // Of no bytes, across the chunks in which they are written, and longer than one.
    let bodies: Vec<Vec<u8>> = [0, 1, 4096, 2_700_000, 2_700_001, 9_500_000, 17]
        .map(|n| (0..n).map(|i: u32| (i % 251) as u8).collect())
        .into();
    let slices: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let write = |store: &Store, number, slices: &[&[u8]], bytes| {
        let mut pack = store.write_pack(number, bytes)?;
        let (some, others) = slices.split_at(1);
        let spots = [pack.put(some)?, pack.put(others)?].concat();
        pack.finish().map(|()| spots)
    };
    let spots = write(&store, 7, &slices, usize::MAX).unwrap();
    let more = write(&store, 8, &slices[2..4], 1).unwrap();
    let mut unfinished = store.write_pack(11, 1).unwrap();
    unfinished.put(&slices[5..]).unwrap();
    drop(unfinished);
    assert!(spots.iter().all(|s| Spot::decode(&s.encode()) == Some(*s)) && Spot::decode(&[0; 19]).is_none());
    let of = |got: Vec<Option<Bytes>>| got.into_iter().map(|b| b.map(|b| b.to_vec())).collect::<Vec<_>>();
    let all: Vec<_> = bodies.iter().cloned().map(Some).collect();
    assert_eq!(of(store.packed(&spots).unwrap()), all);
    // In any order, more than once, from several packs, and from one that is not there.
    let nowhere = Spot { pack: 9, ..spots[1] };
    let beyond = Spot { offset: u32::MAX, ..spots[1] };
    let mixed = [spots[6], more[0], more[1], spots[3], spots[4], nowhere, spots[3], beyond];
    let expected = [Some(6), Some(2), Some(3), Some(3), Some(4), None, Some(3), None];
    assert_eq!(of(store.packed(&mixed).unwrap()), expected.map(|i| i.map(|i| bodies[i].clone())));
    store.close();
    drop(store);
    let path = dir.path().join("bodies/block/0000000000000007");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[usize::try_from(spots[4].offset).unwrap() + 5] ^= 1;
    std::fs::write(&path, &bytes[..usize::try_from(spots[6].offset).unwrap() + 3]).unwrap();
    let store = Store::open(dir.path()).unwrap();
    let got = of(store.packed(&spots).unwrap());
    for (i, body) in got.into_iter().enumerate() {
        assert_eq!(body, all[i].clone().filter(|_| i != 4 && i != 6), "{i}: damaged and cut off ones are not there");
    }
    store.pretend_full(true);
    assert!(matches!(write(&store, 10, &slices, 1), Err(StoreError::DiskFull(_))));
    assert_eq!(store.body_numbers(Shelf::Block).unwrap().len(), 2);
}

fn gone(store: &Store, shelf: Shelf, number: u64) -> bool {
    (0..1000).any(|_| {
        let gone = !store.body_numbers(shelf).unwrap().contains(&number);
        if !gone {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        gone
    })
}

#[tokio::test]
async fn parts_of_a_body_come_back_from_their_file_until_a_batch_removes_it() {
    let (dir, store) = open();
    let part = |i: u32| vec![i as u8 + 1; if i == 2 { 1 } else { MAX_BODY_PART - i as usize }];
    for index in [2, 0, 1] {
        store.write_body(Shelf::Inbox, 7).unwrap().put(index, &part(index)).unwrap();
    }
    store.sync_body(Shelf::Inbox, 7).unwrap();
    store.write_body(Shelf::Outbox, 7).unwrap().put(0, b"another").unwrap();
    let mut twice = store.write_body(Shelf::Outbox, 8).unwrap();
    twice.put(0, &[1; 5000]).unwrap();
    twice.put(0, b"shorter").unwrap();
    let check = |store: &Store| {
        for index in 0..3 {
            assert_eq!(store.body_part(Shelf::Inbox, 7, index).unwrap().as_deref(), Some(&part(index)[..]));
        }
        assert_eq!(store.body_part(Shelf::Inbox, 7, 3), Ok(None));
        assert_eq!(store.body_part(Shelf::Outbox, 7, 0).unwrap().as_deref(), Some(&b"another"[..]));
        assert_eq!(store.body_part(Shelf::Outbox, 8, 0).unwrap().as_deref(), Some(&b"shorter"[..]));
        assert_eq!(store.body_part(Shelf::Outbox, 9, 0), Ok(None));
        assert_eq!(store.body_numbers(Shelf::Inbox), Ok(vec![7]));
    };
    check(&store);
    store.close();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    check(&store);
    assert!(store.disk_bytes() >= 2 * MAX_BODY_PART as u64);
    let mut batch = Batch::new();
    assert!(batch.is_empty());
    batch.remove_body(Shelf::Inbox, 7);
    assert!(!batch.is_empty());
    store.commit(batch).await.unwrap();
    assert!(gone(&store, Shelf::Inbox, 7));
    assert_eq!(store.body_numbers(Shelf::Outbox).unwrap().len(), 2, "others stay");
    let mut batch = Batch::new();
    batch.remove_body(Shelf::Outbox, 7).remove_body(Shelf::Outbox, 99);
    store.write_unsynced(batch).unwrap();
    assert!(gone(&store, Shelf::Outbox, 7), "after a sync");
    assert_eq!(store.body_numbers(Shelf::Outbox), Ok(vec![8]));
    store.clear_bodies(Shelf::Outbox, &[8, 99]).unwrap();
    assert_eq!(store.body_numbers(Shelf::Outbox), Ok(Vec::new()));
}

#[test]
fn a_damaged_part_is_no_part_and_its_neighbours_are() {
    let (dir, store) = open();
    let mut body = store.write_body(Shelf::Inbox, 1).unwrap();
    (0..3).for_each(|index| body.put(index, &[9; 10_000]).unwrap());
    let path = dir.path().join("bodies/inbox/0000000000000001");
    let whole = std::fs::read(&path).unwrap();
    let second = (whole.len() - 12_288) / 2;
    for at in [0, 4, 7, 8, 5000, 10_007] {
        let mut damaged = whole.clone();
        damaged[second + at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let is_there = |index| store.body_part(Shelf::Inbox, 1, index).unwrap().is_some();
        assert_eq!([0, 1, 2].map(is_there), [true, false, true], "byte {at}");
    }
    for cut in [0, 3, 7, 8, 4096] {
        std::fs::write(&path, &whole[..second + cut]).unwrap();
        assert_eq!(store.body_part(Shelf::Inbox, 1, 1), Ok(None), "cut at {cut}");
    }
}

#[test]
fn impossible_parts_and_full_disks_are_refused() {
    let (_dir, store) = open();
    let mut body = store.write_body(Shelf::Outbox, 1).unwrap();
    assert!(matches!(body.put(0, &[0; MAX_BODY_PART + 1]), Err(StoreError::Failed(_))));
    assert!(matches!(body.put(0, b""), Err(StoreError::Failed(_))));
    store.pretend_full(true);
    assert!(matches!(body.put(0, b"x"), Err(StoreError::DiskFull(_))));
    store.pretend_full(false);
    body.put(0, b"x").unwrap();
    assert!(store.sync_body(Shelf::Outbox, 2).is_err(), "there is no such body");
}

#[test]
fn a_second_opener_is_refused_and_the_first_goes_on() {
    let (dir, store) = open();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    store.write_unsynced(one(Family::Meta, b"k", b"v")).unwrap();
}

#[tokio::test]
async fn a_newer_layout_is_refused_and_left_alone() {
    let (dir, store) = open();
    store.commit(one(Family::Meta, b"layout_version", &7u32.to_be_bytes())).await.unwrap();
    store.close();
    drop(store);
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 7, .. }), "{error}");
    let again = Store::open(dir.path()).unwrap_err();
    assert!(matches!(again, OpenError::Newer { found: 7, .. }), "refusing changed it: {again}");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let (_dir, store) = open();
    store.close();
    assert_eq!(store.commit(one(Family::Meta, b"k", b"v")).await, Err(StoreError::Stopped));
}

#[tokio::test]
async fn a_full_disk_refuses_new_data_takes_removals_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let put = |key: &[u8]| {
        let mut batch = Batch::new();
        batch.put(Family::Meta, key, vec![1; 1024 * 1024]);
        batch
    };
    store.commit(put(b"before")).await.unwrap();
    assert!(store.disk_bytes() >= 1024 * 1024);
    store.pretend_full(true);
    assert!(matches!(store.commit(put(b"during")).await, Err(StoreError::DiskFull(_))));
    assert!(matches!(store.write_unsynced(put(b"during")), Err(StoreError::DiskFull(_))));
    assert!(!store.contains(Family::Meta, b"during").unwrap());
    let mut removal = Batch::new();
    removal.delete(Family::Meta, *b"before");
    // In one round with a write that is refused.
    let (removed, refused) = tokio::join!(store.commit(removal), store.commit(put(b"during")));
    removed.unwrap();
    assert!(matches!(refused, Err(StoreError::DiskFull(_))));
    assert!(!store.contains(Family::Meta, b"before").unwrap());
    store.pretend_full(false);
    store.commit(put(b"after")).await.unwrap();
}

#[tokio::test]
async fn a_store_from_before_a_family_existed_opens_and_gets_it() {
    let (dir, store) = open();
    store.commit(one(Family::Inbox, b"kept", b"x")).await.unwrap();
    store.close();
    drop(store);
    let options = rocksdb::Options::default();
    let names = Db::list_cf(&options, dir.path()).unwrap();
    let db = Db::open_cf(&options, dir.path(), names).unwrap();
    db.drop_cf(Family::Friend.name()).unwrap();
    drop(db);
    assert!(!Db::list_cf(&options, dir.path()).unwrap().contains(&Family::Friend.name().to_owned()));
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.get(Family::Inbox, b"kept").unwrap().as_deref(), Some(&b"x"[..]));
    store.commit(one(Family::Friend, b"new", b"y")).await.unwrap();
    assert!(store.contains(Family::Friend, b"new").unwrap());
}
