//! Only the kernel makes proxies.
use interfaces::net::NetProxy;

fn forge<G: interfaces::gate::Gate>(gate: G) -> NetProxy<G> {
    NetProxy(gate)
}

fn main() {}
