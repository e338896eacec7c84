//! Mailboxes.

use axum::{Json, extract::State};

use super::super::{
    App,
    error::ApiError,
    schema::{CollectedFrom, ErrorBody, MailboxStats},
};

/// What is held here for others by owner, and how collecting goes by friend.
#[utoipa::path(
    get, path = "/v1/mailbox", tag = "friends",
    responses((status = 200, body = MailboxStats), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn stats(State(app): State<App>) -> Result<Json<MailboxStats>, ApiError> {
    let mailbox = app.deps.message.mailbox();
    let (mut held, friends) = (mailbox.held().await?, mailbox.friends().await?);
    held.sort_by_key(|stats| std::cmp::Reverse(stats.bytes));
    Ok(Json(MailboxStats {
        messages: held.iter().map(|stats| stats.messages).sum(),
        bytes: held.iter().map(|stats| stats.bytes).sum(),
        holding_for: held.into_iter().map(Into::into).collect(),
        held_by: friends.iter().map(|(friend, stats)| CollectedFrom::new(friend, stats)).collect(),
    }))
}
