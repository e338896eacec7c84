//! L4: the VOS Map. (Skeleton: the design doc is written with the feature.)
mod handle;
pub use handle::*;
