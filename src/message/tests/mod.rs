//! Tests of messages: fixed inputs, properties, a simulation of both machines, and real services over a loopback.

mod contacts;
mod early;
mod evidence;
mod letters;
mod mail;
mod net;
mod offline;
mod once;
mod order;
mod prop;
mod service;
mod sim;
mod turns;
mod vectors;
