//! As much of HTTP/1.1 as a page, a form, a probe and a scripted client need: one request per connection, lengths known
//! beforehand.

mod client;
mod message;
mod server;

pub use client::{Answer, get, post};
pub use message::{Request, Response};
pub use server::serve;
