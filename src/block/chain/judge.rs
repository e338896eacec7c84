//! The common rules for time, links and the window, in one place for headers and for blocks.

use std::time::Duration;

use crate::{block::Header, primitives::UnixMillis};

/// How far ahead of our clock a block's time may be.
const DRIFT: Duration = Duration::from_secs(2);
/// How far ahead it may be to be kept until then.
const HOLD: Duration = Duration::from_secs(15);
/// New blocks this far below the head are not passed on: whoever needs them catches up.
const BELOW_HEAD: u64 = 7;
/// Blocks without a parent further above the head are for catching up.
const ABOVE_HEAD: u64 = 32;

/// When a block with this time may be taken.
pub(super) fn earliest(time: UnixMillis) -> UnixMillis {
    time.minus(DRIFT)
}

/// Whether a block that is too early is worth keeping.
pub(super) fn may_wait(time: UnixMillis, now: UnixMillis) -> bool {
    time <= now.plus(HOLD)
}

/// What is wrong between a header and its parent, whose hash it names.
pub(super) fn links(header: &Header, parent: &Header) -> Option<&'static str> {
    if parent.height.checked_add(1) != Some(header.height) {
        return Some("its height is not its parent's plus one");
    }
    (header.time <= parent.time).then_some("it is not later than its parent")
}

pub(super) fn too_far(height: u64, head: u64) -> bool {
    height > head.saturating_add(ABOVE_HEAD)
}

pub(super) fn stale(height: u64, head: u64) -> bool {
    height.saturating_add(BELOW_HEAD) < head
}
