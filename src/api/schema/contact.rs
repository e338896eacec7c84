//! Shapes of contacts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    message::contacts::{self, Book, Origin},
    primitives::PeerId,
};

/// Nodes that may leave messages with friends of this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Contacts {
    /// By address.
    pub contacts: Vec<Contact>,
}

impl From<&Book> for Contacts {
    fn from(book: &Book) -> Self {
        Self { contacts: book.contacts.iter().map(|(address, contact)| Contact::new(address, contact)).collect() }
    }
}

/// One contact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Contact {
    /// The node.
    pub address: String,
    /// `added` by hand, or `written`: a message was sent to it.
    pub origin: String,
    /// Since when.
    pub since_at: u64,
}

impl Contact {
    /// Of the book's entry.
    #[must_use]
    pub fn new(address: &PeerId, contact: &contacts::Contact) -> Self {
        let origin = match contact.origin {
            Origin::Added => "added",
            Origin::Written => "written",
        };
        Self { address: address.to_string(), origin: origin.to_owned(), since_at: contact.since.0 }
    }
}

/// Whom to add.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddContact {
    /// Address or name.
    pub target: String,
}
