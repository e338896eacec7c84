//! Contacts.

use axum::{Json, extract::State};

use super::super::{
    App,
    error::ApiError,
    extract::{Body, Segment, target},
    schema::{AddContact, Contact, Contacts, ErrorBody},
};

/// Nodes that may leave messages with friends of this node.
#[utoipa::path(get, path = "/v1/contacts", tag = "friends", responses((status = 200, body = Contacts)))]
pub(super) async fn list(State(app): State<App>) -> Json<Contacts> {
    Json(app.deps.message.contacts().book().as_ref().into())
}

/// Makes a node a contact: it may leave messages with friends of this node, also with those whose grant lets contacts only.
#[utoipa::path(
    post, path = "/v1/contacts", tag = "friends", request_body = AddContact,
    responses((status = 200, body = Contact), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn add(State(app): State<App>, Body(asked): Body<AddContact>) -> Result<Json<Contact>, ApiError> {
    let address = target(&app, &asked.target).await?;
    let contact = app.deps.message.contacts().add(address).await?;
    Ok(Json(Contact::new(&address, &contact)))
}

/// Takes the right to leave messages back. What was left stays.
#[utoipa::path(
    delete, path = "/v1/contacts/{target}", tag = "friends",
    params(("target" = String, Path, description = "Address or name")),
    responses((status = 200, body = Contacts), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub(super) async fn remove(State(app): State<App>, Segment(text): Segment) -> Result<Json<Contacts>, ApiError> {
    let address = target(&app, &text).await?;
    let contacts = app.deps.message.contacts();
    contacts.remove(address).await?;
    Ok(Json(contacts.book().as_ref().into()))
}
