//! How a command talks to the daemon that has a project open: a unix socket in the project, JSON, one message a line.
//!
//! The client speaks first: [`Hello`] with the protocol's version. The daemon answers with its own [`Hello`], or with an error and
//! hangs up. Then each [`Request`] gets one [`Response`], in order. Connections are served side by side: a slow request holds up
//! only its own. Only the project's owner and root are heard (SO_PEERCRED; the socket is 0600 in a 0700 directory besides).

mod address;
pub mod client;
pub mod message;
mod pijul;
pub mod server;
mod status;

pub use client::Client;
pub use message::{Hello, Request, Response};
pub use server::{Handler, Server};

#[cfg(test)]
mod tests;
