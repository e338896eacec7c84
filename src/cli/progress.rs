//! A progress bar on a terminal's stderr, for bodies large enough to wait for and for chains that catch up.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Output;

/// Smaller bodies are gone before a bar is drawn.
const WORTH_A_BAR: u64 = 256 * 1024;

/// A bar, or nothing off a terminal, with `--json` or `-q`, or for a small body.
#[derive(Debug)]
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(super) fn new(out: Output, bytes: u64) -> Self {
        if out.quiet || out.json || bytes < WORTH_A_BAR || !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg:10} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        bar.set_style(style.expect("a constant template"));
        Self(Some(bar))
    }

    pub(super) fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn set(&self, done: u64, doing: &'static str) {
        if let Some(bar) = &self.0 {
            bar.set_message(doing);
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// How far a chain is, or nothing off a terminal, with `--json` or `-q`.
#[derive(Debug)]
pub(super) struct Height(Option<ProgressBar>);

impl Height {
    pub(super) fn new(out: Output) -> Self {
        if out.quiet || out.json || !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}").expect("a constant template"));
        Self(Some(bar))
    }

    /// `doing` stands beside the bar; without anything to reach there is no bar.
    pub(super) fn set(&self, height: u64, target: u64, doing: &str) {
        let Some(bar) = &self.0 else { return };
        let template = if target > height { "{bar:40} {pos}/{len} {msg}" } else { "{spinner} {pos} {msg}" };
        bar.set_style(ProgressStyle::with_template(template).expect("a constant template"));
        bar.set_length(target.max(height));
        bar.set_position(height);
        bar.set_message(doing.to_owned());
        bar.tick();
    }
}

impl Drop for Height {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
