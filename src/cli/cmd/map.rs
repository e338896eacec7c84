//! `vos map`.

use clap::{Subcommand, builder::NonEmptyStringValueParser};

use super::{
    super::{
        Context, after_help, encode,
        exit::CliError,
        output::{Output, ago, escape, state_name},
    },
    events::follow,
};
use crate::api::{
    Client,
    schema::{Event, Record, Records},
};

/// Arguments.
#[derive(Debug, Subcommand)]
pub enum Map {
    /// List every node of the map.
    #[command(after_help = after_help!("vos map ls", "vos map ls --json"))]
    Ls,
    /// Show a node, or all nodes that have a name.
    #[command(after_help = after_help!("vos map get 12D3KooW...", "vos map get bob --json"))]
    Get {
        /// The node.
        #[arg(value_name = "ADDRESS_OR_NAME", value_parser = NonEmptyStringValueParser::new())]
        target: String,
    },
    /// Print changes of the map until Ctrl-C; JSON lines with --json.
    #[command(after_help = after_help!("vos map watch", "vos map watch --json"))]
    Watch,
}

pub(super) async fn run(context: &Context, args: Map) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    match args {
        Map::Ls => {
            let records = all(&client).await?;
            out.show(&records, |records| table(out, &records.records))
        }
        Map::Get { target } => {
            let records: Records = client.get(&format!("/v1/map/{}", encode(&target))).await?;
            out.show(&records, |records| {
                let details: Vec<_> = records.records.iter().map(|record| detail(out, record)).collect();
                details.join("\n\n")
            })
        }
        Map::Watch => follow(context, line).await,
    }
}

/// Every page as one list.
async fn all(client: &Client) -> Result<Records, CliError> {
    let mut records: Records = client.get("/v1/map").await?;
    while let Some(after) = records.next.take() {
        let page: Records = client.get(&format!("/v1/map?after={}", encode(&after))).await?;
        // A page that goes nowhere would be asked for again and again.
        let moved = page.records.last().is_some_and(|last| last.address != after);
        records.records.extend(page.records);
        records.next = page.next.filter(|_| moved);
    }
    Ok(records)
}

fn table(out: Output, records: &[Record]) -> String {
    let row = |r: &Record| {
        [
            r.address.clone(),
            r.name.clone(),
            state_name(r.state).to_owned(),
            r.last_seen_at.map_or("never".into(), ago),
            r.seq.to_string(),
            r.roles.join(","),
            r.addrs.first().cloned().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = records.iter().map(row).collect();
    out.table(["ADDRESS", "NAME", "STATE", "SEEN", "SEQ", "ROLES", "ADDR"], &rows)
}

fn detail(out: Output, record: &Record) -> String {
    let mut fields = vec![
        ("address", record.address.clone()),
        ("name", record.name.clone()),
        ("state", state_name(record.state).to_owned()),
        ("seen", record.last_seen_at.map_or("never".into(), ago)),
    ];
    fields.extend(record.addrs.iter().map(|addr| ("addr", addr.clone())));
    fields.extend(record.roles.iter().map(|role| ("role", role.clone())));
    fields.extend(record.friends.iter().map(|friend| ("friend", friend.clone())));
    fields.extend(record.encryption_key_ids.iter().map(|key| ("key", key.clone())));
    fields.push(("source", record.source.clone()));
    fields.push(("seq", record.seq.to_string()));
    fields.push(("signed", ago(record.issued_at)));
    if record.equivocation.is_some() {
        fields.push((
            "warning",
            "signed two records with one number: its key was copied, or it lies; --json shows both".to_owned(),
        ));
    }
    out.fields(&fields)
}

fn line(event: &Event) -> Option<String> {
    match event {
        Event::MapChanged { address, change, record } => {
            let name = record.as_ref().map_or("", |r| &r.name);
            Some(format!("{change} {address} {}", escape(name)).trim_end().to_owned())
        }
        Event::Presence { address, state } => Some(format!("{} {address}", state_name(*state))),
        Event::Lagged { source, lost } if source == "map" => Some(format!("lagged: {lost} changes were lost")),
        _ => None,
    }
}
