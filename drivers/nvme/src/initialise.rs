//! From reset to queues that work (§3.5.1), or from a live lease to a driver that knows what it has.

use alloc::{format, vec::Vec};

use interfaces::{
    Port,
    device::nvme::{AdminCommand, DeviceError, Feature, LeaseState, NvmeDevice, Register},
};
use runtime::{env::StartError, time::now};

use crate::{
    admin::{Admin, Answer, pause},
    config::Config,
    controller::Controller,
    identify::{ControllerData, NamespaceData},
};

/// Queues that the trusted layer has.
const MAX_QUEUES: usize = 16;
/// Namespaces that the trusted layer knows the formats of.
const MAX_NAMESPACES: u32 = 64;
/// How long the queues of the generation before may take to be closed, and the controller to be reset.
const HANDOVER_LIMIT: u64 = 30_000_000_000;
/// Events that are asked for (§5.27.1.8): the SMART critical warnings, namespace and firmware notices.
const EVENTS: u32 = 0x1F | 1 << 8 | 1 << 9;

/// Finds out what the device is, then adopts or initialises it.
pub fn take_charge(
    device: Port<dyn NvmeDevice>,
    config: &Config,
    cpus: usize,
) -> Result<(Controller, Admin), StartError> {
    let wanted = cpus.clamp(1, MAX_QUEUES) as u16;
    let interrupts = device.identity().vectors > wanted;
    let state = device.lease();
    let charge = match state {
        LeaseState::Live { queues, depth } if queues <= wanted => {
            adopt(device, config, queues, depth, interrupts).map_err(|error| failed("adoption", error))?
        }
        _ => {
            let lost = reset(device).map_err(|error| failed("reset", error))?;
            if state != LeaseState::Fresh {
                log::warn!("was {state:?}, has been reset; {lost} requests lost");
            }
            initialise(device, config, wanted, interrupts).map_err(|error| failed("initialisation", error))?
        }
    };
    let Controller { data, queues, depth, .. } = &charge.0;
    let version = device.read(Register::Version).map_err(|error| failed("reading the version", error))?;
    log::info!(
        "{} ({}), firmware {}, NVMe {}.{}: {queues} queues of {depth}, {} namespaces",
        data.model,
        data.serial,
        data.firmware,
        version >> 16,
        version >> 8 & 0xFF,
        charge.0.namespaces.lock().iter().flatten().count()
    );
    Ok(charge)
}

fn adopt(
    device: Port<dyn NvmeDevice>,
    config: &Config,
    queues: u16,
    depth: u16,
    interrupts: bool,
) -> Result<(Controller, Admin), DeviceError> {
    log::info!("adopting {queues} live queues");
    let mut admin = Admin::open(device, interrupts)?;
    let data = identify(&mut admin)?;
    let namespaces = namespaces(&mut admin, &data)?;
    Ok((Controller::new(device, config, data, queues, depth, interrupts, namespaces), admin))
}

fn initialise(
    device: Port<dyn NvmeDevice>,
    config: &Config,
    wanted: u16,
    interrupts: bool,
) -> Result<(Controller, Admin), DeviceError> {
    device.enable()?;
    let mut admin = Admin::open(device, interrupts)?;
    let data = identify(&mut admin)?;
    let namespaces = namespaces(&mut admin, &data)?;
    let count = u32::from(wanted) - 1;
    let number = AdminCommand::SetFeature { feature: Feature::NumberOfQueues, value: count | count << 16 };
    // The device says how many it gives of each kind, counted from 0 (§5.27.1.5).
    let (granted, _) = admin.require(number)?;
    let queues = (granted & 0xFFFF).min(granted >> 16).min(count) as u16 + 1;
    if data.volatile_cache {
        let value = u32::from(config.volatile_cache);
        optional(&mut admin, AdminCommand::SetFeature { feature: Feature::VolatileWriteCache, value })?;
    }
    optional(&mut admin, AdminCommand::SetFeature { feature: Feature::AsynchronousEvents, value: EVENTS })?;
    // CAP.MQES counts from 0, and a queue holds one less than it has entries.
    let most = (device.read(Register::Capabilities)? & 0xFFFF).max(1) as u16;
    let depth = config.depth.min(most);
    for queue in 0..queues {
        admin.require(AdminCommand::CreateCompletionQueue { queue, entries: depth + 1 })?;
        admin.require(AdminCommand::CreateSubmissionQueue { queue })?;
    }
    device.set_live(queues, depth)?;
    Ok((Controller::new(device, config, data, queues, depth, interrupts, namespaces), admin))
}

fn identify(admin: &mut Admin) -> Result<ControllerData, DeviceError> {
    let (_, data) = admin.require(AdminCommand::Identify { structure: 1, namespace: 0 })?;
    Ok(ControllerData::parse(data))
}

/// What each namespace is; asking also tells the trusted layer its format.
pub fn namespaces(admin: &mut Admin, data: &ControllerData) -> Result<Vec<Option<NamespaceData>>, DeviceError> {
    let mut found = Vec::new();
    for namespace in 1..=data.namespaces.min(MAX_NAMESPACES) {
        found.push(match admin.ask(AdminCommand::Identify { structure: 0, namespace })? {
            Answer::Done { data, .. } => NamespaceData::parse(data),
            Answer::Refused(_) => None,
        });
    }
    while found.last() == Some(&None) {
        found.pop();
    }
    Ok(found)
}

/// Sets what a device may do without.
fn optional(admin: &mut Admin, command: AdminCommand) -> Result<(), DeviceError> {
    if let Answer::Refused(status) = admin.ask(command)? {
        log::warn!("{command:?} was refused with status {status:#05x}");
    }
    Ok(())
}

/// Resets the controller, as soon as the handles of the generation before are closed.
fn reset(device: Port<dyn NvmeDevice>) -> Result<u32, DeviceError> {
    let limit = now() + HANDOVER_LIMIT;
    loop {
        match device.reset_lease() {
            Err(DeviceError::Busy | DeviceError::TimedOut) if now() < limit => pause(1_000_000)?,
            result => return result,
        }
    }
}

fn failed(step: &str, error: DeviceError) -> StartError {
    StartError(format!("{step} failed: {error}"))
}
