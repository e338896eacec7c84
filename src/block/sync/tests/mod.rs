//! Tests of sync as a whole.
