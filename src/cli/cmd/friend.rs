//! `vos friend`.

use std::time::Duration;

use clap::{Subcommand, ValueEnum, builder::NonEmptyStringValueParser};

use super::{
    super::{
        Context, after_help, encode,
        exit::{CliError, Exit},
        output::{Output, ago, short, size},
    },
    millis, seconds,
};
use crate::{
    api::schema::{
        AcceptFriend, DeclineFriend, Evidence, Friend as Shown, Friends, ListedFriends, OfferFriend, RevokeFriend,
        WantedTerms,
    },
    message::friend::{POLICY_CONTACTS, POLICY_CONTACTS_POW, POLICY_OPEN_POW},
    primitives::{Clock, SystemClock, UnixMillis},
};

/// Arguments.
#[derive(Debug, Subcommand)]
pub enum Friend {
    /// Ask a node to hold messages for this one, or offer other limits to one that does. It is renewed by itself.
    #[command(after_help = after_help!(
        "vos friend offer bob",
        "vos friend offer 12D3KooW... --quota 16MiB --expires 30d --wait --timeout 3600",
        "vos friend offer bob --policy work --open-share 10",
    ))]
    Offer {
        /// Whom to ask.
        #[arg(value_name = "ADDRESS_OR_NAME", value_parser = NonEmptyStringValueParser::new())]
        to: String,
        #[command(flatten)]
        limits: Limits,
        /// How long the grant is valid before it has to be renewed, which happens by itself; at most 90d [default:
        /// 90d].
        #[arg(long, value_name = "D", value_parser = duration)]
        expires: Option<Duration>,
        /// Senders ask friends with a smaller number first.
        #[arg(long, value_name = "N", default_value_t = 0)]
        priority: u32,
        /// Wait for the answer: exit status 0 accepted, 7 declined, 6 not answered in time.
        #[arg(long)]
        wait: bool,
        /// How long to wait, in seconds.
        #[arg(long, value_name = "S", default_value = "60", value_parser = seconds)]
        timeout: Duration,
    },
    /// Accept an offer: hold messages for that node from now on. Limits can be lower than offered.
    #[command(after_help = after_help!("vos friend accept alice", "vos friend accept 12D3KooW... --quota 16MiB"))]
    Accept {
        /// Whose offer.
        #[arg(value_name = "ADDRESS_OR_ID", value_parser = NonEmptyStringValueParser::new())]
        target: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Decline an offer.
    #[command(after_help = after_help!("vos friend decline alice"))]
    Decline {
        /// Whose offer.
        #[arg(value_name = "ADDRESS_OR_ID", value_parser = NonEmptyStringValueParser::new())]
        target: String,
    },
    /// End a friendship, from either side: nothing new is held from now on; what is held can be collected for 7 days.
    #[command(after_help = after_help!("vos friend revoke bob", "vos friend revoke bob --side held-by --drain 1d"))]
    Revoke {
        /// With whom.
        #[arg(value_name = "ADDRESS_OR_ID", value_parser = NonEmptyStringValueParser::new())]
        target: String,
        /// Which one, when each of the two nodes holds messages for the other.
        #[arg(long, value_enum, value_name = "SIDE")]
        side: Option<SideArg>,
        /// How long what is held can be collected, at most 30d; at least 7d when this node holds it [default: 7d].
        #[arg(long, value_name = "D", value_parser = duration)]
        drain: Option<Duration>,
    },
    /// List nodes that hold messages for this one, and nodes for which it holds messages.
    #[command(after_help = after_help!("vos friend ls", "vos friend ls --json"))]
    Ls,
    /// Show all about the friendships with a node.
    #[command(after_help = after_help!("vos friend show bob", "vos friend show bob --json"))]
    Show {
        /// With whom.
        #[arg(value_name = "ADDRESS_OR_ID", value_parser = NonEmptyStringValueParser::new())]
        target: String,
    },
    /// Show how friends keep their promises: what was checked, and for each broken promise what the friend signed, what it
    /// answered later, and whether both signatures are good. Exit status 1 when a promise was broken.
    #[command(after_help = after_help!("vos friend evidence", "vos friend evidence bob", "vos friend evidence bob --json"))]
    Evidence {
        /// Of whom [default: all friends that were ever checked].
        #[arg(value_name = "ADDRESS_OR_ID", value_parser = NonEmptyStringValueParser::new())]
        friend: Option<String>,
    },
    /// Show the friends that any node's record lists; with --verify fetch each grant and check both signatures.
    #[command(after_help = after_help!("vos friend of alice", "vos friend of alice --verify --json"))]
    Of {
        /// Whose friends.
        #[arg(value_name = "ADDRESS_OR_NAME", value_parser = NonEmptyStringValueParser::new())]
        owner: String,
        /// Fetch and verify the grants: exit status 1 when one is bad.
        #[arg(long)]
        verify: bool,
    },
}

/// Limits of what is held.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Limits {
    /// Bytes of all messages, e.g. 64MiB [default: 64MiB, or as offered].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    quota: Option<u64>,
    /// Messages [default: 4096, or as offered].
    #[arg(long, value_name = "N")]
    messages: Option<u32>,
    /// Bytes of one message, sealed [default: 257KiB, or as offered].
    #[arg(long, value_name = "BYTES", value_parser = bytes_of_message)]
    max_message: Option<u32>,
    /// Longest time that a message is kept, at most 30d [default: 14d, or as offered].
    #[arg(long, value_name = "D", value_parser = duration)]
    ttl: Option<Duration>,
    /// Messages of one contact [default: 256, or as offered].
    #[arg(long, value_name = "N")]
    contact_messages: Option<u32>,
    /// Bytes that one contact may leave in a day [default: 16MiB, or as offered].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    contact_day: Option<u64>,
    /// Part of the quota for others than contacts, in percent [default: 5, or as offered].
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    open_share: Option<u32>,
    /// Who may leave messages [default: contacts, or as offered].
    #[arg(long, value_enum, value_name = "WHO")]
    policy: Option<Policy>,
}

/// Who may leave messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Policy {
    /// Contacts: `vos contact`.
    Contacts,
    /// Contacts, and others who pay with proof of work, within the open share.
    Work,
    /// Everybody who pays with proof of work.
    Open,
}

impl Policy {
    fn number(self) -> u32 {
        match self {
            Self::Contacts => POLICY_CONTACTS,
            Self::Work => POLICY_CONTACTS_POW,
            Self::Open => POLICY_OPEN_POW,
        }
    }
}

impl Limits {
    fn wanted(self) -> WantedTerms {
        WantedTerms {
            quota_bytes: self.quota,
            quota_msgs: self.messages,
            max_msg_bytes: self.max_message,
            // More than 30 days are refused by the daemon, so nothing is lost.
            max_ttl_s: self.ttl.map(|ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)),
            per_contact_msgs: self.contact_messages,
            per_contact_day_bytes: self.contact_day,
            open_share_percent: self.open_share,
            policy: self.policy.map(Policy::number),
        }
    }
}

/// Which of two friendships.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SideArg {
    /// The other node holds messages for this one.
    HeldBy,
    /// This node holds messages for the other one.
    HoldingFor,
}

/// A time such as `14d` or `12h`.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; write for instance 14d or 12h"))
}

/// Bytes such as `1000`, `64KiB`, `16MiB` or `2GiB`.
fn bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match text[end..].trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err("not a number of bytes; write for instance 1000, 64KiB or 16MiB".into()),
    };
    let number: u64 = text[..end].parse().map_err(|_| "not a number of bytes".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too many bytes".to_owned())
}

fn bytes_of_message(text: &str) -> Result<u32, String> {
    u32::try_from(bytes(text)?).map_err(|_| "more than 4 GiB".to_owned())
}

pub(super) async fn run(context: &Context, args: Friend) -> Result<(), CliError> {
    let (client, out) = (context.client()?, context.out);
    let time = Duration::ZERO;
    match args {
        Friend::Offer { to, limits, expires, priority, wait, timeout } => {
            let terms = limits.wanted();
            let wait_ms = if wait { millis(timeout) } else { 0 };
            let valid_s = expires.map(|d| d.as_secs());
            let asked = OfferFriend { to, terms, valid_s, priority, wait_ms };
            let time = if wait { timeout } else { time };
            let friend: Shown = client.post("/v1/friends/offer", &asked, time).await?;
            if wait {
                answered(&friend, timeout)?;
            }
            out.show(&friend, one_line)
        }
        Friend::Accept { target, limits } => {
            let asked = AcceptFriend { target, terms: limits.wanted() };
            let friend: Shown = client.post("/v1/friends/accept", &asked, time).await?;
            out.show(&friend, one_line)
        }
        Friend::Decline { target } => {
            let friend: Shown = client.post("/v1/friends/decline", &DeclineFriend { target }, time).await?;
            out.show(&friend, one_line)
        }
        Friend::Revoke { target, side, drain } => {
            let side = side.map(|side| if side == SideArg::HeldBy { "held_by" } else { "holding_for" }.to_owned());
            let asked = RevokeFriend { target, side, drain_s: drain.map(|d| d.as_secs()) };
            let friend: Shown = client.post("/v1/friends/revoke", &asked, time).await?;
            out.show(&friend, one_line)
        }
        Friend::Ls => {
            let friends: Friends = client.get("/v1/friends").await?;
            out.show(&friends, |friends| table(out, friends))
        }
        Friend::Show { target } => {
            let path = format!("/v1/friends/with/{}", encode(&target));
            let friends: Friends = client.get(&path).await?;
            out.show(&friends, |f| {
                let all = f.held_by.iter().chain(&f.holding_for).map(|friend| detail(out, friend));
                all.collect::<Vec<_>>().join("\n\n")
            })
        }
        Friend::Evidence { friend } => {
            let path = friend.map_or("/v1/friends/evidence".into(), |friend| {
                format!("/v1/friends/evidence?friend={}", encode(&friend))
            });
            let evidence: Evidence = client.get(&path).await?;
            super::evidence::show(out, &evidence)
        }
        Friend::Of { owner, verify } => {
            let listed: ListedFriends =
                client.get(&format!("/v1/friends/of/{}?verify={verify}", encode(&owner))).await?;
            out.show(&listed, |listed| listed_table(out, listed))?;
            let bad = listed.friends.iter().any(|f| f.verified == Some(false));
            if bad { Err(CliError::silent(Exit::Failed)) } else { Ok(()) }
        }
    }
}

/// Whether the other node said yes.
fn answered(friend: &Shown, timeout: Duration) -> Result<(), CliError> {
    let failed = |exit, code: &str, message: String| {
        Err(CliError::new(exit, code, message).with("grant_id", &friend.grant_id).with("state", &friend.state))
    };
    if friend.offered.is_some() {
        let why = if friend.last_error.is_empty() { String::new() } else { format!(" ({})", friend.last_error) };
        let text = format!(
            "{} has not answered after {} s{why}; the offer stays: `vos friend ls`",
            friend.address,
            timeout.as_secs_f64()
        );
        return failed(Exit::TimedOut, "timed_out", text);
    }
    match friend.state.as_str() {
        "active" if friend.reason.is_empty() => Ok(()),
        "active" => {
            failed(Exit::Refused, "declined", format!("other limits were {}; the old ones hold", friend.reason))
        }
        "declined" => failed(Exit::Refused, "declined", friend.reason.clone()),
        state => failed(Exit::Refused, state, format!("the offer is {state}: {}", friend.reason)),
    }
}

fn one_line(friend: &Shown) -> String {
    format!("{} {} {}", friend.state, friend.grant_id, friend.address)
}

fn until(at: u64) -> String {
    let now = SystemClock.now();
    if UnixMillis(at) <= now { ago(at) } else { format!("in {}", short(UnixMillis(at).since(now))) }
}

fn used(friend: &Shown) -> String {
    friend.used_bytes.map_or("-".into(), size)
}

fn table(out: Output, friends: &Friends) -> String {
    let row = |f: &Shown| {
        let who = if f.side == "held_by" { "holds for us" } else { "we hold for it" };
        let note = if f.last_error.is_empty() { f.reason.clone() } else { f.last_error.clone() };
        [
            f.address.clone(),
            who.to_owned(),
            f.state.clone(),
            f.grant_id.clone(),
            until(f.expires_at),
            size(f.quota_bytes),
            used(f),
            super::evidence::score(f.score, &f.promises),
            note,
        ]
    };
    let rows: Vec<_> = friends.held_by.iter().chain(&friends.holding_for).map(row).collect();
    out.table(["ADDRESS", "SIDE", "STATE", "GRANT", "EXPIRES", "QUOTA", "USED", "SCORE", "NOTE"], &rows)
}

fn detail(out: Output, f: &Shown) -> String {
    let terms = f.terms;
    let mut fields = vec![
        ("address", f.address.clone()),
        ("side", f.side.clone()),
        ("state", f.state.clone()),
        ("reason", f.reason.clone()),
        ("grant", f.grant_id.clone()),
        ("expires", until(f.expires_at)),
        ("quota", format!("{}, {} messages", size(terms.quota_bytes), terms.quota_msgs)),
        ("used", used(f)),
        ("score", super::evidence::score(f.score, &f.promises)),
        ("one message", size(terms.max_msg_bytes.into())),
        ("kept for", short(Duration::from_secs(terms.max_ttl_s.into()))),
        ("one contact", format!("{} messages, {} a day", terms.per_contact_msgs, size(terms.per_contact_day_bytes))),
        ("open share", format!("{} %", terms.open_share_percent)),
        ("let in", policy(terms.policy).to_owned()),
        ("priority", f.priority.to_string()),
        ("epoch", f.epoch.to_string()),
        ("mailbox", f.mailbox.clone().unwrap_or_else(|| "-".into())),
        ("hash", f.grant_hash.clone().unwrap_or_else(|| "-".into())),
        ("told", if f.told { "yes".into() } else { format!("not yet {}", f.last_error) }),
        ("changed", ago(f.changed_at)),
    ];
    fields.extend(f.drain_until_at.map(|at| ("drains", until(at))));
    fields.extend(f.offered.map(|o| ("waits for", format!("{}, {} messages", size(o.quota_bytes), o.quota_msgs))));
    out.fields(&fields)
}

fn policy(number: u32) -> &'static str {
    match number {
        POLICY_CONTACTS_POW => "contacts, others with work",
        POLICY_OPEN_POW => "everybody with work",
        _ => "contacts",
    }
}

fn listed_table(out: Output, listed: &ListedFriends) -> String {
    let rows: Vec<_> = listed
        .friends
        .iter()
        .map(|f| {
            let verified = match f.verified {
                None => "-".to_owned(),
                Some(true) => "good".to_owned(),
                Some(false) => format!("bad: {}", f.problem),
            };
            let quota = f.terms.map_or("-".into(), |t| size(t.quota_bytes));
            [f.address.clone(), f.priority.to_string(), quota, f.grant_hash.clone(), verified]
        })
        .collect();
    out.table(["FRIEND", "PRIORITY", "QUOTA", "GRANT HASH", "VERIFIED"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, number) in [("0", 0), ("1000", 1000), ("64KiB", 65536), ("16m", 16 << 20), ("2 GiB", 2 << 30)] {
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "1 mb", "99999999999999999999", "99999999TiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(bytes_of_message("5GiB").is_err());
        assert_eq!(duration("14d"), Ok(Duration::from_secs(14 * 24 * 3600)));
        assert!(duration("14").is_err());
    }
}
