//! Who tells the box its addresses where its manifest leaves them to the network: dnsmasq at the router, by DHCP and by router advertisements. With an address by DHCP goes
//! that of a server for names: dnsmasq again, which knows the lab's.

use crate::error::Error;
use crate::namespace::Namespace;
use crate::network::{PORT, router_on_segment, router_on_segment6};
use crate::options::RunOptions;
use crate::server::Server;
use crate::stage::RUN_DIR;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// Starts it at the router; `None` if the box knows its addresses.
pub fn start(options: &RunOptions, router: &Namespace) -> Result<Option<Server>, Error> {
    if !options.box_settings.told.any() {
        return Ok(None);
    }
    let tool = options.tools.dnsmasq.as_ref();
    let tool =
        tool.ok_or(Error::Options("the box is to be told its addresses, and dnsmasq was not unpacked".into()))?;
    let folder = Path::new(RUN_DIR).join("authority");
    fs::create_dir_all(&folder).map_err(Error::io("folder of dnsmasq"))?;
    Server::start("dnsmasq", tool, &arguments(options, &folder), router, &folder).map(Some)
}

/// The zone of the lab's names: `router.lab`, `client.lab`.
const ZONE: &str = "lab";

fn arguments(options: &RunOptions, folder: &Path) -> Vec<String> {
    let settings = &options.box_settings;
    // Nothing of the machine's own configuration, no change of user (there is only one in the namespace), and of the network only the segment.
    let fixed = ["--no-daemon", "--conf-file=/dev/null", "--pid-file", "--bind-interfaces"];
    let mut arguments = fixed.map(str::to_owned).to_vec();
    arguments.push(format!("--interface={PORT}"));
    arguments.push(format!("--dhcp-leasefile={}", folder.join("leases").display()));
    if settings.told.ip {
        let mask = u32::MAX.checked_shl(32 - u32::from(settings.prefix)).unwrap_or(0);
        let subnet = Ipv4Addr::from(u32::from(settings.ip) & mask);
        // One address, for one box.
        arguments.push(format!("--dhcp-range={subnet},static,{}", Ipv4Addr::from(mask)));
        let mac: Vec<String> = settings.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        arguments.push(format!("--dhcp-host={},{}", mac.join(":"), settings.ip));
        arguments.push("--dhcp-authoritative".into());
        // It asks nobody else: what it doesn't know, there isn't.
        arguments.extend(["--no-resolv", "--no-hosts"].map(str::to_owned));
        arguments.push(format!("--local=/{ZONE}/"));
        arguments.extend(names(options).iter().map(|(name, addresses)| {
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            format!("--host-record={name}.{ZONE},{}", addresses.join(","))
        }));
    } else {
        // Whom nobody tells of it, nobody asks.
        arguments.push("--port=0".into());
    }
    if settings.told.ip6 {
        arguments.push("--enable-ra".into());
        arguments.push(format!("--dhcp-range=::,constructor:{PORT},ra-only"));
    }
    arguments
}

/// The hosts that have names, of IPv6 where the box speaks it.
fn names(options: &RunOptions) -> [(&'static str, Vec<IpAddr>); 2] {
    let client = &options.lab.client;
    let own6 = options.box_settings.ip6;
    let router: Vec<IpAddr> = [IpAddr::V4(router_on_segment(options))]
        .into_iter()
        .chain(own6.map(|own| router_on_segment6(&own).into()))
        .collect();
    let client = [IpAddr::V4(client.address)].into_iter().chain(own6.map(|_| client.address6.into())).collect();
    [("router", router), ("client", client)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Told, tests::options};

    /// One lease, of the box's own address on its own segment, for the box's own card; advertisements only where they are asked for.
    #[test]
    fn one_box_is_told_of() {
        let mut options = options();
        options.box_settings.told = Told { ip: true, ip6: false };
        let line = arguments(&options, Path::new("/x")).join(" ");
        assert!(line.contains("--dhcp-range=10.0.0.0,static,255.255.255.0"), "{line}");
        assert!(line.contains("--dhcp-host=02:00:00:00:00:01,10.0.0.2"), "{line}");
        assert!(!line.contains("enable-ra"), "{line}");
        // With the address goes who knows names: the router's own among them, by IPv4 alone since the box speaks no other.
        assert!(line.contains("--host-record=router.lab,10.0.0.254 ") && !line.contains("--port=0"), "{line}");
        options.box_settings.told = Told { ip: false, ip6: true };
        let line = arguments(&options, Path::new("/x")).join(" ");
        assert!(line.contains("--enable-ra") && !line.contains("--dhcp-host"), "{line}");
        assert!(line.contains("--port=0") && !line.contains("--host-record"), "{line}");
    }
}
