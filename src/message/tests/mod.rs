//! Tests of messages: fixed inputs, properties, a simulation of both machines, and real services over a loopback.

mod contacts;
mod early;
mod evidence;
mod mail;
mod net;
mod offline;
mod once;
mod prop;
mod service;
mod sim;
mod vectors;
