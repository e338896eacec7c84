//! A stranger at a node's door: speaks its request protocols with bytes of its own choice.

use futures::future::BoxFuture;
use vos::{
    net::rpc::{Protocols, RequestError, Wire},
    primitives::PeerId,
    test_util::{Ground, Member, Node, node_on},
};

use super::hostile::Bytes;

type Answer = Result<Bytes, RequestError>;

/// One protocol, by its name.
pub(super) struct Door(&'static str, Box<dyn Fn(PeerId, Bytes) -> BoxFuture<'static, Answer> + Send + Sync>);

impl Door {
    pub(super) fn of<W: Wire<Request = Bytes, Response = Bytes>>(protocols: &mut Protocols) -> Self {
        let (client, _) = protocols.add::<W>();
        let ask = move |to, request| -> BoxFuture<'static, Answer> {
            let client = client.clone();
            Box::pin(async move { client.request(to, request).await })
        };
        Self(W::NAME, Box::new(ask))
    }
}

pub(super) struct Stranger {
    /// Kept, so that its clients work.
    _node: Node,
    doors: Vec<Door>,
}

impl Stranger {
    pub(super) async fn connect(victim: &Member, doors: impl FnOnce(&mut Protocols) -> Vec<Door>) -> Self {
        let (node, doors) =
            node_on(Ground::fresh(), Node::config(), |protocols: &mut Protocols, _: &mut _| doors(protocols)).await;
        node.handle.connect(victim.multiaddr()).await.unwrap();
        Self { _node: node, doors }
    }

    pub(super) async fn ask(&self, name: &str, to: PeerId, request: &[u8]) -> Answer {
        let door = self.doors.iter().find(|door| door.0 == name).expect("a door of this name");
        door.1(to, Bytes(request.to_vec())).await
    }

    /// The same bytes at every door, one after the other.
    pub(super) async fn everywhere(&self, to: PeerId, request: &[u8]) -> Vec<(&'static str, Answer)> {
        let mut answers = Vec::new();
        for Door(name, ask) in &self.doors {
            answers.push((*name, ask(to, Bytes(request.to_vec())).await));
        }
        answers
    }
}
