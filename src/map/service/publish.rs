//! Our own record: signed, made durable, then gossiped and put into Kademlia; taken over when a copy of our key ran ahead;
//! and the goodbye.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use super::{Done, FIRST_ADDRS, FIRST_PUBLISH, Service, jitter};
use crate::{
    identity::EncryptionKey,
    map::{
        mirror::{name_key, record_key},
        record::{Body, Departure, Friend, MAX_FRIEND_ADDRS, Record, publishable},
        state::Source,
        store,
        wire::News,
    },
    net::{self, dht::DhtError},
    primitives::{
        UnixMillis,
        limits::{MAX_RECORD_BYTES, MAX_RECORD_FRIENDS, MAX_RECORD_VALIDITY},
    },
    store::{Batch, StoreError},
};

/// After a change of our addrs, for the others that come with it.
const ADDRS_SETTLE: Duration = Duration::from_secs(1);
/// For our goodbye to be handed to the peers.
const GOODBYE: Duration = Duration::from_secs(1);
/// Until a record that nobody took is gossiped again; sooner when a peer comes.
const GOSSIP_RETRY: Duration = Duration::from_secs(5);
/// After a failure to write our record.
const PUBLISH_RETRY: Duration = Duration::from_secs(10);
/// After a record of ours was gossiped: whoever it did not reach gets it by comparison. Where it did, that costs 700 bytes.
const SPREAD_AFTER: Duration = Duration::from_secs(1);
/// Between two records that outdo one signed elsewhere with our key.
const TAKEOVER_PAUSE: Duration = Duration::from_secs(30);

impl Service {
    pub(super) async fn set_name(&mut self, name: String) -> Result<(), StoreError> {
        let before = std::mem::replace(&mut self.name, name);
        let result = self.issue(true).await;
        if result.is_err() {
            self.name = before;
        }
        result
    }

    pub(super) async fn set_keys(&mut self, keys: Vec<EncryptionKey>) -> Result<(), StoreError> {
        if keys == self.keys {
            // They are in our last record, which is durable.
            return Ok(());
        }
        let before = std::mem::replace(&mut self.keys, keys);
        let result = self.issue(false).await;
        if result.is_err() {
            self.keys = before;
        }
        result
    }

    pub(super) async fn set_friends(&mut self, mut friends: Vec<Friend>, epoch: u64) -> Result<(), StoreError> {
        friends.truncate(MAX_RECORD_FRIENDS);
        friends.iter_mut().for_each(|friend| friend.addrs.truncate(MAX_FRIEND_ADDRS));
        let epoch = epoch.max(self.grant_epoch);
        if friends == self.friends && epoch == self.grant_epoch {
            // They are in our last record, which is durable.
            return Ok(());
        }
        let before = (std::mem::replace(&mut self.friends, friends), std::mem::replace(&mut self.grant_epoch, epoch));
        let result = self.issue(false).await;
        if result.is_err() {
            (self.friends, self.grant_epoch) = before;
        }
        result
    }

    pub(super) fn on_addrs(&mut self, nat: &mut watch::Receiver<net::Nat>) {
        let nat = nat.borrow_and_update();
        let addrs = publishable(&nat.external, &nat.listen);
        let same = self.own.as_ref().is_some_and(|(body, _)| body.addrs == addrs);
        if !same && self.timers.publish.is_none() {
            self.timers.publish = Some(Instant::now() + ADDRS_SETTLE);
        }
    }

    pub(super) fn on_own_newer(&mut self, seen: &mut watch::Receiver<u64>) {
        let higher = *seen.borrow_and_update();
        if higher < self.seq {
            return;
        }
        tracing::warn!(
            seq = higher,
            "met a record of our own that we did not make: a restored backup, or a second node with our key; taking over"
        );
        self.seq = higher;
        self.mirror.met_elsewhere(higher);
        // At once the first time; two running nodes with one key must not make a storm of it.
        let last = self.timers.takeover.replace(Instant::now());
        let at = last.map_or(Instant::now(), |last| last + TAKEOVER_PAUSE);
        self.timers.publish = Some(at);
        self.forced = true;
    }

    pub(super) async fn try_issue(&mut self) {
        if let Err(error) = self.issue(false).await {
            tracing::warn!(%error, "our record could not be written, so it is not published; retrying");
            self.timers.publish = Some(Instant::now() + PUBLISH_RETRY);
        }
    }

    /// Signs the next record, makes it durable, then puts it in the map and has it published.
    pub(super) async fn issue(&mut self, new_name: bool) -> Result<(), StoreError> {
        let now = self.clock.now();
        let (body, record) = self.next_record(now);
        let mut batch = Batch::new();
        store::put_own(&mut batch, &record, *self.mirror.elsewhere().borrow());
        if new_name {
            store::put_name(&mut batch, &self.configured_name, &self.name);
        }
        self.store.commit(batch).await?;
        self.seq = record.seq();
        self.mirror.merge(std::slice::from_ref(&record), Source::Own);
        self.mirror.metrics().published.inc();
        tracing::debug!(seq = record.seq(), addrs = body.addrs.len(), "new record of our own");
        if !body.addrs.is_empty() {
            self.timers.publish = None;
        }
        self.own = Some((body, record));
        self.gossip_due = true;
        let at = Instant::now();
        (self.timers.gossip, self.timers.store) = (at, at);
        self.timers.spread = Some(at + SPREAD_AFTER);
        self.store_backoff.reset();
        self.on_timers(at);
        Ok(())
    }

    pub(super) fn next_record(&self, now: UnixMillis) -> (Body, Record) {
        let seq = self.seq.saturating_add(1).max(now.0);
        let ttl = Duration::from_secs(self.config.record_ttl_s.max(600)).min(MAX_RECORD_VALIDITY);
        let mut body = Body::new(self.mirror.local(), seq, now, now.plus(ttl));
        {
            let nat = self.net.nat();
            let nat = nat.borrow();
            body.addrs = publishable(&nat.external, &nat.listen);
        }
        body.name.clone_from(&self.name);
        body.keys.clone_from(&self.keys);
        body.friends.clone_from(&self.friends);
        body.grant_epoch = self.grant_epoch;
        body.roles.clone_from(&self.roles);
        let mut record = body.seal(&self.identity, &self.network);
        // 16 addrs of the longest kind do not fit. Those of friends are in their own records too; of ours, the last ones
        // matter least.
        while record.envelope().len() > MAX_RECORD_BYTES
            && (body.friends.iter_mut().any(|f| f.addrs.pop().is_some()) || body.addrs.pop().is_some())
        {
            record = body.seal(&self.identity, &self.network);
        }
        (body, record)
    }

    pub(super) async fn on_publish(&mut self, now: Instant) {
        let addrs = {
            let nat = self.net.nat();
            let nat = nat.borrow();
            publishable(&nat.external, &nat.listen)
        };
        if addrs.is_empty() && self.own.is_none() && now - self.timers.started < FIRST_ADDRS {
            self.timers.publish = Some(now + FIRST_PUBLISH);
            return;
        }
        self.timers.publish = None;
        let forced = std::mem::take(&mut self.forced);
        if forced || self.own.as_ref().is_none_or(|(body, _)| body.addrs != addrs) {
            self.try_issue().await;
        }
    }

    pub(super) fn start_gossip(&mut self, now: Instant) {
        let Some((_, record)) = self.own.as_ref().filter(|_| self.gossip_due && !self.gossiping) else { return };
        if now < self.timers.gossip || self.net.peer_count() == 0 {
            return;
        }
        self.gossiping = true;
        self.gossip_due = false;
        self.timers.gossip = now + GOSSIP_RETRY;
        let (publisher, news) = (self.publisher.clone(), News::Record(record.envelope().to_vec()).encode());
        self.jobs.spawn(async move { Done::Gossiped(publisher.publish(news).await) });
    }

    pub(super) fn start_store(&mut self, now: Instant) {
        let Some((body, record)) = self.own.as_ref().filter(|_| !self.storing && now >= self.timers.store) else {
            return;
        };
        self.storing = true;
        let (dht, network) = (self.dht.clone(), self.network.clone());
        let key = record_key(&network, &body.address);
        let (value, ends, name) = (record.envelope().to_vec(), body.expires_at, body.name.clone());
        let before = std::mem::replace(&mut self.provided, name.clone());
        self.timers.store = now + jitter(Duration::from_secs(self.config.dht_interval_s.max(60)));
        self.jobs.spawn(async move {
            if before != name && !before.is_empty() {
                // What others hold of the old name ends by itself.
                let _: Result<(), DhtError> = dht.unprovide(name_key(&network, &before)).await;
            }
            let stored = dht.put(key, value, ends).await.is_ok();
            let provided = name.is_empty() || dht.provide(name_key(&network, &name)).await.is_ok();
            Done::Stored(stored && provided)
        });
    }

    pub(super) async fn goodbye(&mut self) {
        let Some((body, _)) = &self.own else { return };
        let departure = Departure::seal(&self.identity, &self.network, body.seq, self.clock.now());
        let publish = self.publisher.publish(News::Departure(departure).encode());
        match tokio::time::timeout(GOODBYE, publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "nobody was told that we leave"),
            Err(_) => tracing::debug!("no time to tell that we leave"),
        }
    }
}
