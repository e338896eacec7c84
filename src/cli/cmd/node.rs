//! `vos id`, `vos status`, `vos name`.

use std::time::Duration;

use super::super::{
    Context,
    exit::CliError,
    output::{short, size},
};
use crate::api::schema;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Name {
    /// The new name: at most 64 bytes, no control characters; empty for none.
    #[arg(value_name = "NEW")]
    name: String,
}

pub(super) async fn id(context: &Context) -> Result<(), CliError> {
    let id: schema::Id = context.client()?.get("/v1/id").await?;
    context.out.show(&id, |id| {
        context.out.fields(&[
            ("address", id.address.clone()),
            ("public key", id.public_key.clone()),
            ("encryption key", id.encryption_key_id.clone()),
        ])
    })
}

pub(super) async fn status(context: &Context) -> Result<(), CliError> {
    let status: schema::Status = context.client()?.get("/v1/status").await?;
    context.out.show(&status, |s| {
        let complete = if s.map.complete { "complete" } else { "not complete" };
        let reachability = serde_json::to_value(s.nat.reachability).ok();
        let free = s.disk.free_bytes.map_or(String::new(), |free| format!(", {} free", size(free)));
        let mut fields = vec![
            ("address", s.address.clone()),
            ("name", s.name.clone()),
            ("network", s.network.clone()),
            ("version", s.version.clone()),
            ("state", if s.ready { "ready".into() } else { "starting".into() }),
            ("up", short(Duration::from_secs(s.uptime_s))),
        ];
        fields.extend(s.listen.iter().map(|addr| ("listen", addr.clone())));
        fields.extend(s.external.iter().map(|addr| ("external", addr.clone())));
        fields.extend([
            ("http", s.http.clone().unwrap_or("off".into())),
            ("peers", s.peers.to_string()),
            ("map", format!("{} records, {complete}", s.map.records)),
            ("reachable", reachability.and_then(|r| r.as_str().map(ToOwned::to_owned)).unwrap_or_default()),
            ("chain", s.block.as_ref().map_or("off".into(), chain)),
            ("outbox", format!("{} pending", s.messages.outbox_pending)),
            ("inbox", format!("{} messages, {} unread", s.messages.inbox, s.messages.unread)),
            ("disk", format!("{}{free}", size(s.disk.store_bytes))),
        ]);
        context.out.fields(&fields)
    })
}

/// Where the chain stands, and what is wrong with it.
fn chain(block: &schema::BlockHead) -> String {
    let wrong = block.halted.clone().or_else(|| super::block::split(block));
    let wrong = wrong.map_or(String::new(), |why| format!(": {why}"));
    format!("height {}, {} committed, {}{wrong}", block.head.height, block.committed.height, block.state)
}

pub(super) async fn name(context: &Context, args: Name) -> Result<(), CliError> {
    let name: schema::Name = context.client()?.put("/v1/name", &schema::Name { name: args.name }).await?;
    context.out.show(&name, |name| context.out.fields(&[("name", name.name.clone())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_chain_says_what_is_wrong_with_it() {
        let mut block: schema::BlockHead = serde_json::from_value(serde_json::json!({
            "head": { "height": 20, "hash": "ab" }, "head_at": 0, "committed": { "height": 8, "hash": "cd" },
            "state": "synced", "genesis": "ef", "earliest": 1, "peers": 5, "clock_offset_ms": null,
        }))
        .unwrap();
        assert_eq!(chain(&block), "height 20, 8 committed, synced");
        block.conflicting_peers = 2;
        let alarm = "2 of 5 peers are on a branch that contradicts what is final here";
        assert_eq!(chain(&block), format!("height 20, 8 committed, synced: {alarm}"));
        (block.state, block.halted) = ("halted".into(), Some("3 of 5 peers have another chain".into()));
        assert_eq!(chain(&block), "height 20, 8 committed, halted: 3 of 5 peers have another chain");
    }
}
