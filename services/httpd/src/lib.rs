//! A web server for static content: HTTP/1.1 as RFC 9110 and RFC 9112 want it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod body;
pub mod connection;
pub mod content;
pub mod date;
pub mod grammar;
pub mod head;
pub mod negotiate;
pub mod status;
pub mod target;
