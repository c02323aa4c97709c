mod assignors;
mod classic;
#[cfg(feature = "tokio")]
mod driver;
mod expiry;
mod fences;
mod flapping;
mod golden;
mod limits;
mod model;
mod rules;
mod world;
