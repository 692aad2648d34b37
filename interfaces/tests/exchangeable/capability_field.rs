//! A capability crosses by itself, for the kernel's table to know its holder.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example(interfaces::Cap<dyn interfaces::net::Net>);

fn main() {}
