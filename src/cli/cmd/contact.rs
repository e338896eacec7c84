//! `vos contact`.

use std::time::Duration;

use clap::{Subcommand, builder::NonEmptyStringValueParser};

use super::super::{
    Context, after_help, encode,
    exit::CliError,
    output::{Output, ago},
};
use crate::api::schema::{AddContact, Contact as Shown, Contacts};

/// Arguments.
#[derive(Debug, Subcommand)]
pub enum Contact {
    /// Let a node leave messages with friends of this node. Whoever this node writes to is let in by itself.
    #[command(after_help = after_help!("vos contact add alice", "vos contact add 12D3KooW..."))]
    Add {
        /// Whom.
        #[arg(value_name = "ADDRESS_OR_NAME", value_parser = NonEmptyStringValueParser::new())]
        target: String,
    },
    /// Shut a node out: it cannot leave messages with friends of this node until it is added again.
    #[command(after_help = after_help!("vos contact rm alice"))]
    Rm {
        /// Whom.
        #[arg(value_name = "ADDRESS_OR_NAME", value_parser = NonEmptyStringValueParser::new())]
        target: String,
    },
    /// List who may leave messages.
    #[command(after_help = after_help!("vos contact ls", "vos contact ls --json"))]
    Ls,
}

pub(super) async fn run(context: &Context, args: Contact) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    match args {
        Contact::Add { target } => {
            let contact: Shown = client.post("/v1/contacts", &AddContact { target }, Duration::ZERO).await?;
            out.show(&contact, |contact| contact.address.clone())
        }
        Contact::Rm { target } => {
            let rest: Contacts = client.delete(&format!("/v1/contacts/{}", encode(&target)), None::<&()>).await?;
            out.show(&rest, |rest| table(out, rest))
        }
        Contact::Ls => {
            let contacts: Contacts = client.get("/v1/contacts").await?;
            out.show(&contacts, |contacts| table(out, contacts))
        }
    }
}

fn table(out: Output, contacts: &Contacts) -> String {
    let row = |contact: &Shown| [contact.address.clone(), contact.origin.clone(), ago(contact.since_at)];
    out.table(["ADDRESS", "ORIGIN", "SINCE"], &contacts.contacts.iter().map(row).collect::<Vec<_>>())
}
