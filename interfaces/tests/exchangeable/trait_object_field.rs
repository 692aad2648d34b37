//! A trait object's vtable lies in an image.
use interfaces::Exchangeable;

#[derive(Exchangeable)]
pub struct Example(Box<dyn Send>);

fn main() {}
