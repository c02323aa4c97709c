mod attacks;
mod lattice;
mod peer;
mod rotation;
mod rules;
mod scenarios;
#[cfg(feature = "tokio")]
mod udp;
