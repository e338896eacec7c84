//! `vos events`, and following some of the events for other commands.

use super::super::{
    Context,
    exit::{CliError, Exit},
};
use crate::api::schema::Event;

/// Said on stderr when nothing is missed any more.
pub(super) const LISTENING: &str = "listening until Ctrl-C";

/// Everything, as JSON lines, also what this version does not know.
pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let mut events = context.client()?.events().await?;
    context.out.note(LISTENING);
    while let Some(event) = events.next_value().await? {
        context.out.json_line(&event)?;
    }
    Err(ended())
}

/// Prints the events for which `line` has a text: the text, or the event with `--json`.
pub(super) async fn follow(context: &Context, line: impl Fn(&Event) -> Option<String>) -> Result<(), CliError> {
    let mut events = context.client()?.events().await?;
    context.out.note(LISTENING);
    while let Some(event) = events.next().await? {
        if let Some(text) = line(&event) {
            context.out.show(&event, |_| text)?;
        }
    }
    Err(ended())
}

pub(super) fn ended() -> CliError {
    CliError::new(Exit::NotRunning, "not_running", "the daemon ended the stream: it is stopping")
}
