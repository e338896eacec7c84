//! The owner's actor: takes claims of senders, asks friends to account, keeps score.
//!
//! ```text
//!  Inbound<Claim> ─▶ ours? signed? owed? judged already? ─▶ ask the friend ─▶ judge ─┬─ kept, broken: durable ─▶ done
//!                                                              ▲                     ├─ nothing to judge ──────▶ done
//!                                                              └─ show it: pull ◀────┤
//!                                                                                    └─ not reached ─────────▶ later
//! ```
//! A friend that says that it has a part shows it: the part is pulled by its queue number. When it is not there the friend is asked
//! again, since it may have been acknowledged or taken back meanwhile.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::{debug, warn};

use super::{
    super::{
        Metrics, StoredReceipt,
        proof::{self, SignedReceipts},
        wire::{self as mail, Pull},
    },
    account::{self, Account, SignedAccount, Tokens},
    handle::Friends,
    judge::{Judged, Verdict, Why, judge},
    ledger::{Evidence, Judgement, Ledger, forget_judged},
    served::Served,
    wire::{self, Audit, CLAIM_RECEIPTS, Claim},
};
use crate::{
    identity::Purpose,
    message::{Event, envelope::part_id, shared::Shared},
    net::rpc::{self, RequestError},
    primitives::{MessageId, PeerId, UnixMillis},
    runtime::Stop,
    store::StoreError,
    wire::Status,
};

/// Claims being looked into.
const AUDITS: usize = 8;
/// One claim; what is not known by then is claimed again. Below the timeout of the claim.
const DEADLINE: Duration = Duration::from_secs(45);
/// How often a friend is asked about a part that it says it has and does not show.
const ROUNDS: usize = 3;
/// Between two of them: what is being acknowledged or taken back is settled by then.
const PAUSE: Duration = Duration::from_millis(500);
/// Times that a friend may give us no account that can be judged, though it is there, before that counts.
const STRIKES: u32 = 3;
/// Bytes that friends are made to show in an hour; beyond it what they say they have is not judged.
const SHOWN: u64 = 64 * 1024 * 1024;
const HOUR: Duration = Duration::from_secs(3600);

/// A friend broke its promise to keep a part of a message for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokenPromise {
    /// Who.
    pub friend: PeerId,
    /// Which sealed part; of a message of one part that is its id.
    pub id: MessageId,
    /// How.
    pub why: Why,
    /// When it was found out.
    pub at: UnixMillis,
}

/// What the actor needs.
#[derive(Debug)]
pub(in crate::message::mailbox) struct Deps {
    pub(in crate::message::mailbox) shared: Arc<Shared>,
    pub(in crate::message::mailbox) metrics: Metrics,
    pub(in crate::message::mailbox) audits: rpc::Client<Audit>,
    pub(in crate::message::mailbox) pulls: rpc::Client<Pull>,
    pub(in crate::message::mailbox) tokens: Tokens,
    pub(in crate::message::mailbox) served: Served,
    pub(in crate::message::mailbox) friends: watch::Receiver<Friends>,
    pub(in crate::message::mailbox) stored: Purpose,
    pub(in crate::message::mailbox) account: Purpose,
}

/// What became of one part's check.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Kept,
    Broken(Why, SignedAccount),
    Excused,
    Later,
    Strike,
}

struct Audited {
    inbound: rpc::Inbound<Claim>,
    judged: Judged,
    signed: SignedReceipts,
    outcomes: Vec<(StoredReceipt, Outcome)>,
    later: bool,
}

enum Done {
    Audited(Box<Audited>),
    Swept(Result<Vec<(PeerId, u64)>, StoreError>),
}

/// Bytes that may still be shown, and since when.
type Budget = Mutex<(u64, Instant)>;

/// See the module doc.
pub(in crate::message::mailbox) struct Auditor {
    deps: Arc<Deps>,
    ledger: Ledger,
    budget: Arc<Budget>,
    strikes: HashMap<PeerId, u32>,
    /// Being looked into.
    open: HashSet<(PeerId, MessageId)>,
    tasks: JoinSet<Done>,
}

impl Auditor {
    /// Loads scores. Blocks.
    pub(in crate::message::mailbox) fn load(deps: Deps) -> Result<Self, StoreError> {
        let ledger = Ledger::load(&deps.shared.tables.store)?;
        let budget = Arc::new(Mutex::new((SHOWN, Instant::now())));
        let (strikes, open, tasks) = (HashMap::new(), HashSet::new(), JoinSet::new());
        Ok(Self { deps: Arc::new(deps), ledger, budget, strikes, open, tasks })
    }

    /// Runs until stopped.
    pub(in crate::message::mailbox) async fn run(
        mut self,
        mut claims: mpsc::Receiver<rpc::Inbound<Claim>>,
        stop: Stop,
    ) {
        let mut sweep = tokio::time::interval(HOUR);
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => return,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(Done::Audited(audited)) => self.audited(*audited).await,
                    Ok(Done::Swept(Ok(forgotten))) => {
                        forgotten.iter().for_each(|(friend, judged)| self.ledger.forgot(friend, *judged));
                    }
                    Ok(Done::Swept(Err(error))) => {
                        warn!(%error, "cannot forget which promises of friends were judged");
                    }
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                _ = sweep.tick() => {
                    let (store, now) = (self.deps.shared.tables.store.clone(), self.deps.shared.now());
                    self.tasks.spawn(async move {
                        let swept = tokio::task::spawn_blocking(move || forget_judged(&store, now)).await;
                        Done::Swept(swept.unwrap_or(Err(StoreError::Stopped)))
                    });
                }
                Some(inbound) = claims.recv(), if self.tasks.len() < AUDITS => self.claim(inbound),
            }
        }
    }

    fn claim(&mut self, inbound: rpc::Inbound<Claim>) {
        let (deps, now) = (self.deps.clone(), self.deps.shared.now());
        let Some(raw) = wire::read_claim(&inbound.request) else { return inbound.refuse(Status::Invalid) };
        deps.metrics.claims_in.inc();
        let Some(friends) = deps.friends.borrow().clone() else { return inbound.respond(wire::claimed(false)) };
        let judged = friends.iter().find(|judged| judged.friend == raw.holder).cloned();
        let Some(judged) = judged else { return inbound.respond(wire::claimed(true)) };
        let both = (&raw.holder, &deps.shared.local);
        let Some(all) = proof::verify(both, &deps.stored, &raw.signed, CLAIM_RECEIPTS) else {
            deps.metrics.forged_claims.inc();
            debug!(peer = %inbound.peer, friend = %raw.holder, "claims what this friend did not sign");
            return inbound.refuse(Status::Refused);
        };
        let (mut receipts, mut later) = (Vec::<StoredReceipt>::new(), false);
        for receipt in raw.places.iter().filter_map(|place| all.get(usize::from(*place))) {
            let twice = receipts.iter().any(|other| other.id == receipt.id);
            if twice || !judged.covers(receipt, now) {
                continue;
            }
            match self.ledger.is_judged(&judged.friend, &receipt.id) {
                Ok(true) => {}
                Ok(false) if self.open.contains(&(judged.friend, receipt.id)) => later = true,
                Ok(false) => receipts.push(*receipt),
                Err(error) => {
                    warn!(%error, "cannot read which promises of friends were judged");
                    later = true;
                }
            }
        }
        if receipts.is_empty() {
            return inbound.respond(wire::claimed(!later));
        }
        self.open.extend(receipts.iter().map(|receipt| (judged.friend, receipt.id)));
        let budget = self.budget.clone();
        self.tasks.spawn(async move {
            let work = audit(&deps, &budget, &judged, &receipts);
            let outcomes = tokio::time::timeout(DEADLINE, work).await;
            let outcomes = outcomes.unwrap_or_else(|_| vec![Outcome::Later; receipts.len()]);
            let outcomes = receipts.into_iter().zip(outcomes).collect();
            Done::Audited(Box::new(Audited { inbound, judged, signed: raw.signed, outcomes, later }))
        });
    }

    async fn audited(&mut self, audited: Audited) {
        let Audited { inbound, judged, signed, outcomes, mut later } = audited;
        let (deps, now, friend) = (self.deps.clone(), self.deps.shared.now(), judged.friend);
        let struck = outcomes.iter().any(|(_, outcome)| *outcome == Outcome::Strike);
        let strikes = self.strikes.entry(friend).or_default();
        *strikes += u32::from(struck);
        let over = *strikes >= STRIKES;
        if over || !struck {
            self.strikes.remove(&friend);
        }
        let mut judgements = Vec::new();
        for (receipt, outcome) in outcomes {
            self.open.remove(&(friend, receipt.id));
            let judgement = match outcome {
                Outcome::Excused => continue,
                Outcome::Later => {
                    later = true;
                    continue;
                }
                Outcome::Strike if !over => {
                    later = true;
                    continue;
                }
                Outcome::Strike => Judgement::Refused,
                Outcome::Kept => Judgement::Kept,
                Outcome::Broken(why, account) => {
                    let (id, grant, receipts) = (receipt.id, judged.grant.to_bytes(), signed.clone());
                    Judgement::Broken(Box::new(Evidence { id, why, at: now, grant, receipts, account }))
                }
            };
            judgements.push((receipt, judgement));
        }
        let counted: Vec<_> = judgements.iter().map(|(receipt, judgement)| (receipt.id, judgement.clone())).collect();
        if !judgements.is_empty() {
            let known = deps.friends.borrow().clone().unwrap_or_default();
            let friends = known.iter().map(|judged| judged.friend).collect();
            if let Err(error) = self.ledger.record(friend, now, judgements, &friends).await {
                warn!(%error, "cannot store how a friend keeps its promises; it is judged again");
                return inbound.respond(wire::claimed(false));
            }
        }
        for (id, judgement) in counted {
            match judgement {
                Judgement::Kept => {
                    deps.metrics.promises_kept.inc();
                }
                Judgement::Refused => {
                    deps.metrics.promises_refused.inc();
                }
                Judgement::Broken(evidence) => {
                    let why = evidence.why;
                    warn!(%friend, %id, why = why.code(), "a friend broke its promise to keep a message: vos friend evidence");
                    deps.metrics.promises_broken.inc();
                    let broken = BrokenPromise { friend, id, why, at: now };
                    deps.shared.tell(|| Event::BrokenPromise(Box::new(broken)));
                }
            }
        }
        inbound.respond(wire::claimed(!later));
    }
}

/// Asks a friend about parts that it owes us.
async fn audit(deps: &Deps, budget: &Budget, judged: &Judged, receipts: &[StoredReceipt]) -> Vec<Outcome> {
    let given = |receipt: &StoredReceipt| deps.served.contains(&judged.friend, &receipt.id).then_some(Outcome::Kept);
    let mut outcomes: Vec<Option<Outcome>> = receipts.iter().map(given).collect();
    let mut last = SignedAccount::default();
    for round in 0..ROUNDS {
        let open: Vec<usize> = (0..receipts.len()).filter(|at| outcomes[*at].is_none()).collect();
        if open.is_empty() {
            break;
        }
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let asked: Vec<MessageId> = open.iter().map(|at| receipts[*at].id).collect();
        let (account, signed) = match ask(deps, judged.friend, &asked).await {
            Ok(answer) => answer,
            Err(Some(why)) => {
                // It is there and does not account: what it still shows it has kept.
                debug!(friend = %judged.friend, why, "a friend gives no account");
                for at in open {
                    outcomes[at] = Some(match show(deps, budget, judged.friend, &receipts[at]).await {
                        Shown::Yes => Outcome::Kept,
                        Shown::No | Shown::Enough => Outcome::Strike,
                        Shown::Unreachable => Outcome::Later,
                    });
                }
                break;
            }
            Err(None) => {
                open.into_iter().for_each(|at| outcomes[at] = Some(Outcome::Later));
                break;
            }
        };
        let times = (account.at, deps.shared.now());
        for at in open {
            let receipt = &receipts[at]; // in range: places of outcomes, as many as receipts
            // `ask` has seen that each is named.
            let Some(fate) = account.fate(&receipt.id) else { continue };
            let acked = |token: &[u8; 32]| deps.tokens.token(&judged.friend, &receipt.id) == *token;
            outcomes[at] = match judge(receipt, fate, times, acked) {
                Verdict::Excused => Some(Outcome::Excused),
                Verdict::Strike => Some(Outcome::Strike),
                Verdict::Broken(why) => Some(Outcome::Broken(why, signed.clone())),
                Verdict::Show => match show(deps, budget, judged.friend, receipt).await {
                    Shown::Yes => Some(Outcome::Kept),
                    Shown::No => None,
                    Shown::Enough => Some(Outcome::Excused),
                    Shown::Unreachable => Some(Outcome::Later),
                },
            };
        }
        last = signed;
    }
    // Said to be there each time, and never shown.
    outcomes.into_iter().map(|o| o.unwrap_or_else(|| Outcome::Broken(Why::Withheld, last.clone()))).collect()
}

/// A friend's account of these parts. `Err(None)`: it was not reached; else what is wrong with its answer.
async fn ask(deps: &Deps, friend: PeerId, ids: &[MessageId]) -> Result<(Account, SignedAccount), Option<&'static str>> {
    let nonce: [u8; 16] = rand::random();
    let signed = match deps.audits.request(friend, wire::audit(nonce, ids.iter().copied())).await {
        Ok(answer) => wire::read_audited(answer),
        Err(RequestError::Status(Status::Refused | Status::Invalid)) => return Err(Some("refused")),
        Err(RequestError::Malformed) => return Err(Some("malformed")),
        Err(_) => return Err(None),
    };
    let account = account::verify((&friend, &deps.shared.local), &deps.account, &signed);
    let account = account.ok_or(Some("not signed by it, or malformed"))?;
    let complete = account.nonce == nonce && ids.iter().all(|id| account.fate(id).is_some());
    if complete { Ok((account, signed)) } else { Err(Some("not what was asked")) }
}

enum Shown {
    Yes,
    No,
    /// Enough was shown in this hour.
    Enough,
    Unreachable,
}

/// Pulls one part by its number.
async fn show(deps: &Deps, budget: &Budget, friend: PeerId, receipt: &StoredReceipt) -> Shown {
    {
        let mut budget = budget.lock().expect("no panic while held");
        if budget.1.elapsed() >= HOUR {
            *budget = (SHOWN, Instant::now());
        }
        if budget.0 == 0 {
            return Shown::Enough;
        }
    }
    let after = receipt.queue_seq.saturating_sub(1);
    let answer = match deps.pulls.request(friend, mail::pull_one(after)).await {
        Ok(answer) => answer,
        Err(RequestError::Status(Status::Refused | Status::Invalid) | RequestError::Malformed) => return Shown::No,
        Err(_) => return Shown::Unreachable,
    };
    let bytes = answer.items.len() as u64; // usize fits in u64
    {
        let mut budget = budget.lock().expect("no panic while held");
        budget.0 = budget.0.saturating_sub(bytes);
    }
    let Some(page) = mail::read_pulled(answer, after) else { return Shown::No };
    let is = |item: &mail::PulledItem| item.seq == receipt.queue_seq && part_id(&item.part) == Some(receipt.id);
    if page.items.iter().any(is) { Shown::Yes } else { Shown::No }
}
