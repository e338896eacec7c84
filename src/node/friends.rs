//! Brings friendships, mailboxes and the map together: what we hold for others, who holds mail for us, whose records stay.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use tracing::warn;

use crate::{
    map::{self, PinReason},
    message::{
        contacts::Contacts,
        friend::{self, Figure, Held, Hold, Side},
        mailbox::{self, Grant, GrantError, evidence::Judged},
    },
    primitives::{
        PeerId, UnixMillis,
        limits::{CLOCK_SKEW, MIN_DRAIN},
    },
    runtime::Stop,
};

/// How often figures are brought to people, and friends whose draining is over are left out.
const LOOK: Duration = Duration::from_secs(10);

/// Tells the mailbox each change of grants and friends, until stopped.
/// Their records stay in a map that is too small for all.
pub(super) async fn run(
    friend: friend::Handle,
    mailbox: mailbox::Handle,
    map: map::Handle,
    stop: Stop,
) -> Result<(), Infallible> {
    let work = async {
        let mut held = friend.held();
        let mut events = Some(friend.subscribe());
        // What ended while we were away is not in the list any more. An error means that the node is stopping.
        let kept = mailbox.held().await.unwrap_or_default().into_iter();
        let mut known = kept.filter_map(|stats| Some((stats.owner, stats.grant?))).collect();
        let mut look = tokio::time::interval(LOOK);
        let mut open = true;
        loop {
            tokio::select! {
                changed = held.changed(), if open => open = changed.is_ok(),
                // A lost event is a reason to look, too.
                closed = closed(&mut events) => if closed { events = None },
                _ = look.tick() => figures(&friend, &mailbox).await,
            }
            let list = held.borrow_and_update().clone();
            grants(&mailbox, &list, &mut known).await;
            own_friends(&friend, &mailbox, &map).await;
        }
    };
    tokio::select! {
        () = stop.wait() => {}
        () = work => {}
    }
    Ok(())
}

/// The next event; whether there will be none any more.
async fn closed(events: &mut Option<tokio::sync::broadcast::Receiver<friend::Event>>) -> bool {
    match events {
        Some(events) => matches!(events.recv().await, Err(tokio::sync::broadcast::error::RecvError::Closed)),
        None => std::future::pending().await,
    }
}

/// What is in `known` was taken by the mailbox, or never will be; what could not be stored is tried again with the next look.
async fn grants(mailbox: &mailbox::Handle, list: &[Held], known: &mut HashMap<PeerId, Grant>) {
    let mut now: HashMap<PeerId, Grant> = list.iter().map(|held| (held.owner, grant_of(held))).collect();
    for (owner, grant) in known.iter().filter(|(_, grant)| grant.phase != Hold::Ended) {
        now.entry(*owner).or_insert(Grant { phase: Hold::Ended, ..*grant });
    }
    for (owner, grant) in now {
        if known.get(&owner) == Some(&grant) {
            continue;
        }
        match mailbox.grant(owner, grant).await {
            Ok(()) => drop(known.insert(owner, grant)),
            Err(error @ GrantError::Store(_)) => warn!(%owner, %error, "a grant waits for the mailbox"),
            Err(GrantError::Stopped) => return,
            Err(error) => {
                warn!(%owner, %error, "the mailbox does not take a grant");
                known.insert(owner, grant);
            }
        }
    }
    known.retain(|owner, grant| grant.phase != Hold::Ended || list.iter().any(|held| held.owner == *owner));
}

fn grant_of(held: &Held) -> Grant {
    Grant { id: held.grant_id, epoch: held.epoch, phase: held.state, not_after: held.not_after, terms: held.terms }
}

/// Mail is collected from friends whose grant is in force or draining.
async fn own_friends(friend: &friend::Handle, mailbox: &mailbox::Handle, map: &map::Handle) {
    // An error means that the node is stopping.
    let Ok(list) = friend.list().await else { return };
    // Anybody can offer to us: only what we agreed to, or asked for, takes a place.
    let stands = |f: &&friend::Friendship| match f.state {
        friend::State::Active => true,
        state => state == friend::State::Offered && f.side == Side::HeldBy,
    };
    // What ended gives up its place, once nothing is owed any more.
    let drains = |f: &friend::Friendship| matches!(f.hold, Some(Hold::Draining { .. }));
    map.pin(PinReason::Friend, list.iter().filter(|f| stands(f) || drains(f)).map(|f| f.address));
    let holds = |f: &&friend::Friendship| {
        f.side == Side::HeldBy && matches!(f.hold, Some(Hold::Active | Hold::Draining { .. }))
    };
    let _ = mailbox.set_friends(list.iter().filter(holds).map(|f| f.address).collect()).await;
    mailbox.evidence().judge(list.iter().filter(holds).filter_map(judged).collect());
}

/// What a friend that holds our mail owes us.
fn judged(f: &friend::Friendship) -> Option<Judged> {
    let grant = f.grant.clone()?;
    let (since, until) = match f.hold? {
        // What is there outlives the grant by the time to drain. What was there before an end may have been dropped after it.
        Hold::Active => {
            (f.ended_at.map_or(UnixMillis(0), |at| at.plus(CLOCK_SKEW)), grant.offer.not_after.plus(MIN_DRAIN))
        }
        Hold::Draining { until } => (grant.accepted_at, until),
        Hold::Ended => return None,
    };
    Some(Judged { friend: f.address, grant, since, until })
}

async fn figures(friend: &friend::Handle, mailbox: &mailbox::Handle) {
    // An error means that the node is stopping.
    for stats in mailbox.held().await.unwrap_or_default() {
        let figure = Figure { used_bytes: Some(stats.bytes), ..Figure::default() };
        friend.report(Side::HoldingFor, stats.owner, figure);
    }
    for (address, score) in mailbox.evidence().scores().await.unwrap_or_default() {
        friend.report(Side::HeldBy, address, Figure { used_bytes: None, score });
    }
}

/// Keeps the records of contacts in a map that is too small for all, until stopped.
pub(super) async fn pin(contacts: Contacts, map: map::Handle, stop: Stop) -> Result<(), Infallible> {
    let mut book = contacts.watch();
    book.mark_changed();
    loop {
        tokio::select! {
            () = stop.wait() => return Ok(()),
            changed = book.changed() => match changed {
                Ok(()) => map.pin(PinReason::Contact, book.borrow_and_update().contacts.keys().copied()),
                Err(_) => return Ok(()),
            },
        }
    }
}
