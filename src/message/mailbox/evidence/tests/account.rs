//! What the store says of a part.

use bytes::Bytes;

use super::{super::account::Fate, START, receipt};
use crate::{
    message::mailbox::{
        machine::{Known, Stored, Who},
        store::{Gone, Tables},
    },
    primitives::{Hash, PeerId},
    store::{Batch, Store},
};

#[test]
fn what_became_of_a_part_is_told_as_it_was_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (tables, owner) = (Tables { store: Store::open(dir.path()).unwrap() }, PeerId::random());
    let one = receipt(1);
    let stored = Stored {
        seq: 1,
        id: one.id,
        grant: one.grant,
        len: 4,
        stored_at: START,
        expires_at: one.expires_at,
        withdraw: Hash([1; 32]),
        who: Who::Open,
    };
    assert_eq!(tables.fate(&owner, &one.id).unwrap(), None);
    let mut batch = Batch::new();
    Tables::put_item(&mut batch, &owner, &stored, &Bytes::from_static(b"part"));
    tables.store.write_unsynced(batch).unwrap();
    assert_eq!(tables.fate(&owner, &one.id).unwrap(), Some(Fate::Held));
    assert_eq!(tables.fate(&PeerId::random(), &one.id).unwrap(), None, "of another owner");
    let ways = [
        (Gone::Acked([2; 32]), Fate::Acked([2; 32])),
        (Gone::Withdrawn([3; 32]), Fate::Withdrawn([3; 32])),
        (Gone::Never, Fate::Never),
    ];
    for (how, fate) in ways {
        let mut batch = Batch::new();
        Tables::drop_item(&mut batch, &owner, &stored);
        Tables::put_tombstone(&mut batch, &owner, &one.id, one.expires_at, how);
        tables.store.write_unsynced(batch).unwrap();
        assert_eq!(tables.fate(&owner, &one.id).unwrap(), Some(fate));
        assert_eq!(tables.known(&owner, &one.id).unwrap(), Some(Known::Gone(one.expires_at)));
    }
}
