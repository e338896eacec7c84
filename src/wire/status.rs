//! The status byte that starts every response: an answer, never silence.

/// How a request ended at the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Status {
    /// Done; the response follows.
    Ok,
    /// Too much to do now; try again later.
    Busy,
    /// Not allowed, by policy or ban.
    Refused,
    /// No such thing.
    NotFound,
    /// The request makes no sense; do not repeat it.
    Invalid,
    /// The other side failed, for instance its disk.
    Failed,
}

impl Status {
    /// The byte on the wire.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Busy => 1,
            Self::Refused => 2,
            Self::NotFound => 3,
            Self::Invalid => 4,
            Self::Failed => 5,
        }
    }

    /// From the wire; a byte of a later version counts as [`Status::Failed`].
    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Ok,
            1 => Self::Busy,
            2 => Self::Refused,
            3 => Self::NotFound,
            4 => Self::Invalid,
            _ => Self::Failed,
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::NotFound => "not found",
            Self::Invalid => "invalid request",
            Self::Failed => "failed at the other side",
        })
    }
}
