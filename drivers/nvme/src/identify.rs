//! What the device says of itself, parsed as if an enemy had written it.

use alloc::string::String;

use interfaces::device::nvme::DATA_BYTES;

type Data = [u8; DATA_BYTES];

fn word(data: &Data, at: usize) -> u16 {
    u16::from_le_bytes([data[at], data[at + 1]])
}

fn double_word(data: &Data, at: usize) -> u32 {
    u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

fn quad_word(data: &Data, at: usize) -> u64 {
    u64::from(double_word(data, at)) | u64::from(double_word(data, at + 4)) << 32
}

/// ASCII padded with spaces; whatever isn't printable is shown as such.
fn text(data: &[u8]) -> String {
    let printable = |byte: &u8| if (0x20..0x7F).contains(byte) { char::from(*byte) } else { '?' };
    let text: String = data.iter().map(printable).collect();
    text.trim().into()
}

/// Identify Controller (§5.17.2.1), as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerData {
    pub serial: String,
    pub model: String,
    pub firmware: String,
    /// The largest transfer in pages of 4 KiB; `None`: no limit.
    pub transfer_pages: Option<u32>,
    pub namespaces: u32,
    /// Asynchronous event requests that may be in flight.
    pub events: u8,
    pub volatile_cache: bool,
    pub deallocate: bool,
    pub write_zeroes: bool,
}

impl ControllerData {
    pub fn parse(data: &Data) -> Self {
        let commands = word(data, 520);
        ControllerData {
            serial: text(&data[4..24]),
            model: text(&data[24..64]),
            firmware: text(&data[64..72]),
            transfer_pages: (1..=20).contains(&data[77]).then(|| 1 << data[77]),
            namespaces: double_word(data, 516),
            events: data[259].saturating_add(1),
            volatile_cache: data[525] & 1 != 0,
            deallocate: commands & 1 << 2 != 0,
            write_zeroes: commands & 1 << 3 != 0,
        }
    }
}

/// Identify Namespace (NVM Command Set 1.0 §4.1.5.1); `None` if it is inactive or has a format that isn't supported (metadata, odd sizes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceData {
    pub blocks: u64,
    pub block_size: u32,
}

impl NamespaceData {
    pub fn parse(data: &Data) -> Option<Self> {
        let at = 128 + 4 * (usize::from(data[26] & 0xF) | usize::from(data[26] >> 5 & 3) << 4);
        let (blocks, metadata, shift) = (quad_word(data, 0), word(data, at), data[at + 2]);
        let usable = blocks > 0 && metadata == 0 && (9..=16).contains(&shift);
        usable.then(|| NamespaceData { blocks, block_size: 1 << shift })
    }
}

/// The SMART / Health Information log (§5.16.1.3). Counters of 128 bits are cut to 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub critical_warning: u8,
    /// Kelvin.
    pub temperature: u16,
    pub spare_percent: u8,
    pub used_percent: u8,
    /// Thousands of 512 bytes.
    pub units_read: u64,
    pub units_written: u64,
    pub power_cycles: u64,
    pub unsafe_shutdowns: u64,
    pub media_errors: u64,
    pub error_log_entries: u64,
}

impl Health {
    pub fn parse(data: &Data) -> Self {
        Health {
            critical_warning: data[0],
            temperature: word(data, 1),
            spare_percent: data[3],
            used_percent: data[5],
            units_read: quad_word(data, 32),
            units_written: quad_word(data, 48),
            power_cycles: quad_word(data, 112),
            unsafe_shutdowns: quad_word(data, 144),
            media_errors: quad_word(data, 160),
            error_log_entries: quad_word(data, 176),
        }
    }
}

/// The newest entry of the Error Information log (§5.16.1.2): error count, status code type and code, first block; `None` if the log is empty.
pub fn newest_error(data: &Data) -> Option<(u64, u16, u64)> {
    let count = quad_word(data, 0);
    (count != 0).then(|| (count, word(data, 12) >> 1 & 0x7FF, quad_word(data, 16)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let mut data = [0; DATA_BYTES];
        data[4..8].copy_from_slice(b"S1\xff ");
        data[77] = 5;
        data[516] = 3;
        data[520] = 0b1100;
        data[525] = 1;
        let parsed = ControllerData::parse(&data);
        assert_eq!((parsed.serial.replace('?', "").trim(), parsed.transfer_pages), ("S1", Some(32)));
        assert_eq!((parsed.namespaces, parsed.events), (3, 1));
        assert!(parsed.volatile_cache && parsed.deallocate && parsed.write_zeroes);
    }

    /// Protects against a namespace whose blocks are longer than they look, and formats that can't be.
    #[test]
    fn formats_that_are_not_supported_are_not_used() {
        let mut data = [0; DATA_BYTES];
        data[0] = 100;
        data[26] = 1;
        [data[134], data[132]] = [12, 0];
        assert_eq!(NamespaceData::parse(&data), Some(NamespaceData { blocks: 100, block_size: 4096 }));
        data[132] = 8;
        assert_eq!(NamespaceData::parse(&data), None, "metadata");
        [data[134], data[132]] = [40, 0];
        assert_eq!(NamespaceData::parse(&data), None, "blocks of 1 TiB");
        data[26] = 0xFF;
        assert_eq!(NamespaceData::parse(&data), None, "the last format that can be named");
    }
}
