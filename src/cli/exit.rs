//! The one table of exit statuses, and errors on their way to the user.

use std::{error::Error, fmt, io};

use crate::{
    api::{BindError, ClientError, TokenError, schema::Record},
    config::ConfigError,
    identity::KeystoreError,
    node,
};

/// Exit statuses; scripts depend on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage or bad input.
    Usage = 2,
    /// The daemon is not running or not reachable.
    NotRunning = 3,
    /// Unknown address, name or message.
    NotFound = 4,
    /// Offline or unreachable peer.
    Unreachable = 5,
    /// Timed out.
    TimedOut = 6,
    /// Refused by the other side or by policy.
    Refused = 7,
}

impl Exit {
    /// The exit status of an error code of the control API.
    pub(crate) fn of_code(code: &str) -> Self {
        match code {
            "invalid" | "ambiguous" | "too_large" => Self::Usage,
            "stopping" => Self::NotRunning,
            "not_found" | "unknown_recipient" => Self::NotFound,
            "unreachable" => Self::Unreachable,
            "timed_out" => Self::TimedOut,
            "banned" | "refused" | "halted" | "duplicate" | "full" | "unauthorized" | "foreign_host"
            | "foreign_origin" => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// What goes wrong on the way, with its exit status and a stable code for `--json`.
#[derive(Debug)]
pub(crate) struct CliError {
    /// The exit status.
    pub exit: Exit,
    /// A stable word for programs.
    pub code: String,
    /// For people: what was wrong and what to do.
    pub message: String,
    /// With an ambiguous name: its owners.
    pub owners: Vec<Record>,
    /// More keys of the JSON error.
    pub extra: Vec<(&'static str, String)>,
    /// The error was already told on stdout as the command's answer (e.g. `vos online` of an offline node).
    pub silent: bool,
}

impl CliError {
    /// An error with its status and code.
    pub(crate) fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.to_owned(),
            message: message.into(),
            owners: Vec::new(),
            extra: Vec::new(),
            silent: false,
        }
    }

    /// Wrong usage.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "invalid", message)
    }

    /// A failure without a better status.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, "failed", message)
    }

    /// One more key of the JSON error.
    pub(crate) fn with(mut self, key: &'static str, value: &str) -> Self {
        self.extra.push((key, value.to_owned()));
        self
    }

    /// Only the exit status: the answer says the rest.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self { silent: true, ..Self::new(exit, "", "") }
    }

    /// An error of the file system about a path or a stream.
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        match error.kind() {
            // Whoever read our output has seen enough: `vos peers | head -1`.
            io::ErrorKind::BrokenPipe => Self::silent(Exit::Done),
            _ => Self::failed(format!("{what}: {error}")),
        }
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Many errors already show their cause.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self::io("writing the output", &error)
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let text = error.to_string();
        match error {
            ClientError::NotRunning { .. } => Self::new(Exit::NotRunning, "not_running", text),
            ClientError::TimedOut => Self::new(Exit::TimedOut, "timed_out", text),
            ClientError::Broken(_) => Self::new(Exit::NotRunning, "broken", text),
            ClientError::Unexpected(_) => Self::new(Exit::Failed, "unexpected", text),
            ClientError::Body(source) if source.kind() == io::ErrorKind::FileTooLarge => {
                Self::new(Exit::Usage, "too_large", source.to_string())
            }
            ClientError::Body(source) => Self::usage(format!("cannot read the body: {source}")),
            ClientError::Refused { detail, .. } => {
                let exit = Exit::of_code(&detail.code);
                Self { owners: detail.owners, ..Self::new(exit, &detail.code, detail.message) }
            }
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, "config", error.to_string())
    }
}

impl From<KeystoreError> for CliError {
    fn from(error: KeystoreError) -> Self {
        Self::new(Exit::Failed, "identity", error.to_string())
    }
}

impl From<TokenError> for CliError {
    fn from(error: TokenError) -> Self {
        Self::new(Exit::Failed, "token", error.to_string())
    }
}

impl From<BindError> for CliError {
    fn from(error: BindError) -> Self {
        Self::new(Exit::Failed, "bind", error.to_string())
    }
}

impl From<node::Error> for CliError {
    fn from(error: node::Error) -> Self {
        let exit = if error.is_bad_input() { Exit::Usage } else { Exit::Failed };
        Self::new(exit, "node", chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::ErrorDetail;

    #[test]
    fn exit_statuses_are_those_that_scripts_know() {
        use Exit::*;
        let all = [Done, Failed, Usage, NotRunning, NotFound, Unreachable, TimedOut, Refused];
        // `Exit` is `repr(u8)`, so the cast is its number.
        assert_eq!(all.map(|e| e as u8), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn every_code_of_the_api_has_its_exit_status() {
        let table = [
            ("invalid", 2),
            ("ambiguous", 2),
            ("too_large", 2),
            ("stopping", 3),
            ("not_found", 4),
            ("unknown_recipient", 4),
            ("unreachable", 5),
            ("timed_out", 6),
            ("banned", 7),
            ("full", 7),
            ("halted", 7),
            ("duplicate", 7),
            ("unauthorized", 7),
            ("too_late", 1),
            ("busy", 1),
            ("disk_full", 1),
            ("store_failed", 1),
            ("of a newer version", 1),
        ];
        for (code, exit) in table {
            let detail = ErrorDetail { code: code.into(), message: "why".into(), owners: Vec::new() };
            let error = CliError::from(ClientError::Refused { status: 400, detail: Box::new(detail) });
            assert_eq!((error.exit as u8, error.code.as_str(), error.message.as_str()), (exit, code, "why"));
        }
        let source = io::ErrorKind::NotFound.into();
        let error = CliError::from(ClientError::NotRunning { place: "/x/api.sock".into(), source });
        assert_eq!(error.exit, NotRunning);
        assert!(error.message.contains("vos daemon"), "{error}");
    }

    use Exit::NotRunning;

    #[test]
    fn a_broken_pipe_is_no_error() {
        let error = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(error.silent && error.exit == Exit::Done);
    }
}
