//! The head start of large messages over real services: what goes before a message is durable, and what is left of it when it
//! never is. The body comes through a pipe, so that sealing stops where a test wants it to.

use std::{
    fs,
    io::Write as _,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    super::{
        Body, Config, MessageError, Outgoing,
        envelope::PART_BYTES,
        inbox::GIVES_WAY,
        intake::{Job, Place},
        wire::Code,
    },
    net::{Net, Node, START, soon},
    service::{bodies, delivered, part, push},
};
use crate::{
    identity::Identity,
    primitives::PeerId,
    store::{Family, Shelf, Store},
};

const PARTS: usize = 20;

fn body(of: u8) -> Vec<u8> {
    (0..PART_BYTES * PARTS).map(|i| (i % 251) as u8 ^ of).collect()
}

/// A message whose body is still being written.
struct Writing {
    pipe: fs::File,
    answer: oneshot::Receiver<Result<Outgoing, MessageError>>,
    _dir: tempfile::TempDir,
}

impl Writing {
    async fn begin(a: &Node, to: PeerId) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let bytes = (PART_BYTES * PARTS) as u64;
        let place = Place::take(&a.handle.shared, bytes).unwrap();
        let key = a.net.keys.lock().unwrap()[&to][0];
        let (reply, answer) = oneshot::channel();
        let (body, expires_at) = (Body::File(path.clone()), START.plus(Duration::from_secs(3600)));
        let job = Job { to, key, body, bytes, file_name: String::new(), expires_at, place, reply };
        a.handle.large.send(job).await.unwrap();
        let open = tokio::task::spawn_blocking(move || fs::OpenOptions::new().write(true).open(path));
        let pipe = soon("the body is being read", open).await.unwrap().unwrap();
        Self { pipe, answer, _dir: dir }
    }

    async fn write(&mut self, bytes: &[u8]) {
        let (mut pipe, bytes) = (self.pipe.try_clone().unwrap(), bytes.to_vec());
        let write = tokio::task::spawn_blocking(move || pipe.write_all(&bytes));
        soon("the body is taken", write).await.unwrap().unwrap();
    }

    async fn end(self) -> Result<Outgoing, MessageError> {
        drop(self.pipe);
        soon("an answer", self.answer).await.unwrap()
    }
}

fn count(store: &Store, family: Family, prefix: &[u8]) -> usize {
    let mut n = 0;
    let each = |_: &[u8], _: &[u8]| {
        n += 1;
        true
    };
    store.for_each(family, prefix, Bound::Unbounded, each).unwrap();
    n
}

/// Parts of large bodies in the inbox.
fn stored(store: &Store) -> usize {
    let is_there =
        |slot: u64, index: usize| store.body_part(Shelf::Inbox, slot, u32::try_from(index).unwrap()).unwrap().is_some();
    let slots = store.body_numbers(Shelf::Inbox).unwrap();
    slots.into_iter().map(|slot| (0..PARTS).filter(|index| is_there(slot, *index)).count()).sum()
}

/// Waits until no file is left: they are removed after the sync that makes it final.
pub(super) async fn no_body(store: &Store, shelf: Shelf) {
    let gone = async {
        while !store.body_numbers(shelf).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("its file is removed", gone).await;
}

/// Waits until this many parts are in the inbox.
async fn parts(node: &Node, n: usize) {
    let there = async {
        while stored(&node.store) < n {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("parts arrive", there).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_parts_but_the_last_arrive_before_the_message_is_durable_and_none_is_shown() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    let body = body(0);
    let (first, last) = body.split_at(PART_BYTES * (PARTS - 1));
    let mut message = Writing::begin(&a, b.address()).await;
    message.write(first).await;
    parts(&b, PARTS - 1).await;
    assert!(message.answer.try_recv().is_err(), "not durable, so not accepted");
    assert!(a.handle.outbox(10).await.unwrap().is_empty(), "nobody is told of it");
    assert!(b.handle.inbox(10).await.unwrap().is_empty());
    message.write(last).await;
    let sent = message.end().await.unwrap();
    delivered(&a, sent.id).await;
    assert!(bodies(&b).await == [body], "whole, once");
    assert_eq!(count(&b.store, Family::Inbox, b"a"), 0, "nothing incomplete is left");
    let requests = a.metrics.batches_out.get();
    assert!(requests <= PARTS as u64, "{requests} requests: no part went twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_fails_after_its_first_parts_went_is_never_shown_and_stops_no_other() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    let mut message = Writing::begin(&a, b.address()).await;
    message.write(&body(0)[..PART_BYTES * (PARTS - 1) + 1]).await;
    parts(&b, PARTS - 1).await;
    let error = message.end().await.unwrap_err();
    assert!(matches!(&error, MessageError::Invalid(why) if why.contains("changed")), "{error}");
    assert_eq!(a.handle.stats().outbox_pending, 0);
    no_body(&a.store, Shelf::Outbox).await;
    let next = a.handle.send(a.draft(b.address(), body(1))).await.unwrap();
    delivered(&a, next.id).await;
    assert!(bodies(&b).await == [body(1)], "the other one, unmixed");
    assert_eq!(count(&b.store, Family::Inbox, b"a"), 1, "the first one stays incomplete until it is swept");
    assert!(a.handle.outbox(10).await.unwrap().iter().all(|m| m.id == next.id));
}

/// All files in a folder and below it, with their lengths.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().map_while(Result::ok) {
        match entry.metadata() {
            Ok(m) if m.is_dir() => all.extend(files(&entry.path())),
            about => all.push((entry.path(), about.map_or(0, |m| m.len()))),
        }
    }
    all.sort();
    all
}

/// The files of a store at rest: what a crash would leave.
pub(super) fn copy(from: &Path, to: &Path) {
    loop {
        let before = files(from);
        let copied = before.iter().all(|(path, _)| {
            let copy = to.join(path.strip_prefix(from).unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(path, copy).is_ok()
        });
        if copied && files(from) == before {
            return;
        }
        files(to).iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_crashes_before_its_message_is_durable_has_forgotten_it_and_nothing_is_mixed() {
    let net = Net::new();
    let (mut a, b) = (Node::start(&net).await, Node::start(&net).await);
    let mut message = Writing::begin(&a, b.address()).await;
    message.write(&body(0)[..PART_BYTES * (PARTS - 1)]).await;
    parts(&b, PARTS - 1).await;
    let left = Arc::new(tempfile::tempdir().unwrap());
    copy(a.dir.path(), left.path());
    message.end().await.unwrap_err();
    a.halt().await;
    let store = Store::open(left.path()).unwrap();
    let a = Node::run(&net, a.config.clone(), a.identity.clone(), store, left).await;
    assert_eq!(a.handle.stats().outbox_pending, 0);
    assert_eq!(a.store.body_numbers(Shelf::Outbox), Ok(Vec::new()), "what was written of it is removed");
    let next = a.handle.send(a.draft(b.address(), body(1))).await.unwrap();
    delivered(&a, next.id).await;
    assert!(bodies(&b).await == [body(1)], "a new number: nothing of the forgotten one is in it");
    assert_eq!(count(&b.store, Family::Inbox, b"a"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recipient_that_crashes_goes_on_with_the_parts_that_are_whole_on_its_disk() {
    let net = Net::new();
    let (a, mut b) = (Node::start(&net).await, Node::start(&net).await);
    let mut message = Writing::begin(&a, b.address()).await;
    let body = body(0);
    let (first, last) = body.split_at(PART_BYTES * (PARTS - 1));
    message.write(first).await;
    parts(&b, PARTS - 1).await;
    let left = Arc::new(tempfile::tempdir().unwrap());
    copy(b.dir.path(), left.path());
    b.halt().await;
    // One part was cut off, as by a loss of power, and a file is there that nothing names.
    let file = &files(&left.path().join("bodies/inbox"))[0].0;
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(1_000_000).unwrap();
    fs::write(left.path().join("bodies/inbox/00000000000000ff"), b"left over").unwrap();
    let store = Store::open(left.path()).unwrap();
    let whole = stored(&store);
    assert!((1..PARTS - 1).contains(&whole), "{whole} parts are left");
    let b = Node::run(&net, b.config.clone(), b.identity.clone(), store, left).await;
    assert_eq!(stored(&b.store), whole, "nothing but what nobody names is removed");
    assert_eq!(b.store.body_numbers(Shelf::Inbox).unwrap().len(), 1);
    message.write(last).await;
    let sent = message.end().await.unwrap();
    delivered(&a, sent.id).await;
    assert!(bodies(&b).await == [body], "whole, once");
    b.handle.remove(sent.id).await.unwrap();
    no_body(&b.store, Shelf::Inbox).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_body_is_gone_from_the_disk_waits_and_holds_up_no_other() {
    let net = Net::new();
    let (a, b) = (Node::start(&net).await, Node::start(&net).await);
    net.online(b.address(), false);
    let lost = a.handle.send(a.draft(b.address(), body(0))).await.unwrap().id;
    let a = a.restart(|store| assert_eq!(store.body_numbers(Shelf::Outbox).unwrap().len(), 1)).await;
    files(&a.dir.path().join("bodies/outbox")).iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
    let next = a.handle.send(a.draft(b.address(), "next")).await.unwrap().id;
    net.online(b.address(), true);
    delivered(&a, next).await;
    let told = a.handle.outgoing(lost).await.unwrap();
    assert!(told.last_error.contains("damaged on our disk"), "{told:?}");
    // The next one is shown when the recipient knows that nothing comes before it.
    a.handle.cancel(lost).await.unwrap();
    let shown = async {
        while bodies(&b).await != [b"next"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the next one is shown", shown).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_of_a_large_message_leaves_nothing_behind() {
    let net = Net::new();
    let (b, author) = (Node::start(&net).await, Identity::generate());
    let total = (PART_BYTES * PARTS) as u64;
    let first = part(&b, &author, |i| (i.total, i.body) = (total, vec![0; PART_BYTES].into()));
    let shelf = b.dir.path().join("bodies/inbox");
    fs::remove_dir(&shelf).unwrap();
    for _ in 0..3 {
        let (codes, _) = push(&net, author.address(), b.address(), std::slice::from_ref(&first)).await;
        assert_eq!(codes, [Code::Busy]);
    }
    let cleared = async {
        while count(&b.store, Family::Inbox, b"a") > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("its rows are removed", cleared).await;
    fs::create_dir(&shelf).unwrap();
    let (codes, _) = push(&net, author.address(), b.address(), &[first]).await;
    assert_eq!(codes, [Code::Stored]);
    assert_eq!((count(&b.store, Family::Inbox, b"a"), stored(&b.store)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sender_left_incomplete_gives_way_to_its_next_message_after_a_while() {
    let net = Net::new();
    // Four of these are as much as one sender may have incomplete.
    let b = Node::with(&net, Config { max_bytes: 300_000, ..Config::default() }).await;
    let (author, other) = (Identity::generate(), Identity::generate());
    let first = |author: &Identity, seq: u64| {
        let part = part(&b, author, |i| (i.seq, i.total, i.body) = (seq, 280_000, vec![0; PART_BYTES].into()));
        let (net, from, to) = (net.clone(), author.address(), b.address());
        async move { push(&net, from, to, &[part]).await.0[0] }
    };
    for seq in 0..4 {
        assert_eq!(first(&author, seq).await, Code::Stored);
    }
    assert_eq!(first(&author, 4).await, Code::Busy);
    net.clock.set(START.plus(GIVES_WAY));
    assert_eq!(first(&author, 4).await, Code::Busy, "not yet");
    net.clock.set(START.plus(GIVES_WAY + Duration::from_secs(1)));
    assert_eq!(first(&author, 4).await, Code::Stored);
    assert_eq!(first(&other, 5).await, Code::Stored, "others have their own share");
    assert_eq!(count(&b.store, Family::Inbox, b"a"), 5);
    assert_eq!(count(&b.store, Family::InboxBody, b""), 5, "what gave way is cleared");
    assert_eq!(first(&author, 0).await, Code::Stored, "and begins again");
    assert_eq!(count(&b.store, Family::Inbox, b"a"), 5);
}
