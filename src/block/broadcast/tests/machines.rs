//! Properties of the machines.
