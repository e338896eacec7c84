//! L4: the VOS Map. (Skeleton: the design doc is written with the feature.)
mod config;
mod handle;
pub use config::Config;
pub use handle::*;
