//! Events as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    response::sse::{self, KeepAlive, Sse},
};
use futures::{Stream, StreamExt, stream};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError::Lagged};

use super::{
    App,
    error::ApiError,
    schema::{ErrorBody, Event},
};

/// A comment goes out when nothing else does, so that both sides notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What happens, from now on: `peer_up`, `peer_down`, `map_changed`, `presence`, `message_received`, `outgoing`,
/// `friend.offered`, `friend.active`, `friend.declined`, `friend.revoked`, `friend.expired`,
/// `friend.broken_promise`, `block.imported`, `block.head`, `block.committed`, `reorg`, `block.conflict`, `block.halted`. A subscriber that is too slow
/// gets `lagged` and should read the state again.
#[utoipa::path(
    get, path = "/v1/events", tag = "node",
    responses(
        (status = 200, body = Event, content_type = "text/event-stream"),
        (status = 503, body = ErrorBody, description = "32 streams are open")
    )
)]
pub(super) async fn events(
    State(app): State<App>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let deps = &app.deps;
    let blocks = match &deps.block {
        Some(block) => tagged("blocks", block.subscribe()).left_stream(),
        None => stream::pending().right_stream(),
    };
    let all = stream::select(
        tagged("peers", deps.net.subscribe()),
        stream::select(
            tagged("map", deps.map.subscribe()),
            stream::select(
                tagged("messages", deps.message.subscribe()),
                stream::select(tagged("friends", deps.friend.subscribe()), blocks),
            ),
        ),
    );
    serve(&app, all.map(|event| encode(&event)))
}

/// Serves events to one more subscriber, until the node stops.
pub(super) fn serve<S>(
    app: &App,
    events: S,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>> + use<S>>, ApiError>
where
    S: Stream<Item = sse::Event> + Send + 'static,
{
    let place = app.subscribers.clone().try_acquire_owned();
    let place = place.map_err(|_| ApiError::busy("too many event streams are open"))?;
    // The first thing sent, so that a client knows from when on it misses nothing.
    let opened = stream::iter([Ok(sse::Event::default().comment("listening"))]);
    let events = opened.chain(events.map(move |event| {
        let _held_as_long_as_the_stream = &place;
        Ok(event)
    }));
    let stop = app.deps.stop.clone();
    let events = events.take_until(async move { stop.wait().await });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn tagged<E>(source: &'static str, events: broadcast::Receiver<E>) -> impl Stream<Item = Event> + Send + Unpin
where
    E: Into<Event> + Clone + Send + 'static,
{
    BroadcastStream::new(events).map(move |event| match event {
        Ok(event) => event.into(),
        Err(Lagged(lost)) => Event::Lagged { source: source.to_owned(), lost },
    })
}

fn encode(event: &Event) -> sse::Event {
    // JSON has no raw newlines, so one `data:` line holds it.
    let data = serde_json::to_string(event).expect("events are plain data with string keys");
    sse::Event::default().event(event.name()).data(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        block::{Origin, Point, chain},
        message::{
            self,
            friend::{self, Figure, Friendship, Side, State, Terms},
            mailbox::evidence::{BrokenPromise, Why},
        },
        net::PeerEvent,
        primitives::{GrantId, MessageId, PeerId, UnixMillis},
    };

    fn friend_event(state: State) -> Event {
        let friendship = Friendship {
            side: Side::HeldBy,
            address: PeerId::random(),
            state,
            grant_id: GrantId([1; 16]),
            epoch: 1,
            terms: Terms::default(),
            offered: None,
            expires_at: UnixMillis(2),
            priority: 0,
            hold: None,
            grant: None,
            reason: "",
            told: true,
            last_error: String::new(),
            changed_at: UnixMillis(1),
            ended_at: None,
            figure: Figure::default(),
        };
        friend::Event(Box::new(friendship)).into()
    }

    fn broken_promise() -> Event {
        let (friend, id, why) = (PeerId::random(), MessageId([1; 32]), Why::Lost);
        message::Event::BrokenPromise(Box::new(BrokenPromise { friend, id, why, at: UnixMillis(3) })).into()
    }

    fn block_event(detached: Vec<Point>) -> Event {
        chain::Event::Head { head: Point::default(), detached, attached: vec![Point::default()] }.into()
    }

    #[test]
    fn the_tag_and_the_name_of_an_event_are_the_same() {
        let address = PeerId::random().to_string();
        for event in [
            Event::PeerUp { address: address.clone() },
            Event::PeerDown { address: address.clone() },
            Event::MapChanged { address: address.clone(), change: "removed".into(), record: None },
            Event::Presence { address, state: crate::map::State::Offline },
            friend_event(State::Offered),
            friend_event(State::Active),
            friend_event(State::Declined),
            friend_event(State::Revoked),
            friend_event(State::Expired),
            broken_promise(),
            block_event(Vec::new()),
            block_event(vec![Point::default()]),
            chain::Event::Imported { point: Point::default(), origin: Origin::File, bytes: 7 }.into(),
            chain::Event::Committed { from: 1, to: Point::default() }.into(),
            chain::Event::Conflict { fork: Point::default(), tip: Point::default(), peers: 2 }.into(),
            chain::Event::Halted(Some("why".into())).into(),
            chain::Event::Halted(None).into(),
            Event::Lagged { source: "map".into(), lost: 3 },
        ] {
            let json = serde_json::to_value(&event).expect("plain data");
            assert_eq!(json["event"], event.name());
            assert_eq!(serde_json::from_value::<Event>(json).expect("reads back"), event);
        }
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_how_much_it_lost() {
        let (sender, receiver) = broadcast::channel(2);
        let mut events = tagged::<PeerEvent>("peers", receiver);
        let peer = PeerId::random();
        (0..5).for_each(|_| drop(sender.send(PeerEvent::Up(peer))));
        assert_eq!(events.next().await, Some(Event::Lagged { source: "peers".into(), lost: 3 }));
        assert_eq!(events.next().await, Some(Event::PeerUp { address: peer.to_string() }));
    }
}
