mod attacks;
mod lattice;
mod peer;
mod rotation;
mod rules;
mod scenarios;
mod swarm;
#[cfg(feature = "tokio")]
mod udp;
