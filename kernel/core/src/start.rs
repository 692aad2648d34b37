//! Starting a generation: load, wire, and the first visit. Runs on a kernel thread of its own, so that a start that hangs or crashes holds nobody up.

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::ptr;

use bundle::manifest::Source;
use interfaces::abi::{Hooks, RawObject, StartArguments, WiredPort};

use crate::{
    call,
    device::Recipient,
    domain::{self, Domain, Exported, Started},
    image,
    incarnation::Incarnation,
    platform::Priority,
    supervisor, table,
    thread::{self, STACK_PAGES, Spawn},
    watchdog,
};

/// Room for the words of a start that is refused.
const WORDS: usize = 400;

/// Begins a start; how it goes is posted in `incarnation.started`. False if there is no memory for the thread, or
/// as many as the manifest admits are still away in others.
pub(crate) fn begin(domain: &'static Domain, incarnation: &Arc<Incarnation>) -> bool {
    let incarnation = incarnation.clone();
    let spawn = Spawn {
        name: format!("start {}", domain.name),
        cpu: domain.spec.cpus.first().map_or(0, |cpu| *cpu as usize),
        // Others wait for this domain.
        priority: Priority::High,
        stack_pages: STACK_PAGES,
        base: None,
        domain: Some(domain),
        work: Box::new(move || {
            let started = start(domain, &incarnation).unwrap_or_else(Started::Refused);
            *incarnation.started.lock() = started;
            supervisor::notice();
        }),
    };
    thread::spawn(spawn).is_some()
}

fn start(domain: &'static Domain, incarnation: &Arc<Incarnation>) -> Result<Started, String> {
    let elf = domain.image.as_ref().map_err(Clone::clone)?;
    let entry = image::load(elf, incarnation).map_err(|error| format!("{error}"))?;
    let imports = wire(domain, incarnation)?;
    let exports = domain
        .exports
        .iter()
        .map(|export| WiredPort::new(&export.port, export.interface.name, export.interface.hash, RawObject::NULL));
    let mut exports: Vec<WiredPort> = exports.collect();
    let mut words = [0u8; WORDS];
    let mut arguments = StartArguments {
        name: domain.name.as_ptr(),
        name_len: domain.name.len(),
        generation: incarnation.generation(),
        cpu_count: domain.spec.cpus.len() as u32,
        cpus: domain.spec.cpus.as_ptr(),
        config: domain.spec.config.as_ptr(),
        config_len: domain.spec.config.len(),
        imports: imports.as_ptr(),
        import_count: imports.len(),
        exports: exports.as_mut_ptr(),
        export_count: exports.len(),
        error: words.as_mut_ptr(),
        error_capacity: WORDS,
        error_len: 0,
        hooks: Hooks { fault: None, release: None },
    };
    let arguments_at = ptr::from_mut(&mut arguments);
    *incarnation.started.lock() = Started::Visiting;
    watchdog::start_within(domain.spec.start_timeout.0);
    // SAFETY: the entry is the image's, called once; the arguments live on this stack until the visit has ended, however it does.
    let visited = call::visit(&call::base_gate(incarnation), |_| unsafe { entry(&table::TABLE, &mut *arguments_at) });
    match visited {
        Ok(0) if exports.iter().all(|export| !export.object.data.is_null()) => {
            incarnation.set_hooks(arguments.hooks);
            Ok(Started::Running(Exported(exports.iter().map(|export| export.object).collect())))
        }
        Ok(0) => Err(String::from("the domain left an export port empty")),
        Ok(_) => {
            let len = arguments.error_len.min(WORDS);
            Err(String::from_utf8_lossy(&words[..len]).into_owned())
        }
        // Nobody has killed it, and nobody would: such as a manifest that asks for more stack than a thread has.
        Err(error) if incarnation.is_live() => Err(format!("its start can't be called: {error} (`min-stack`?)")),
        Err(_) => Ok(Started::Over),
    }
}

/// The proxies of the import ports, in the manifest's order.
fn wire(domain: &'static Domain, incarnation: &Incarnation) -> Result<Vec<WiredPort>, String> {
    let domains = domain::all();
    domain
        .spec
        .imports
        .iter()
        .map(|import| match &import.from {
            Source::Device => {
                let lease = domain.lease.as_ref().ok_or("the domain has no device")?;
                let device = lease.interface();
                if device.name != import.interface {
                    return Err(format!(
                        "port {} wants a {}, the device is a {}",
                        import.port, import.interface, device.name
                    ));
                }
                let object = lease.open(&Recipient(incarnation.owner()));
                Ok(WiredPort::new(&import.port, device.name, device.hash, object))
            }
            Source::Domain { index, port } => domains
                .get(*index as usize)
                .and_then(|exporter| exporter.export(port))
                .filter(|export| export.interface.name == import.interface)
                .map(|export| WiredPort::new(&import.port, export.interface.name, export.interface.hash, export.proxy))
                .ok_or_else(|| format!("port {} is wired to no {}", import.port, import.interface)),
        })
        .collect()
}
