//! Peers that speak all protocols and lie in each.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use super::sky::{Boards, HASHES, NEW, Sky, TRANSACTIONS};
use crate::{
    block::{
        Header, Point,
        broadcast::wire::{
            Announcement, Get, NewBlock, Notify, NotifyAnswer, Wanted, piece_response, read_get_request,
        },
        producer::wire::GetTransaction,
        sync::wire::{Headers, Pull, Shakehand},
    },
    net::{
        pubsub::{Received, Verdict},
        rpc::Inbound,
    },
    primitives::{Hash, PeerId},
    wire::{
        Status,
        proto::{block as pb, block_sync},
    },
};

/// What a peer lies about. In all else it looks honest: it claims the head that it hears of, and passes nothing on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Liar {
    /// Takes every request and answers none.
    Mute,
    /// Announces every block at once, and blocks that do not exist; gives nothing.
    Phantom,
    /// Claims to be thousands of blocks ahead, and answers pulls with nothing.
    Tall,
    /// Announces every block, and gives bodies that are not the header's.
    Garbage,
    /// Says that another block is final a little above whoever asks, and keeps none below it, so that it is never asked for any.
    Crowd,
}

/// How far [`Liar::Tall`] claims to be ahead.
const AHEAD: u64 = 5000;
/// Requests that [`Liar::Mute`] holds.
const HELD: usize = 1024;

struct Part {
    liar: Liar,
    random: StdRng,
    id: PeerId,
    sky: Arc<Sky>,
    /// What it heard last: a header that is somebody's, and how it may be told.
    heard: Option<(Header, Vec<u8>)>,
    asked: mpsc::Receiver<Inbound<Get>>,
    told: mpsc::Receiver<Inbound<Notify>>,
    greeted: mpsc::Receiver<Inbound<Shakehand>>,
    pulled: mpsc::Receiver<Inbound<Pull>>,
    headers: mpsc::Receiver<Inbound<Headers>>,
    transactions: mpsc::Receiver<Inbound<GetTransaction>>,
    news: mpsc::Receiver<Received>,
    /// Answers that never come: whoever drops a request gives one.
    held: Vec<Box<dyn std::any::Any + Send>>,
}

impl Liar {
    /// Those that do not come in crowds.
    pub(super) const ALL: [Self; 4] = [Self::Mute, Self::Phantom, Self::Tall, Self::Garbage];

    /// Plays until the runtime ends.
    pub(super) fn play(self, id: PeerId, seed: u64, sky: &Arc<Sky>, boards: &Boards) {
        let (_, [news, hashes, told]) = sky.join(id);
        let part = Part {
            liar: self,
            random: StdRng::seed_from_u64(seed),
            id,
            sky: sky.clone(),
            heard: None,
            asked: boards.get.join(id).1,
            told: boards.notify.join(id).1,
            greeted: boards.shakehand.join(id).1,
            pulled: boards.pull.join(id).1,
            headers: boards.headers.join(id).1,
            transactions: boards.transaction.join(id).1,
            news,
            held: Vec::new(),
        };
        tokio::spawn(part.run((hashes, told)));
    }
}

impl Part {
    async fn run(mut self, (mut hashes, mut told): (mpsc::Receiver<Received>, mpsc::Receiver<Received>)) {
        let mut turn = tokio::time::interval_at(Instant::now() + Duration::from_secs(5), Duration::from_millis(700));
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(news) = self.news.recv() => self.on_news(news),
                Some(_) = hashes.recv() => {}
                Some(_) = told.recv() => {}
                Some(greeted) = self.greeted.recv() => self.on_greeted(greeted),
                Some(pulled) = self.pulled.recv() => self.on_pulled(pulled),
                Some(asked) = self.headers.recv() => self.hold(asked),
                Some(asked) = self.transactions.recv() => self.hold(asked),
                Some(asked) = self.told.recv() => match self.liar {
                    Liar::Mute => self.hold(asked),
                    _ => asked.respond(NotifyAnswer::WillAsk.to_response()),
                },
                Some(asked) = self.asked.recv() => self.on_asked(asked),
                _ = turn.tick() => self.on_turn(),
                else => return,
            }
        }
    }

    fn hold(&mut self, request: impl std::any::Any + Send) {
        if self.held.len() >= HELD {
            self.held.clear();
        }
        self.held.push(Box::new(request));
    }

    fn head(&self) -> Option<Point> {
        self.heard.as_ref().map(|(header, _)| Point { height: header.height, hash: header.hash() })
    }

    /// A header that travels: everybody may hear it from us first.
    fn on_news(&mut self, news: Received) {
        let Ok(message) = <pb::NewBlock as prost::Message>::decode(&news.data[..]) else { return };
        let Ok(header) = Header::decode(&message.header) else { return };
        if matches!(self.liar, Liar::Phantom | Liar::Garbage) {
            let said = Announcement::of(&header, header.hash());
            self.sky.publish(HASHES, self.id, said.to_topic(&self.id));
        }
        self.heard = Some((header, news.data.clone()));
        // Liars pass headers on, so that they are asked for what is behind them.
        news.judge(if self.liar == Liar::Mute { Verdict::Ignore } else { Verdict::Accept });
    }

    fn on_greeted(&mut self, greeted: Inbound<Shakehand>) {
        let theirs = greeted.request.clone();
        match self.liar {
            Liar::Mute => self.hold(greeted),
            Liar::Tall => greeted.respond(block_sync::Shakehand {
                head_height: theirs.head_height + AHEAD,
                head_hash: Hash(self.random.random()).0.to_vec().into(),
                address: self.id.to_bytes().into(),
                ..theirs
            }),
            Liar::Crowd => {
                let (height, hash) = (theirs.head_height + 5, Hash::of(b"no such block").0.to_vec());
                greeted.respond(block_sync::Shakehand {
                    committed_height: height,
                    committed_hash: hash.clone().into(),
                    head_height: height,
                    head_hash: hash.into(),
                    earliest: height,
                    address: self.id.to_bytes().into(),
                    ..theirs
                });
            }
            Liar::Phantom | Liar::Garbage => {
                let head = self.head().filter(|head| head.height >= theirs.committed_height);
                let (height, hash) = match head {
                    Some(head) => (head.height, head.hash.0.to_vec().into()),
                    None => (theirs.head_height, theirs.head_hash.clone()),
                };
                let address = self.id.to_bytes().into();
                let ours = block_sync::Shakehand { head_height: height, head_hash: hash, address, ..theirs };
                greeted.respond(ours);
            }
        }
    }

    fn on_pulled(&mut self, pulled: Inbound<Pull>) {
        match self.liar {
            Liar::Mute | Liar::Phantom => self.hold(pulled),
            Liar::Tall | Liar::Crowd => pulled.refuse(Status::NotFound),
            // An answer that says nothing.
            Liar::Garbage => pulled.respond_encoded(vec![Bytes::from_static(&[0; 64])]),
        }
    }

    fn on_asked(&mut self, asked: Inbound<Get>) {
        let Ok((hash, wanted)) = read_get_request(&asked.request) else { return };
        match (self.liar, wanted, &self.heard) {
            (Liar::Mute | Liar::Phantom, ..) => self.hold(asked),
            (Liar::Garbage, Wanted::Piece(_), _) => asked.respond(piece_response(Bytes::from(vec![9; 16 * 1024]))),
            (Liar::Garbage, Wanted::Block, Some((header, data))) if header.hash() == hash => {
                let mut block = <pb::NewBlock as prost::Message>::decode(&data[..]).unwrap_or_default();
                if !block.body.is_empty() {
                    block.body = vec![9; block.body.len()].into();
                }
                asked.respond(pb::GetResponse { what: Some(pb::get_response::What::Block(block)) });
            }
            _ => asked.refuse(Status::NotFound),
        }
    }

    /// What comes of itself.
    fn on_turn(&mut self) {
        let Some((header, _)) = self.heard.clone() else { return };
        match self.liar {
            Liar::Phantom => {
                let point = Point { height: header.height + 1, hash: Hash(self.random.random()) };
                let said = Announcement { point, body_bytes: 100_000 };
                self.sky.publish(HASHES, self.id, said.to_topic(&self.id));
            }
            Liar::Garbage => {
                // A header that is good with a body of its length that is not.
                let body = Bytes::from(vec![self.random.random::<u8>(); header.body_bytes as usize]);
                self.sky.publish(NEW, self.id, NewBlock::to_topic(&header, &body));
            }
            Liar::Crowd => {}
            Liar::Tall | Liar::Mute => {
                self.sky.publish(TRANSACTIONS, self.id, self.random.random::<[u8; 32]>().to_vec());
            }
        }
    }
}
