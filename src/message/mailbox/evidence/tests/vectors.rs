//! Golden bytes, and noise.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::{
    super::{
        account::{self, Account, Fate, SignedAccount, Tokens},
        judge::Why,
        ledger::Evidence,
        wire::{self, Audit, Claim, RawClaim},
    },
    START, identity, receipt,
};
use crate::{
    message::{
        friend::Score,
        mailbox::proof::{self, SignedReceipts},
    },
    net::rpc::Wire as _,
    primitives::{Hash, MessageId, NetworkId, PeerId},
    wire::proto::mailbox as proto,
};

const FATES: [Fate; 6] =
    [Fate::Unknown, Fate::Held, Fate::Acked([1; 32]), Fate::Withdrawn([2; 32]), Fate::Never, Fate::Forgotten];

fn said() -> Account {
    let fates = FATES.into_iter().zip(0_u8..).map(|(fate, n)| (MessageId([n; 32]), fate)).collect();
    Account { nonce: [9; 16], at: START, fates }
}

#[test]
fn stored_receipts_accounts_and_tokens_have_one_form() {
    let (friend, owner, network) = (identity(1), identity(2).address(), NetworkId::default());
    let list = [receipt(1), receipt(2)];
    let signed = proof::sign(&friend, &proof::stored_purpose(&network), &owner, &list);
    assert_eq!(signed.entries.len(), 2 * 105);
    assert_eq!(signed.read(), list);
    let receipts = Hash::of(&[&signed.entries[..], &signed.signature].concat());
    let signed = account::sign(&friend, &account::purpose(&network), &owner, &said());
    assert_eq!(signed.text.len(), 24 + 6 * 65);
    let account = Hash::of(&[&signed.text[..], &signed.signature].concat());
    let token = Tokens::new(&identity(2), &network).token(&friend.address(), &MessageId([3; 32]));
    let golden = [
        "c4684a12859b07faa32e0fb21269ed6410f0fe0de86be2c8d2afe1ab3ba78940",
        "f1f61345b8c030cf3f203489e055e18aa5a1464a115afbdcb79b821ecc470144",
        "1b9ef763608ccee96b8375a362daa9a34257b001e7a048296a07a0e3d52a93a7",
    ];
    assert_eq!([receipts, account, Hash(token)].map(|hash| hash.to_string()), golden);
}

#[test]
fn an_account_is_of_one_friend_to_one_owner_on_one_network() {
    let (friend, owner, other) = (identity(1), identity(2).address(), identity(3).address());
    let purpose = account::purpose(&NetworkId::default());
    let signed = account::sign(&friend, &purpose, &owner, &said());
    let friend = friend.address();
    assert_eq!(account::verify((&friend, &owner), &purpose, &signed), Some(said()));
    assert_eq!(account::verify((&friend, &other), &purpose, &signed), None, "to somebody else");
    assert_eq!(account::verify((&other, &owner), &purpose, &signed), None, "of somebody else");
    let foreign = account::purpose(&"other".parse().unwrap());
    assert_eq!(account::verify((&friend, &owner), &foreign, &signed), None);
    for at in 0..signed.text.len() {
        let mut text = signed.text.to_vec();
        text[at] ^= 1;
        let changed = SignedAccount { text: text.into(), ..signed.clone() };
        assert_eq!(account::verify((&friend, &owner), &purpose, &changed), None, "byte {at}");
    }
    let twice = Account { fates: vec![(MessageId([1; 32]), Fate::Held), (MessageId([1; 32]), Fate::Never)], ..said() };
    assert_eq!(twice.fate(&MessageId([1; 32])), None, "which one is meant?");
}

#[test]
fn a_token_is_for_one_part_at_one_friend_and_no_secret_is_shown() {
    let tokens = Tokens::new(&identity(2), &NetworkId::default());
    let token = |friend: u8, n: u8| tokens.token(&identity(friend).address(), &MessageId([n; 32]));
    assert_eq!(
        token(1, 1),
        Tokens::new(&identity(2), &NetworkId::default()).token(&identity(1).address(), &MessageId([1; 32]))
    );
    assert!(token(1, 1) != token(1, 2) && token(1, 1) != token(3, 1));
    assert_eq!(format!("{tokens:?}"), "Tokens");
}

#[test]
fn the_largest_requests_and_answers_fit_their_limits() {
    let (friend, owner, network) = (identity(1), identity(2).address(), NetworkId::default());
    let ids = vec![MessageId([1; 32]); account::ACCOUNT_IDS];
    let request = wire::audit([1; 16], ids.clone());
    assert!(request.encoded_len() <= Audit::MAX_REQUEST);
    assert_eq!(wire::read_audit(&request), Some(([1; 16], ids.clone())));
    assert_eq!(wire::read_audit(&wire::audit([1; 16], [ids.clone(), ids].concat())), None, "too many");
    assert_eq!(wire::read_audit(&wire::audit([1; 16], [])), None, "none");
    let fates = (0..64).map(|n| (MessageId([n; 32]), Fate::Acked([3; 32]))).collect();
    let signed = account::sign(&friend, &account::purpose(&network), &owner, &Account { fates, ..said() });
    assert!(wire::audited(signed).encoded_len() <= Audit::MAX_RESPONSE);
    let list: Vec<_> = (0..64).map(receipt).collect();
    let signed = proof::sign(&friend, &proof::stored_purpose(&network), &owner, &list);
    let raw = RawClaim { holder: friend.address(), signed, places: (0..64).collect() };
    let request = wire::claim(&raw);
    assert!(request.encoded_len() <= Claim::MAX_REQUEST);
    assert_eq!(wire::read_claim(&request), Some(raw.clone()));
    for places in [vec![], vec![64], vec![1, 1], vec![2, 1]] {
        assert_eq!(wire::read_claim(&wire::claim(&RawClaim { places, ..raw.clone() })), None);
    }
    assert!(wire::claimed(true).encoded_len() <= Claim::MAX_RESPONSE);
}

proptest! {
    #[test]
    fn noise_is_refused_by_every_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let (bytes, me) = (Bytes::from(bytes), identity(1).address());
        if let Some((_, ids)) = wire::read_audit(&proto::Audit { nonce: bytes.slice(..bytes.len().min(16)), ids: bytes.clone() }) {
            prop_assert!(ids.len() <= account::ACCOUNT_IDS);
        }
        let holder = Bytes::from(me.to_bytes());
        for places in [bytes.clone(), Bytes::from_static(&[0])] {
            let claim = proto::Claim { holder: holder.clone(), entries: bytes.clone(), signature: bytes.clone(), places };
            if let Some(raw) = wire::read_claim(&claim) {
                prop_assert!(raw.places.iter().all(|place| raw.signed.read().get(usize::from(*place)).is_some()) || raw.signed.read().is_empty());
            }
        }
        let signed = SignedAccount { text: bytes.clone(), signature: bytes.clone() };
        prop_assert!(account::verify((&me, &PeerId::random()), &account::purpose(&NetworkId::default()), &signed).is_none());
        let _ = wire::decode_evidence(&bytes);
        let _ = wire::decode_score(&bytes);
        let _ = SignedReceipts { entries: bytes.clone(), signature: bytes }.read();
    }

    #[test]
    fn evidence_and_scores_are_read_as_they_were_written(
        (kept, broken, refused, at) in any::<(u64, u64, u64, u64)>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        why in 1_u32..=5,
    ) {
        let (score, at) = (Score { kept, broken, refused }, crate::primitives::UnixMillis(at));
        prop_assert_eq!(wire::decode_score(&wire::encode_score(&score, at)), Some((score, at)));
        prop_assert!(score.percent().is_none_or(|percent| percent <= 100));
        let (bytes, why) = (Bytes::from(bytes), Why::from_wire(why).unwrap());
        let evidence = Evidence {
            id: MessageId([1; 32]),
            why,
            at,
            grant: bytes.to_vec(),
            receipts: SignedReceipts { entries: bytes.clone(), signature: bytes.clone() },
            account: SignedAccount { text: bytes.clone(), signature: bytes },
        };
        prop_assert_eq!(wire::decode_evidence(&wire::encode_evidence(&evidence)), Some(evidence));
    }
}
