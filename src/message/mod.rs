//! L4: messages. (Skeleton: the design doc is written with the feature.)
mod handle;
pub use handle::*;
