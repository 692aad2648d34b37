//! The box as a process: QEMU, or a program in its place, with its console and feed on sockets that the lab listens at.

use crate::disk;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::network::PORT;
use crate::options::{Boot, Firmware, Program, RunOptions};
use crate::stage::{RUN_DIR, die_with_parent};
use model::vfio_user;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long QEMU gets to connect to the console's and the feed's sockets.
const CONNECT: Duration = Duration::from_secs(20);

pub struct Machine {
    process: Child,
    log: PathBuf,
}

/// The two serial lines.
pub struct Lines {
    pub console: UnixStream,
    pub feed: UnixStream,
}

/// Where QEMU finds the NIC model.
pub fn nic_socket() -> PathBuf {
    Path::new(RUN_DIR).join("nic.sock")
}

impl Machine {
    /// Starts the box and waits until both its serial lines are connected.
    pub fn start(options: &RunOptions, nic: &Namespace) -> Result<(Self, Lines), Error> {
        let listen = |name: &str| {
            let path = Path::new(RUN_DIR).join(name);
            // That of an earlier life of the box.
            let _ = fs::remove_file(&path);
            let listener = UnixListener::bind(&path).map_err(Error::io(format!("socket {name}")))?;
            listener.set_nonblocking(true).map_err(Error::io(format!("socket {name}")))?;
            Ok::<_, Error>((path, listener))
        };
        let (console_path, console) = listen("console.sock")?;
        let (feed_path, feed) = listen("feed.sock")?;
        let mut command = match &options.boot {
            Boot::Program(program) => stand_in(program, options, &console_path, &feed_path)?,
            _ => qemu(options, &console_path, &feed_path)?,
        };
        let log = Path::new(RUN_DIR).join("box.log");
        let stderr = fs::File::create(&log).map_err(Error::io("box's log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // QEMU itself opens no interface, but what it must not see it can't touch.
        nic.adopt(&mut command);
        die_with_parent(&mut command);
        let program = PathBuf::from(command.get_program());
        let process = command.spawn().map_err(|source| Error::Start { what: "the box", program, source })?;
        let mut machine = Self { process, log };
        let lines = Lines { console: machine.accept(&console, "console")?, feed: machine.accept(&feed, "feed")? };
        Ok((machine, lines))
    }

    fn accept(&mut self, listener: &UnixListener, line: &str) -> Result<UnixStream, Error> {
        let deadline = Instant::now() + CONNECT;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(Error::io(format!("box's {line}")))?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Error::io(format!("box's {line}"))(error)),
            }
            if let Some(status) = self.ended() {
                return Err(Error::Inner(format!(
                    "the box ended before it began: {}: {}",
                    describe(status),
                    self.log()
                )));
            }
            if Instant::now() > deadline {
                return Err(Error::Inner(format!(
                    "the box did not connect its {line} within {} s: {}",
                    CONNECT.as_secs(),
                    self.log()
                )));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a power cut would: without a word.
    pub fn cut_power(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // A child that can't be waited for is ours no more.
        self.process.try_wait().ok().flatten()
    }

    /// What QEMU itself printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default().trim().to_owned()
    }

    /// Stops all of the box's time, or lets it go on.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(self.process.id() as i32), signal)
            .map_err(|error| Error::io("stopping the box")(error.into()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An exit status in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".into(),
    }
}

fn stand_in(program: &Program, options: &RunOptions, console: &Path, feed: &Path) -> Result<Command, Error> {
    let written = Path::new(RUN_DIR).join("options.json");
    let text = serde_json::to_vec(options).map_err(|error| Error::Options(error.to_string()))?;
    fs::write(&written, text).map_err(Error::io("options for the stand-in"))?;
    let mut command = Command::new(&program.program);
    command.args(&program.args).envs(&program.env);
    command.env("LAB_NIC", PORT).env("LAB_CONSOLE", console).env("LAB_FEED", feed).env("LAB_OPTIONS", written);
    command.env_remove("REDLEAF_LAB_STAGE");
    Ok(command)
}

fn qemu(options: &RunOptions, console: &Path, feed: &Path) -> Result<Command, Error> {
    let settings = &options.box_settings;
    let mut command = options.tools.qemu.command();
    // What QEMU writes of its own accord (snapshots) goes with the run.
    command.env("TMPDIR", RUN_DIR);
    // Multi-threaded translation: real KVM can't be relied on, and a guest CPU each has a host thread.
    command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-no-reboot"]);
    command.args(["-nodefaults", "-display", "none"]);
    command.args(&options.counter);
    command.args(["-smp", &settings.cpus.to_string()]);
    command.args(vfio_user::memory_arguments(settings.memory));
    for (id, path) in [("console", console), ("feed", feed)] {
        command.args(["-chardev", &format!("socket,id={id},path={}", path.display())]);
        command.args(["-serial", &format!("chardev:{id}")]);
    }
    if settings.iommu {
        // Before the devices that it stands before. What a device of another process may reach it is told as it is granted: caching mode.
        command.args(["-device", "intel-iommu,caching-mode=on"]);
    }
    command.args(vfio_user::card_arguments(&nic_socket()));
    for disk in &options.disks {
        let file = disk::prepare(disk, options.keep_disks.as_deref())?;
        command.args(disk::arguments(disk, &file));
    }
    match &options.boot {
        Boot::Kernel { kernel, bundle } => {
            command.arg("-kernel").arg(kernel).arg("-initrd").arg(bundle);
        }
        Boot::Linux { kernel, initramfs, parameters } => {
            command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs).args(["-append", parameters]);
        }
        Boot::Image { image, firmware } => {
            // The image is what gets flashed: never written to here.
            let drive = format!("file={},format=raw,if=none,id=disk,snapshot=on", image.display());
            command.args(["-drive", &drive, "-device", "ide-hd,drive=disk,bus=ide.0,bootindex=0"]);
            if *firmware == Firmware::Uefi {
                let Some((code, variables)) = &options.tools.ovmf else {
                    return Err(Error::Options("no UEFI firmware was unpacked for this run".into()));
                };
                let own = Path::new(RUN_DIR).join("ovmf-variables.fd");
                fs::copy(variables, &own).map_err(Error::io("UEFI variables"))?;
                command.args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={}", code.display())]);
                command.args(["-drive", &format!("if=pflash,format=raw,unit=1,file={}", own.display())]);
            }
        }
        Boot::Program(_) => unreachable!("a program is not QEMU"),
    }
    Ok(command)
}
