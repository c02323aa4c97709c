//! Scenarios over real loopback sockets. Every wait has a deadline; ports are chosen by the kernel.

mod calls;
mod hostile;
mod lifecycle;
mod support;
