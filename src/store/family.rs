//! The column families: one per access pattern.

/// Where a key lives. The name is the column family's name on disk: it never changes once released.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Family {
    /// Layout version, our record's last sequence number, the encryption keyring, small state of the node.
    Meta,
    /// Map records by address.
    Map,
    /// Kademlia records by key hash.
    Dht,
    /// Outgoing messages: header and history by id, and the queue by recipient.
    Outbox,
    /// Small bodies of outgoing messages, in parts, and large ones that were sealed again.
    OutboxBody,
    /// Received messages' headers, by arrival and by id.
    Inbox,
    /// Small bodies of received messages, in parts.
    InboxBody,
    /// Which messages were seen: what makes delivery happen once.
    Seen,
    /// Friend VOS: grants that hold and those that ended.
    Friend,
    /// What we hold for the owners whose friend we are: queues, grants, tombstones; and receipts that we owe.
    Mailbox,
    /// Sealed parts that we hold for others.
    MailboxBody,
    /// The chain: headers by hash, the best chain by height, candidates and where it stands.
    Block,
    /// Bodies of blocks that are not final, but those in packs: nearly all of them go soon.
    BlockFresh,
    /// Bodies of final blocks that are in no pack: they stay.
    BlockBody,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 14] = [
        Self::Meta,
        Self::Map,
        Self::Dht,
        Self::Outbox,
        Self::OutboxBody,
        Self::Inbox,
        Self::InboxBody,
        Self::Seen,
        Self::Friend,
        Self::Mailbox,
        Self::MailboxBody,
        Self::Block,
        Self::BlockFresh,
        Self::BlockBody,
    ];

    /// The name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Map => "map",
            Self::Dht => "dht",
            Self::Outbox => "outbox",
            Self::OutboxBody => "outbox_body",
            Self::Inbox => "inbox",
            Self::InboxBody => "inbox_body",
            Self::Seen => "seen",
            Self::Friend => "friend",
            Self::Mailbox => "mailbox",
            Self::MailboxBody => "mailbox_body",
            Self::Block => "block",
            Self::BlockFresh => "block_fresh",
            Self::BlockBody => "block_body",
        }
    }

    /// Whether values are bodies, those of some KiB kept in blob files so that compaction does not copy them.
    pub(super) fn holds_bodies(self) -> bool {
        matches!(self, Self::OutboxBody | Self::InboxBody | Self::MailboxBody | Self::BlockFresh | Self::BlockBody)
    }

    /// Whether compaction copies what is left in old blob files to new ones, so that what was deleted from them gives its room back. It copies
    /// whatever it meets in the oldest quarter of them, deleted or not. Bodies of blocks have keys in no order, so each compaction meets
    /// all of them, and would copy a quarter of the chain; and either all of a file goes soon, or all of it stays.
    pub(super) fn collects_bodies(self) -> bool {
        !matches!(self, Self::BlockFresh | Self::BlockBody)
    }
}
