//! What is configured stands in the configuration.


#[derive(runtime::Imports)]
pub struct Imports {
    net: u32,
}

fn main() {}
