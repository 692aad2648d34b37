//! GRUB for both firmwares, by `grub-mkimage` alone: `grub-install` wants root and a block device, and all it does beyond this are the few
//! fixed writes below.

use super::{CORE_START, ImageError, SECTOR};
use prefix::{Prefix, Tool};
use std::fs;
use std::path::Path;

/// Read from the EFI system partition, under both firmwares.
pub const CONFIG: &str = "\
set timeout=0
insmod all_video
multiboot2 /redleaf/kernel
module2 /redleaf/bundle bundle
boot
";

/// What finds [`CONFIG`], before there is a file system: baked into GRUB itself.
fn early_config(volume: u32) -> String {
    // As blkid writes a FAT volume's number.
    let (high, low) = (volume >> 16, volume & 0xffff);
    format!("search.fs_uuid {high:04X}-{low:04X} root\nconfigfile ($root)/redleaf/grub.cfg\n")
}

const MODULES: [&str; 8] =
    ["part_gpt", "fat", "search_fs_uuid", "configfile", "normal", "multiboot2", "boot", "all_video"];

pub struct Grub {
    /// The first 440 bytes of the disk.
    pub boot_code: [u8; 440],
    /// core.img, to lie at [`CORE_START`].
    pub core: Vec<u8>,
    /// BOOTX64.EFI.
    pub efi: Vec<u8>,
}

impl Grub {
    /// Makes all three for a disk whose EFI system partition has this volume number.
    pub fn make(volume: u32) -> Result<Grub, ImageError> {
        let prefix = Prefix::ensure(&[Tool::Grub])?;
        let folder = tempfile::tempdir()?;
        let early = folder.path().join("early.cfg");
        fs::write(&early, early_config(volume))?;
        let bios = prefix.file(Tool::Grub, "usr/lib/grub/i386-pc")?;
        let efi = prefix.file(Tool::Grub, "usr/lib/grub/x86_64-efi")?;
        let mut core = mkimage(&prefix, "i386-pc", &bios, &early, &["biosdisk"])?;
        let efi = mkimage(&prefix, "x86_64-efi", &efi, &early, &[])?;
        point_core_at_itself(&mut core)?;
        let boot_image = fs::read(bios.join("boot.img"))?;
        Ok(Grub { boot_code: boot_code(&boot_image)?, core, efi })
    }
}

fn mkimage(
    prefix: &Prefix,
    format: &'static str,
    modules: &Path,
    early: &Path,
    more: &[&str],
) -> Result<Vec<u8>, ImageError> {
    let output = early.with_file_name(format);
    let mut command = prefix.command("grub-mkimage")?;
    command.args(["-O", format, "-p", "/redleaf"]).arg("-d").arg(modules).arg("-c").arg(early).arg("-o").arg(&output);
    let result = command.args(MODULES).args(more).output()?;
    if !result.status.success() {
        let reason = String::from_utf8_lossy(&result.stderr).into_owned();
        return Err(ImageError::Grub { format, reason });
    }
    Ok(fs::read(&output)?)
}

/// boot.img up to the partition table, told where core.img's first sector is.
fn boot_code(boot_image: &[u8]) -> Result<[u8; 440], ImageError> {
    let reason = || ImageError::Grub { format: "i386-pc", reason: "boot.img is too short".into() };
    let mut code: [u8; 440] = boot_image.get(..440).and_then(|code| code.try_into().ok()).ok_or_else(reason)?;
    // boot.S, `kernel_sector`: a 64-bit sector number.
    code[0x5c..0x64].copy_from_slice(&(CORE_START as u64).to_le_bytes());
    // boot.S, `boot_drive_check`: the jump that is meant for floppies becomes two NOPs, as grub-install makes it.
    code[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
    Ok(code)
}

/// The first sector of core.img loads the others: it ends with a list of one block, which grub-mkimage can't know.
fn point_core_at_itself(core: &mut Vec<u8>) -> Result<(), ImageError> {
    core.resize(core.len().next_multiple_of(SECTOR), 0);
    let sectors = core.len() / SECTOR;
    let count = u16::try_from(sectors.saturating_sub(1)).ok().filter(|&count| count > 0);
    let count =
        count.ok_or(ImageError::TooLarge { what: "GRUB's core.img", bytes: core.len(), room: 65_536 * SECTOR })?;
    // diskboot.S, `blocklist_default_start`, `_len`, `_seg`.
    core[0x1f4..0x1fc].copy_from_slice(&(CORE_START as u64 + 1).to_le_bytes());
    core[0x1fc..0x1fe].copy_from_slice(&count.to_le_bytes());
    core[0x1fe..0x200].copy_from_slice(&0x820u16.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fixed writes are where boot.S and diskboot.S have the fields, and touch nothing else.
    #[test]
    fn fixed_writes() {
        let code = boot_code(&[0xaa; 512]).unwrap();
        assert_eq!(code[0x5c..0x64], [0, 8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(code.iter().filter(|&&byte| byte == 0xaa).count(), 440 - 10);
        let mut core = vec![0xaa; 3 * SECTOR - 100];
        point_core_at_itself(&mut core).unwrap();
        assert_eq!(core.len(), 3 * SECTOR);
        assert_eq!(core[0x1f4..0x200], [1, 8, 0, 0, 0, 0, 0, 0, 2, 0, 0x20, 0x08]);
        assert!(point_core_at_itself(&mut vec![0; 10]).is_err());
        assert!(boot_code(&[0; 439]).is_err());
    }

    /// The volume's number as GRUB prints it.
    #[test]
    fn volume_numbers() {
        assert!(early_config(0x0012_abcd).starts_with("search.fs_uuid 0012-ABCD root\n"));
    }
}
