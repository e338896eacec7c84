//! The numbers vos promises, each printed as a ratio against a named baseline measured in the same run.
//!
//! `cargo bench` runs all; `cargo bench -- rpc` one group (rpc, map, message, large, mailbox, block, broadcast, block_sync). What each
//! group defends stands at its module. Ratios on a
//! busy machine are still ratios: baseline and candidate alternate, and the median of the rounds counts.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::large_futures,
    clippy::needless_pass_by_value,
    reason = "a program that prints, and ends where something unexpected happens"
)]

mod block;
mod block_sync;
mod broadcast;
mod bulk;
mod mailbox;
mod map;
mod measure;
mod message;
mod rpc;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, what, path] = &arguments[..]
        && what == map::CHILD
    {
        return map::child(path);
    }
    let filter: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| filter.is_empty() || filter.iter().any(|f| name.contains(f.as_str()));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a tokio runtime");
    if let [_, what, chain] = &arguments[..]
        && what == block_sync::CHILD
    {
        return runtime.block_on(block_sync::child(chain));
    }
    if wanted("rpc") {
        runtime.block_on(rpc::run());
    }
    if wanted("map") {
        runtime.block_on(map::run());
    }
    if wanted("message") {
        runtime.block_on(message::run());
    }
    if wanted("large") {
        runtime.block_on(message::run_large());
    }
    if wanted("block") {
        runtime.block_on(block::run());
    }
    if wanted("mailbox") {
        runtime.block_on(mailbox::run());
    }
    if wanted("block_sync") {
        runtime.block_on(block_sync::run());
    }
    if wanted("broadcast") {
        runtime.block_on(broadcast::run());
    }
}
