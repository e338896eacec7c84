//! L1: logs, metrics registry, build information.
//!
//! Metrics are plain structs of documented counters, made by their feature, registered in one [`Registry`] by the node and
//! rendered at `/metrics` in the Prometheus text format. No globals.

mod build_info;
mod logs;

pub use build_info::{VERSION, agent};
pub use logs::{LogFormat, init};
pub use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
