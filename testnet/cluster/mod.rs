//! Whole nodes in one process: what only shows when map, network and store work together.

mod map;
