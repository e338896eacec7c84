//! Nodes behind real NATs, in network namespaces of this machine.
//!
//! ```text
//!   relay 11.0.0.1      outside 11.0.0.4      "internet": the bridge of a namespace of its own, 11.0.0.0/24
//!        │                    │
//!  ══════╧═════════╤══════════╧═════════╤══════
//!                  │ 11.0.0.2           │ 11.0.0.3
//!             ┌────┴────┐          ┌────┴────┐   routers: masquerade what goes out, drop unasked what comes in
//!             │  nat a  │          │  nat b  │   (one with `random` ports cannot be punched; one runs miniupnpd)
//!             └────┬────┘          └────┬────┘
//!                  │ 192.168.1.1        │ 192.168.1.1
//!                  │                    │
//!             a 192.168.1.2        b 192.168.1.2   the same inner addr twice, as in real homes
//! ```
//!
//! Each box is a network namespace, each line a veth pair; nothing of it is in the machine's own network, and no test sees
//! the namespaces of another. The addrs are public-looking, because libp2p and our own rules treat private ones differently
//! (UPnP ignores a router without a public addr); nothing leaves the machine. See `lab.rs` for how leftovers are removed.
//!
//! It needs root, `ip` (iproute2) and `nft` (nftables), and `miniupnpd` for UPnP. Where something is missing the tests say so in
//! one line and pass; with `VOS_NATLAB=1` they fail instead.

mod commands;
mod lab;
mod local;
mod moving;
mod punching;
mod upnp;
mod view;
