//! What the actor's tasks do: one request to a recipient, and sealing a message again.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    message::{
        envelope::wire_of_stored,
        outbox::{Answer, Header, Item},
        receipt,
        recipients::choose,
        shared::Shared,
        store::Tables,
        wire::{self, BATCH_PARTS, Code, Deliver},
    },
    net::rpc,
    primitives::PeerId,
    store::Batch,
};

/// Sealings of one message that are remembered, the first one always.
const IDS: usize = 16;

/// One request: reads what is not at hand, asks, checks the receipt. Nothing is asked when parts cannot be read: those are the error.
pub(super) async fn deliver(
    shared: Arc<Shared>,
    client: rpc::Client<Deliver>,
    peer: PeerId,
    items: Vec<Item>,
    cached: Vec<Option<Bytes>>,
) -> Result<Answer, Vec<Item>> {
    let parts = if cached.iter().all(Option::is_some) {
        cached.into_iter().flatten().collect()
    } else {
        let tables = shared.tables.clone();
        let read = move || -> Result<Vec<Bytes>, Vec<Item>> {
            let (mut parts, mut damaged) = (Vec::with_capacity(items.len()), Vec::new());
            for ((seq, index), cached) in items.into_iter().zip(cached) {
                let read = || match tables.out_part(seq, index) {
                    Ok(stored) => stored.as_ref().and_then(wire_of_stored),
                    Err(error) => {
                        tracing::error!(%error, seq, index, "cannot read a part of an outgoing message");
                        None
                    }
                };
                match cached.or_else(read) {
                    Some(wire) => parts.push(wire),
                    None => damaged.push((seq, index)),
                }
            }
            if damaged.is_empty() { Ok(parts) } else { Err(damaged) }
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(read) => read?,
            Err(_) => return Ok(Err("the node is stopping".to_owned())),
        }
    };
    Ok(ask(&shared, &client, peer, &parts).await)
}

async fn ask(shared: &Shared, client: &rpc::Client<Deliver>, peer: PeerId, parts: &[Bytes]) -> Answer {
    let asked = parts.len();
    let bytes: usize = parts.iter().map(Bytes::len).sum();
    shared.metrics.batches_out.inc();
    shared.metrics.bytes_out.inc_by(bytes as u64); // usize fits in u64
    let answer = client.request_encoded(peer, &wire::pieces(parts)).await.map_err(|e| e.to_string())?;
    let (codes, receipt) = wire::answered(answer, asked).ok_or("the recipient's answer is malformed")?;
    let entries = receipt.and_then(|r| receipt::verify(&peer, &shared.receipts, &r, BATCH_PARTS));
    Ok((codes, entries.unwrap_or_default()))
}

/// Seals all parts of a message again for the key that the recipient offers now; durable when this returns.
pub(super) async fn reseal(shared: &Arc<Shared>, mut header: Header) -> Result<Header, String> {
    let keys = shared.recipients.keys(header.to).await.map_err(|e| e.to_string())?;
    let key = choose(&keys, shared.now()).filter(|k| k.id != header.key_id);
    let key = key.ok_or_else(|| Code::NeedReseal.text().to_owned())?;
    let worker = shared.clone();
    let seal = move || -> Result<(Header, Batch), String> {
        let mut batch = Batch::new();
        let session = worker.sessions.get(worker.envelopes.context(), header.to, key).map_err(|e| e.to_string())?;
        let mut session = session.lock().expect("no panic while held");
        header.sealed_bytes = 0;
        for index in 0..header.parts {
            let stored = worker.tables.out_part(header.seq, index).map_err(|e| e.to_string())?;
            let stored = stored.ok_or("a part is missing in the store")?;
            let opened = worker.envelopes.reopen(&header.to, &stored);
            let mut inner = opened.map_err(|_| "a part is damaged in the store".to_owned())?;
            inner.key_id = key.id;
            let part = worker.envelopes.seal(&mut session, &inner).map_err(|e| e.to_string())?;
            header.sealed_bytes += part.wire().len() as u64; // usize fits in u64
            if index == 0 {
                header.ids.push(part.id);
            }
            Tables::put_out_part(&mut batch, header.seq, index, part.stored());
        }
        if header.ids.len() > IDS {
            header.ids.remove(1);
        }
        header.key_id = key.id;
        Tables::put_header(&mut batch, &header);
        Ok((header, batch))
    };
    let sealed = tokio::task::spawn_blocking(seal).await.map_err(|_| "the node is stopping".to_owned())?;
    let (header, batch) = sealed?;
    shared.tables.store.commit(batch).await.map_err(|e| e.to_string())?;
    Ok(header)
}
