mod admin;
mod fake;
mod handlers;
mod hostile;
mod requests;
mod server;
mod socket;
mod wire_format;
