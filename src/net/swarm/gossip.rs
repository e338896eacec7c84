//! What goes out to gossip, what comes in, and what the receivers judge of it.

use std::time::Instant;

use libp2p::gossipsub;

use super::Network;
use crate::net::pubsub::{self, Judged, Publish, PublishError, Verdict};

impl Network {
    pub(super) fn on_publish(&mut self, publish: Publish) {
        let Publish { topic, data, answer } = publish;
        let result = self.swarm.behaviour_mut().gossip.publish(gossipsub::IdentTopic::new(topic), data);
        let _ = answer.send(result.map(drop).map_err(|e| match e {
            gossipsub::PublishError::Duplicate => PublishError::Duplicate,
            gossipsub::PublishError::NoPeersSubscribedToTopic => PublishError::NoPeers,
            gossipsub::PublishError::MessageTooLarge => PublishError::TooLarge,
            _ => PublishError::Busy,
        }));
    }

    pub(super) fn on_verdict(&mut self, judged: &Judged) {
        let acceptance = match judged.verdict {
            Verdict::Accept => gossipsub::MessageAcceptance::Accept,
            Verdict::Ignore => gossipsub::MessageAcceptance::Ignore,
            Verdict::Reject => gossipsub::MessageAcceptance::Reject,
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        // `false` means that the message left the cache meanwhile; it is not forwarded then.
        gossip.report_message_validation_result(&judged.id, &judged.source, acceptance);
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        let (propagation_source, message_id, message) = match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                self.swarm.behaviour().gossip.gate().on_new(&propagation_source, &message.topic);
                (propagation_source, message_id, message)
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                return self.topics.listeners.came(topic.as_str(), peer_id);
            }
            gossipsub::Event::Unsubscribed { peer_id, topic } => {
                return self.topics.listeners.went(topic.as_str(), &peer_id);
            }
            gossipsub::Event::SlowPeer { peer_id, failed_messages } => {
                tracing::debug!(peer = %peer_id, ?failed_messages, "gossip for a peer was dropped");
                self.metrics.gossip_slow();
                return self.topics.listeners.slow(peer_id, Instant::now());
            }
            gossipsub::Event::GossipsubNotSupported { .. } => return,
        };
        let ticket = pubsub::Ticket { id: message_id, verdicts: self.topics.verdicts.clone() };
        let received = pubsub::Received { source: propagation_source, data: message.data, ticket: Some(ticket) };
        let delivered = self.senders.get(&message.topic).is_some_and(|sender| sender.try_send(received).is_ok());
        if !delivered {
            // Dropping it gave the verdict "ignore".
            self.metrics.gossip_dropped();
        }
    }
}
