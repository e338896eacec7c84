//! Sync: where everybody's chain stands, and catching up by height.
//!
//! ```text
//!   broadcast ── claim(peer, head) ─┐       ┌─ watch: state (broadcast, production), progress (cli, api)
//!                                ┌──▼───────┴──┐
//!      peers, chain events ────▶ │   service   │ ── pulls, headers, SHAKEHANDs ──▶ peers
//!                                │  Planner    │ ── checked blocks, in order ────▶ chain
//!                                └─────────────┘
//!   answer.rs: PULL_BLOCK and headers of others, from the chain, with `serve.rs` for places and shares
//! ```
//!
//! * `claims.rs`: what each peer says, and how far to believe it. `clock.rs`: how far our clock is from theirs.
//! * `planner.rs`: what to do next, a pure machine, in the words of `plan.rs`; `planner/pull.rs`: whom to ask; `run.rs`: one stretch of batches; `search.rs`: where two chains part.
//! * `greet.rs`: whom to greet when. `check.rs`: what one answer is worth by itself.
//!
//! # Catching up
//! Missing heights are cut into batches of 128 blocks or some 2 MiB; each is pulled from one of the peers whose head is high
//! enough, two at once from a peer that has proven something, or while most places are free; what is being checked counts no more. What
//! comes is checked by itself (heights, links, roots, signatures), one answer on each core, and whoever sent nonsense is named. A batch
//! goes to the chain as soon as it fits on the one before, which may still be on its way there: the chain writes those that come in time
//! together. What goes there becomes final soon, so a batch waits until the next one, by another sender, fits on it, and until it does not
//! contradict what most peers hold for final. Neighbours that contradict each other are pulled again, and whose content
//! changed is asked no more. When the batch that all others wait for takes clearly longer than pulls do, somebody else is asked
//! for it as well, and what comes first counts. One that does not fit on what is there shows that its sender's chain leaves ours
//! or that it lies: headers at evenly spaced heights tell where. Above our committed block the branch is pulled and the fork
//! choice decides; below it, the peer has to prove its branch with signed headers, and the chain follows its policy for conflicts.
//!
//! # In step
//! A peer's head that is held here on whichever branch is no reason for anything. One that is not is broadcast's to bring, for 10 s (2 s
//! after a connection); then it is pulled. A single peer's word starts a pull, but puts nobody out of step: that takes a third of
//! the peers and two at least, or blocks. Who is behind comes into step when the heads of at least half of the peers are here.
//!
//! # Limits
//! 16 pulls at once, 16 finished batches waiting for one before them or for the chain, 64 MiB; 32 MiB and 4096 blocks that the chain has and
//! has not written; serving: see `serve.rs`. Answers are capped before they are read, and carry no more structure than their bytes.
//!
//! # Security
//! A height is a hint: it counts for 12288 blocks beyond what its peer has proven, and after three pulls that fail not at all for a
//! minute. No answer is taken that was not asked for. Who may make blocks is the chain's validator's to say; where everybody may, a
//! longer chain of one peer does not become final at a new node that has three others: it waits up to a second for the
//! first of them to tell where they are, and for ten before it shows the chain what contradicts final blocks, since of few peers one liar
//! is many. Peers on another branch are not punished: they may be the smaller part of a network that was cut in two. Who never
//! answers costs two seconds a try, and is not waited for to vouch for others. Who is busy for ever holds a run for 20 s, and
//! comes last then. Peers with another genesis block are refused and not asked.

mod answer;
mod check;
mod claims;
mod clock;
mod exchange;
mod greet;
mod handle;
mod metrics;
mod plan;
mod planner;
mod run;
mod search;
mod serve;
mod service;
pub mod wire;

#[cfg(test)]
mod tests;

pub use handle::{Handle, Progress};
pub use metrics::Metrics;
pub use plan::State;
pub use service::{Deps, Service, Settings, new};
