//! Properties: noise does no harm; a body put together is the body that was sent.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use prost::Message as _;

use super::super::{
    envelope::{BodyId, Digests, Envelopes, Inner, Kind, Unverified, part_id},
    handle::{SendState, Step},
    inbox::{Inbox, Limits, Progress, Room, Verdict},
    mailbox::{Refusal, StoredReceipt},
    order::Rank,
    outbox::{Friend, Header, Now, Outbox, Output, is_end},
    receipt,
    wire::{self, Code},
};
use crate::{
    identity::{Identity, Keyring, NOTE, Opened, Opener},
    primitives::{GrantId, Hash, MessageId, NetworkId, PeerId, StreamId, UnixMillis},
};

const START: UnixMillis = UnixMillis(1_700_000_000_000);

proptest! {
    #[test]
    fn noise_is_refused_by_every_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let network = NetworkId::default();
        let me = Identity::generate();
        let envelopes = Envelopes::new(me.clone(), &network);
        let bytes = Bytes::from(bytes);
        let opener = Opener::new(envelopes.context(), me.address(), Keyring::default());
        // Of the right length all the same, so that nothing is refused for being short only.
        let long = [&bytes[..], &[0; 200]].concat();
        let digests = Digests::of(&long).unwrap();
        prop_assert!(envelopes.open(&opener, BytesMut::from(&*bytes), &digests).is_err());
        let opened = Opened { plain: bytes.clone(), note: [1; NOTE] };
        prop_assert!(Unverified::read(opened, &digests, &[0; 8]).is_err());
        prop_assert!(envelopes.reopen(&me.address(), &bytes).is_err());
        prop_assert!(wire::inner_from_bytes(bytes.clone()).is_err());
        let _ = part_id(&bytes);
        let _ = wire::decode_outgoing(&bytes);
        let _ = wire::decode_received(&bytes);
        let _ = wire::decode_assembly(0, &bytes);
        if let Some(parts) = wire::take_parts(&mut crate::wire::proto::message::Deliver { parts: bytes.clone() }) {
            prop_assert!(parts.len() <= wire::BATCH_PARTS);
        }
        let asked = crate::wire::proto::message::Missing { stream_id: bytes.slice(..bytes.len().min(16)), ranges: bytes.clone() };
        let _ = wire::read_missing(&asked);
        let _ = wire::read_missed(&crate::wire::proto::message::Missed { never: bytes.clone() });
        let signed = receipt::Receipt { entries: bytes.clone(), signature: bytes };
        prop_assert!(receipt::verify(&me.address(), &receipt::purpose(&network), &signed, 64).is_none());
    }

    #[test]
    fn requests_are_read_as_they_were_written(parts in proptest::collection::vec((any::<u8>(), prop_oneof![0_usize..50, 16_380_usize..16_390]), 1..=64)) {
        let parts: Vec<Bytes> = parts.into_iter().map(|(byte, n)| vec![byte; n].into()).collect();
        let mut request = crate::wire::proto::message::Deliver::decode(&*wire::pieces(&parts).concat()).unwrap();
        prop_assert_eq!(&request, &wire::request(&parts));
        prop_assert_eq!(wire::take_parts(&mut request).unwrap(), parts);
    }

    #[test]
    fn parts_in_any_order_with_repetitions_make_the_message_once(
        parts in 1_u32..12,
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
        fail in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let limits = Limits { max_bytes: 1 << 30, inbox_max_bytes: 1 << 30 };
        let mut inbox = Inbox::new(limits, 0);
        let total = u64::from(parts) * super::super::envelope::PART_BYTES as u64;
        let (sender, recipient) = (PeerId::random(), PeerId::random());
        let mut order: Vec<u32> = order.iter().map(|i| i.index(parts as usize) as u32).collect();
        // In the end everything comes once more and then again, as a sender that got no receipt would do it.
        order.extend((0..parts).chain(0..parts));
        let (mut delivered, mut seen, mut failures) = (0, None, fail.into_iter());
        let last = order.len() - 2 * parts as usize;
        for (step, index) in order.into_iter().enumerate() {
            let inner = Inner {
                kind: Kind::Message, sender, recipient, stream: StreamId([0; 16]), seq: 1, rank: Rank { number: 1, floor: 1 }, sent_at: START,
                expires_at: START.plus(Duration::from_secs(60)), key_id: [0; 8], file_name: String::new(),
                body: Bytes::copy_from_slice(&index.to_be_bytes()), index, total, body_id: BodyId::default(),
            };
            let id = MessageId([index as u8; 32]);
            // What comes last is sure to be stored.
            let ok = !failures.next().unwrap_or(false) || step >= last;
            let complete = match inbox.plan(START, Room { held: 0, contact: true }, (id, inner), seen) {
                Verdict::Part { key, index, .. } => {
                    matches!(inbox.committed_part(&key, index, ok), Progress::Whole).then_some(key)
                },
                Verdict::Whole { key, .. } => {
                    inbox.committed_whole(&key);
                    if ok { delivered += 1; seen = Some((id, START)); }
                    None
                }
                Verdict::Complete(key) => Some(key),
                Verdict::Again(..) => { prop_assert!(seen.is_some()); None }
                Verdict::Answer(code) => { prop_assert_eq!(code, Code::Stored); None }
            };
            if let Some(key) = complete {
                let assembly = inbox.assembly(&key).unwrap();
                let message = assembly.message(START).unwrap();
                prop_assert_eq!(message.received.id, MessageId([0; 32]), "the id of part 0");
                prop_assert_eq!(message.parts, parts);
                inbox.completed(&key, ok);
                if ok { delivered += 1; seen = Some((message.received.id, START)); }
            }
        }
        prop_assert_eq!(delivered, 1);
    }

    #[test]
    fn outgoing_states_only_go_forward_and_end_once(steps in proptest::collection::vec((0_u8..12, any::<prop::sample::Index>(), 0_u32..11), 1..120)) {
        let (me, to) = (PeerId::random(), PeerId::random());
        let friends = [PeerId::random(), PeerId::random(), PeerId::random()];
        let mut outbox = Outbox::new(me, Duration::from_secs(60), 1);
        let mut now = Now { wall: START, mono: Duration::ZERO };
        let mut flights: Vec<(u64, Vec<(u64, u32)>)> = Vec::new();
        let (mut states, mut ended) = (std::collections::HashMap::new(), std::collections::HashSet::new());
        let mut next = 0;
        // Being sealed, with the number of sealed parts.
        let mut sealing = std::collections::BTreeMap::<u64, u32>::new();
        for (step, pick, code) in steps {
            let seq = if next == 0 { 0 } else { pick.index(next as usize) as u64 };
            match step {
                0 | 1 => { outbox.add(now, header(next, to, me, 1 + u32::from(step) * 5), true); next += 1; }
                2 | 3 if !flights.is_empty() => {
                    let (flight, items) = flights.swap_remove(pick.index(flights.len()));
                    let codes = items.iter().map(|_| Code::from_wire(code)).collect();
                    let receipts = items.iter().filter(|_| step == 2).map(|(seq, _)| (id(*seq), START)).collect();
                    outbox.answered(now, flight, Ok((codes, receipts)));
                }
                4 if !flights.is_empty() => {
                    let (flight, _) = flights.swap_remove(pick.index(flights.len()));
                    outbox.answered(now, flight, Err("lost".into()));
                }
                5 => { now.mono += Duration::from_secs(u64::from(code)); now.wall = now.wall.plus(Duration::from_secs(u64::from(code))); outbox.tick(now); }
                6 => outbox.appeared(now, to),
                8 => {
                    outbox.begin(header(next, to, me, 6));
                    sealing.insert(next, 0);
                    next += 1;
                }
                9 | 10 if !sealing.is_empty() => {
                    let seq = *sealing.keys().nth(pick.index(sealing.len())).unwrap();
                    let sealed = sealing.get_mut(&seq).unwrap();
                    *sealed += 1;
                    outbox.sealed(now, (seq, *sealed - 1));
                    if *sealed == 6 {
                        sealing.remove(&seq);
                        outbox.add(now, header(seq, to, me, 6), true);
                    }
                }
                11 if !sealing.is_empty() => {
                    let seq = *sealing.keys().nth(pick.index(sealing.len())).unwrap();
                    sealing.remove(&seq);
                    outbox.abandon(seq);
                    ended.insert(seq);
                }
                _ => drop(outbox.cancel(now, seq)),
            }
            while let Some(output) = outbox.output() {
                match output {
                    Output::Send { flight, items, .. } => {
                        prop_assert!(items.iter().all(|(seq, _)| !ended.contains(seq)), "nothing ended is sent");
                        let early = |(seq, index): &(u64, u32)| sealing.get(seq).is_none_or(|n| index < n && *index < 5);
                        prop_assert!(items.iter().all(early), "only what is sealed, and never the last part");
                        flights.push((flight, items));
                        prop_assert!(flights.len() <= 4);
                    }
                    Output::Reseal(seq) => {
                        let result = outbox.get(seq).map(|(h, _)| h.clone()).ok_or_else(String::new);
                        outbox.resealed(now, seq, result);
                    }
                    Output::Changed { seq, .. } if sealing.contains_key(&seq) => prop_assert!(false, "it has no state yet"),
                    Output::Changed { seq, .. } => if let Some((h, _)) = outbox.get(seq) {
                        let before = states.insert(seq, h.state);
                        prop_assert!(before.is_none_or(|b| b <= h.state));
                    },
                    Output::Ended(h) => {
                        prop_assert!(!sealing.contains_key(&h.seq), "it has no state yet");
                        prop_assert!(is_end(h.state) && ended.insert(h.seq));
                        let forward = |w: &[Step]| w[0].state < w[1].state || w[0].state == SendState::Stored;
                        prop_assert!(h.history.windows(2).all(|w| forward(w) && w[0].state <= w[1].state));
                        prop_assert!(h.history.windows(2).all(|w| w[0].at <= w[1].at));
                    }
                    Output::Friends(recipient) => {
                        let friend = |n| Friend { peer: friends[n], grant: Hash([1; 32]) };
                        outbox.friends(now, recipient, Ok((0..friends.len()).map(friend).collect()));
                    }
                    Output::Leave { flight, items, .. } => {
                        prop_assert!(items.iter().all(|(seq, _)| !sealing.contains_key(seq)), "only what is durable");
                        let answer = |(seq, _): &(u64, u32)| match code {
                            0..3 => Ok(StoredReceipt {
                                id: id(*seq),
                                grant: GrantId([1; 16]),
                                stored_at: now.wall,
                                expires_at: now.wall.plus(Duration::from_secs(u64::from(code) * 100)),
                                queue_seq: 1,
                                duplicate: false,
                                withdraw: Hash([2; 32]),
                            }),
                            3 => Err(Refusal::TooLarge(1)),
                            _ => Err(Refusal::QuotaOwner),
                        };
                        let lost = code == 6;
                        let answers = items.iter().map(answer).collect();
                        outbox.deposited(now, flight, if lost { Err("lost".into()) } else { Ok(answers) });
                    }
                    Output::Settle { .. } | Output::NoReceipt(_) => {}
                }
            }
        }
        for (at, (seq, _)) in sealing.into_iter().enumerate() {
            if at % 2 == 0 { outbox.add(now, header(seq, to, me, 6), true) } else { outbox.abandon(seq) }
        }
        // Whatever happened: a recipient that answers well gets everything that has not ended.
        for _ in 0..200 {
            now.mono += Duration::from_secs(61);
            outbox.tick(now);
            outbox.appeared(now, to);
            while let Some(output) = outbox.output() {
                match output {
                    Output::Send { flight, items, .. } => flights.push((flight, items)),
                    Output::Reseal(seq) => {
                        let result = outbox.get(seq).map(|(h, _)| h.clone()).ok_or_else(String::new);
                        outbox.resealed(now, seq, result);
                    }
                    Output::Ended(h) => { prop_assert!(ended.insert(h.seq)); }
                    _ => {}
                }
            }
            for (flight, items) in flights.drain(..) {
                let receipts = items.iter().map(|(seq, _)| (id(*seq), START)).collect();
                outbox.answered(now, flight, Ok((vec![Code::Delivered; items.len()], receipts)));
            }
            if outbox.len() == 0 { break; }
        }
        prop_assert_eq!(outbox.len(), 0);
    }
}

fn id(seq: u64) -> MessageId {
    MessageId([seq as u8; 32])
}

pub(super) fn header(seq: u64, to: PeerId, me: PeerId, parts: u32) -> Header {
    Header {
        seq,
        stream: StreamId([0; 16]),
        number: seq + 1,
        ids: vec![id(seq)],
        to,
        state: SendState::Queued,
        bytes: u64::from(parts) * super::super::envelope::PART_BYTES as u64,
        parts,
        sealed_bytes: u64::from(parts) * 1089,
        key_id: [0; 8],
        queued_at: START,
        expires_at: START.plus(Duration::from_secs(200)),
        history: vec![Step { state: SendState::Queued, at: START, by: me }],
        last_error: String::new(),
        left: Vec::new(),
    }
}
