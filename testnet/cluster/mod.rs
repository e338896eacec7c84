//! Whole nodes in one process: what only shows when map, network and store work together.

mod hostile;
mod map;
mod raw;
