//! The numbers vos promises, each printed as a ratio against a named baseline measured in the same run.
//!
//! `cargo bench` runs all; `cargo bench -- rpc` one group. What each group defends stands at its module. Ratios on a
//! busy machine are still ratios: baseline and candidate alternate, and the median of the rounds counts.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that prints"
)]

mod measure;
mod rpc;

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| filter.is_empty() || filter.iter().any(|f| name.contains(f.as_str()));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a tokio runtime");
    if wanted("rpc") {
        runtime.block_on(rpc::run());
    }
}
