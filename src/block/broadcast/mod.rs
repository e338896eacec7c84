//! New blocks, to everybody, once.
