//! `vos mailbox`.

use clap::Subcommand;

use super::super::{
    Context, after_help,
    exit::CliError,
    output::{Output, ago, size},
};
use crate::api::schema::{CollectedFrom, HeldFor, MailboxStats};

/// Arguments.
#[derive(Debug, Subcommand)]
pub enum Mailbox {
    /// Show what is held here for each owner against its quota, and when mail was last collected from each friend.
    #[command(after_help = after_help!("vos mailbox stats", "vos mailbox stats --json | jq .bytes"))]
    Stats,
}

pub(super) async fn run(context: &Context, args: Mailbox) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    match args {
        Mailbox::Stats => {
            let stats: MailboxStats = client.get("/v1/mailbox").await?;
            out.show(&stats, |stats| text(out, stats))
        }
    }
}

fn text(out: Output, stats: &MailboxStats) -> String {
    let held = |held: &HeldFor| {
        [
            held.address.clone(),
            held.mailbox.clone(),
            format!("{} of {}", held.messages, held.quota_msgs),
            format!("{} of {}", size(held.bytes), size(held.quota_bytes)),
            held.last_seq.to_string(),
            held.refused.to_string(),
        ]
    };
    let collected = |from: &CollectedFrom| {
        let refused: u64 = from.refused.iter().map(|refused| refused.count).sum();
        [
            from.address.clone(),
            from.collected_at.map_or("not yet".into(), ago),
            from.last_seq.to_string(),
            from.contacts.to_string(),
            refused.to_string(),
            from.last_error.clone(),
        ]
    };
    let holding: Vec<_> = stats.holding_for.iter().map(held).collect();
    let friends: Vec<_> = stats.held_by.iter().map(collected).collect();
    [
        format!("held here for others: {} parts, {}", stats.messages, size(stats.bytes)),
        out.table(["OWNER", "STATE", "PARTS", "BYTES", "LAST NUMBER", "REFUSED"], &holding),
        "\nheld by friends for this node:".to_owned(),
        out.table(["FRIEND", "COLLECTED", "LAST NUMBER", "CONTACTS", "REFUSED", "NOTE"], &friends),
    ]
    .join("\n")
}
