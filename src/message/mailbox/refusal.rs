//! Why a holder refuses something: each reason has its own code on the wire and its own text for the sender's user.

/// Why a deposit, or another request, was refused. Each has its own code and text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Refusal {
    /// There is no such grant.
    NotFriend,
    /// The grant is past its time.
    GrantExpired,
    /// The grant was revoked or has ended.
    Revoked,
    /// The grant is ending: nothing new is taken.
    Draining,
    /// The owner's quota is full.
    QuotaOwner,
    /// This contact's quota, or the open share, is full.
    QuotaContact,
    /// Larger than agreed; the limit in bytes.
    TooLarge(u64),
    /// To be kept for longer than agreed; the limit in seconds.
    TtlTooLong(u64),
    /// The deposit key is not registered, or its signature is wrong.
    BadAuth,
    /// Work of so many bits is needed.
    NeedPow(u64),
    /// Too much from this peer; try again after so many milliseconds.
    Rate(u64),
    /// The id is not the one of the sealed bytes.
    IdMismatch,
    /// The owner has it already.
    AlreadyDelivered,
    /// The holder has no room.
    DiskFull,
    /// Too much to do now.
    Busy,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFriend => f.write_str("it keeps nothing for this recipient"),
            Self::GrantExpired => f.write_str("its friendship with the recipient has expired"),
            Self::Revoked => f.write_str("its friendship with the recipient was revoked"),
            Self::Draining => f.write_str("its friendship with the recipient is ending"),
            Self::QuotaOwner => f.write_str("the recipient's mailbox is full"),
            Self::QuotaContact => f.write_str("our share of the recipient's mailbox is full"),
            Self::TooLarge(max) => write!(f, "larger than the {max} bytes it keeps"),
            Self::TtlTooLong(max) => write!(f, "to be kept for longer than the {max} s it keeps messages"),
            Self::BadAuth => f.write_str("the recipient has not allowed us to leave messages"),
            Self::NeedPow(bits) => write!(f, "proof of work of {bits} bits is needed"),
            Self::Rate(ms) => write!(f, "too much at once: again in {ms} ms"),
            Self::IdMismatch => f.write_str("the id is not that of the sealed bytes"),
            Self::AlreadyDelivered => f.write_str("the recipient has it already"),
            Self::DiskFull => f.write_str("it has no room left"),
            Self::Busy => f.write_str("it is busy"),
        }
    }
}

impl Refusal {
    /// The code on the wire and its number; codes never change.
    pub(super) fn to_wire(self) -> (u32, u64) {
        match self {
            Self::NotFriend => (1, 0),
            Self::GrantExpired => (2, 0),
            Self::Revoked => (3, 0),
            Self::Draining => (4, 0),
            Self::QuotaOwner => (5, 0),
            Self::QuotaContact => (6, 0),
            Self::TooLarge(max) => (7, max),
            Self::TtlTooLong(max) => (8, max),
            Self::BadAuth => (9, 0),
            Self::NeedPow(bits) => (10, bits),
            Self::Rate(ms) => (11, ms),
            Self::IdMismatch => (12, 0),
            Self::AlreadyDelivered => (13, 0),
            Self::DiskFull => (14, 0),
            Self::Busy => (15, 0),
        }
    }

    /// The code alone, as markers have it.
    pub(super) fn code(self) -> u8 {
        u8::try_from(self.to_wire().0).unwrap_or(0)
    }

    /// Codes of later versions count as [`Refusal::Busy`]: try again later.
    pub(super) fn from_wire(code: u32, number: u64) -> Self {
        match code {
            1 => Self::NotFriend,
            2 => Self::GrantExpired,
            3 => Self::Revoked,
            4 => Self::Draining,
            5 => Self::QuotaOwner,
            6 => Self::QuotaContact,
            7 => Self::TooLarge(number),
            8 => Self::TtlTooLong(number),
            9 => Self::BadAuth,
            10 => Self::NeedPow(number),
            11 => Self::Rate(number),
            12 => Self::IdMismatch,
            13 => Self::AlreadyDelivered,
            14 => Self::DiskFull,
            _ => Self::Busy,
        }
    }
}
