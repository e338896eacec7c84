//! Receipts by letter: sealed for the sender of the messages and left with that sender's own friends, while it is away.
//!
//! A letter looks like a part of a message to whoever holds it. It is left as a contact leaves messages, never for work: whoever got a
//! message from somebody who does not take it as a contact waits until both are there. Nothing is receipted for a letter; one that is
//! lost costs its addressee a try.
//!
//! What a friend of the addressee learns of it: who leaves it, unless it came by way of another node, the deposit key of that contact,
//! its size (1 or 4 KiB) and the time. Not that it is a receipt, nor for what.

use std::time::Duration;

use super::{Leaver, secret};
use crate::{
    message::{
        contacts::{Pair, deposit_key},
        envelope::{BodyId, Inner, Kind},
        mailbox::{self, Account, Part, Place},
        order::Rank,
        outbox::Friend,
        receipt::Receipt,
        recipients::choose,
    },
    primitives::{Hash, PeerId, StreamId},
};

/// Friends that are to hold a letter.
const COPIES: usize = 2;
/// Friends that are asked, one after the other.
const TRIES: usize = 4;
/// How long it is kept: longer than most messages are tried.
const KEPT: Duration = Duration::from_secs(14 * 24 * 3600);
/// Letters have no turn and are not told apart.
const NO_TURN: Rank = Rank { number: 1, floor: 1 };

impl Leaver {
    /// Leaves a receipt with friends of the sender of what it names; fails, in words, when none has taken it.
    pub(in crate::message) async fn leave_letter(&self, sender: PeerId, signed: Receipt) -> Result<(), String> {
        let friends = self.friends(sender).await?;
        let friends: Vec<_> = friends.into_iter().filter(|f| f.peer != self.shared.local && f.peer != sender).collect();
        if friends.is_empty() {
            return Err("it has no friends".into());
        }
        let part = self.seal_letter(sender, signed).await?;
        let (mut copies, mut trouble) = (0, String::new());
        for friend in friends.into_iter().take(TRIES) {
            match self.leave_copy(sender, friend, part.clone()).await {
                Ok(()) => copies += 1,
                Err(why) => trouble = format!("friend {}: {why}", friend.peer),
            }
            if copies == COPIES {
                break;
            }
        }
        if copies > 0 { Ok(()) } else { Err(trouble) }
    }

    async fn seal_letter(&self, sender: PeerId, signed: Receipt) -> Result<Part, String> {
        let shared = self.shared.clone();
        let keys = shared.recipients.keys(sender).await.map_err(|e| e.to_string())?;
        let now = shared.now();
        let key = choose(&keys, now).ok_or("it publishes no key")?;
        let body = mailbox::letter(&shared.local, signed);
        let inner = Inner {
            kind: Kind::Receipt,
            sender: shared.local,
            recipient: sender,
            stream: StreamId([0; 16]),
            seq: 0,
            rank: NO_TURN,
            sent_at: now,
            expires_at: now.plus(KEPT),
            key_id: key.id,
            file_name: String::new(),
            index: 0,
            total: body.len() as u64, // usize fits in u64
            body,
            body_id: BodyId::default(),
        };
        let seal = move || {
            let session = shared.sessions.get(shared.envelopes.context(), sender, key).map_err(|e| e.to_string())?;
            let mut session = session.lock().expect("no panic while held");
            let sealed = shared.envelopes.seal(&mut session, &inner).map_err(|e| e.to_string())?;
            let withdraw = Hash::of(&secret(&shared, &sealed.id));
            let ttl_s = u32::try_from(KEPT.as_secs()).unwrap_or(u32::MAX);
            Ok(Part { sealed: sealed.wire(), ttl_s, withdraw })
        };
        tokio::task::spawn_blocking(seal).await.map_err(|_| "the node is stopping".to_owned())?
    }

    async fn leave_copy(&self, owner: PeerId, friend: Friend, part: Part) -> Result<(), String> {
        let granted = self.granted(owner, friend).await?;
        let part = Part { ttl_s: part.ttl_s.min(granted.max_ttl_s.max(1)), ..part };
        let place = Place { holder: friend.peer, owner, grant: granted.id };
        let pair = Pair { owner, contact: self.shared.local, holder: friend.peer };
        let (us, network) = (self.shared.clone(), self.network.clone());
        let key = tokio::task::spawn_blocking(move || deposit_key(&us.identity, &network, pair)).await;
        let key = key.ok().flatten().ok_or("it has no key")?;
        self.shared.metrics.bytes_out.inc_by(part.sealed.len() as u64); // usize fits in u64
        // What it signs is not kept: a lost letter costs its addressee a try, and no message.
        let deposited = self.depositor.deposit(place, &Account::Key(Box::new(key)), vec![part]).await;
        let (answers, _) = deposited.map_err(|e| e.to_string())?;
        match answers.into_iter().next() {
            Some(Ok(_)) => Ok(()),
            Some(Err(refusal)) => Err(refusal.to_string()),
            None => Err("its answer is malformed".into()),
        }
    }
}
