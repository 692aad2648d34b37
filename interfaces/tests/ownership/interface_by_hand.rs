//! Nobody makes a trait of his own an interface.
use interfaces::Interface;

trait Mine: Send {}

impl Interface for dyn Mine {
    const NAME: &'static str = "Net";
    const HASH: u64 = 0;
    fn to_raw(_: *mut Self) -> interfaces::abi::RawObject {
        interfaces::abi::RawObject::NULL
    }
    fn from_raw(_: interfaces::abi::RawObject) -> *mut Self {
        panic!()
    }
}

fn main() {}
