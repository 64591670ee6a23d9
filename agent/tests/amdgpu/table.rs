//! Tables as the amdgpu driver writes them: from the fields that the kernel's `kgd_pp_interface.h` lists, laid out
//! by the rules of C, and not from what the source believes.

/// Fields in order: name, bytes of one, how many.
type Field = (&'static str, usize, usize);

const OLD: &[Field] = &[
    ("temperatures", 2, 6),
    ("average_gfx_activity", 2, 1),
    ("average_umc_activity", 2, 1),
    ("average_mm_activity", 2, 1),
    ("average_socket_power", 2, 1),
    ("energy_accumulator", 8, 1),
    ("system_clock_counter", 8, 1),
    ("average_gfxclk_frequency", 2, 1),
    ("other_average_clocks", 2, 6),
    ("current_gfxclk", 2, 1),
    ("other_current_clocks", 2, 6),
    ("throttle_status", 4, 1),
    ("current_fan_speed", 2, 1),
    ("pcie_link_width", 2, 1),
    ("pcie_link_speed", 2, 1),
    ("padding", 2, 1),
    ("gfx_activity_acc", 4, 1),
    ("mem_activity_acc", 4, 1),
    ("temperature_hbm", 2, 4),
];
const OLDEST: &[Field] = &[
    ("system_clock_counter", 8, 1),
    ("temperatures", 2, 6),
    ("average_gfx_activity", 2, 1),
    ("average_umc_activity", 2, 1),
    ("average_mm_activity", 2, 1),
    ("average_socket_power", 2, 1),
    ("energy_accumulator_32", 4, 1),
    ("average_gfxclk_frequency", 2, 1),
    ("other_average_clocks", 2, 6),
    ("current_gfxclk", 2, 1),
    ("other_current_clocks", 2, 6),
    ("throttle_status", 4, 1),
    ("current_fan_speed", 2, 1),
    ("pcie_link_width", 1, 1),
    ("pcie_link_speed", 1, 1),
];
const START: &[Field] = &[
    ("temperatures", 2, 3),
    ("curr_socket_power", 2, 1),
    ("average_gfx_activity", 2, 1),
    ("average_umc_activity", 2, 1),
];
const VCN: &[Field] = &[("vcn_activity", 2, 4)];
const JPEG: &[Field] = &[("jpeg_activity", 2, 32)];
const BANDWIDTH: &[Field] = &[("mem_max_bandwidth", 8, 1)];
const ENERGY: &[Field] = &[("energy_accumulator", 8, 1), ("system_clock_counter", 8, 1)];
const RESIDENCIES: &[Field] = &[("accumulation_counter", 4, 1), ("residencies", 4, 5)];
const THROTTLE: &[Field] = &[("throttle_status", 4, 1)];
const LINKS: &[Field] = &[
    ("gfxclk_lock_status", 4, 1),
    ("pcie_link", 2, 2),
    ("xgmi_link", 2, 2),
    ("gfx_activity_acc", 4, 1),
    ("mem_activity_acc", 4, 1),
    ("pcie_bandwidth", 8, 2),
    ("pcie_counts", 8, 3),
];
const NAKS: &[Field] = &[("pcie_nak_counts", 4, 2)];
const XGMI: &[Field] = &[("xgmi_read_data_acc", 8, 8), ("xgmi_write_data_acc", 8, 8)];
const XGMI_STATUS: &[Field] = &[("xgmi_link_status", 2, 8), ("padding", 2, 1)];
const CLOCKS: &[Field] = &[
    ("firmware_timestamp", 8, 1),
    ("current_gfxclk", 2, 8),
    ("other_current_clocks", 2, 12),
    ("current_uclk", 2, 1),
];
const PADDING: &[Field] = &[("padding_at_the_end", 2, 1)];

/// A partition's statistics are 8 u32, 32 or 40 and 4 u16, and some arrays of 8 u64, in eight partitions.
fn partitions(u64s: usize, jpegs: usize) -> Vec<Field> {
    let bytes = 8 * 4 + (jpegs + 4) * 2 + u64s * 8;
    assert!(bytes.is_multiple_of(8));
    vec![("num_partition", 2, 1), ("xcp_stats", 8, bytes), ("pcie_lc_perf_other_end_recovery", 4, 1)]
}

/// The fields of revision `1.content`; 60 is 1.6 as it was first published.
fn fields(content: u8) -> Vec<Field> {
    match content {
        0 => OLDEST.to_vec(),
        1 => OLD.to_vec(),
        2 => [OLD, &[("firmware_timestamp", 8, 1)]].concat(),
        3 => [
            OLD,
            &[("firmware_timestamp", 8, 1), ("voltages", 2, 3), ("padding1", 2, 1)],
            &[("indep_throttle_status", 8, 1)],
        ]
        .concat(),
        4 => [START, VCN, ENERGY, THROTTLE, LINKS, XGMI, CLOCKS, PADDING].concat(),
        5 => [START, VCN, JPEG, ENERGY, THROTTLE, LINKS, NAKS, XGMI, CLOCKS, PADDING].concat(),
        60 => [START, VCN, JPEG, ENERGY, RESIDENCIES, THROTTLE, LINKS, NAKS, XGMI, CLOCKS, PADDING].concat(),
        6 => [START, ENERGY, RESIDENCIES, LINKS, NAKS, XGMI, CLOCKS, &partitions(8, 32)].concat(),
        7 => [
            START,
            BANDWIDTH,
            ENERGY,
            RESIDENCIES,
            LINKS,
            NAKS,
            XGMI,
            XGMI_STATUS,
            CLOCKS,
            &partitions(16, 32),
        ]
        .concat(),
        8 => [
            START,
            BANDWIDTH,
            ENERGY,
            RESIDENCIES,
            LINKS,
            NAKS,
            XGMI,
            XGMI_STATUS,
            CLOCKS,
            &partitions(40, 40),
        ]
        .concat(),
        _ => panic!("no such revision"),
    }
}

/// A table in the making: as the driver does it, all ones until something is set.
#[derive(Clone)]
pub(crate) struct Table {
    content: u8,
    bytes: Vec<u8>,
}

impl Table {
    pub(crate) fn revision(content: u8) -> Self {
        let mut size = 4_usize;
        let mut widest = 2;
        for (_, width, count) in fields(content) {
            size = size.next_multiple_of(width) + width * count;
            widest = widest.max(width);
        }
        let mut bytes = vec![0xff; size.next_multiple_of(widest)];
        let size = u16::try_from(bytes.len()).unwrap();
        bytes[..2].copy_from_slice(&size.to_le_bytes());
        (bytes[2], bytes[3]) = (1, if content == 60 { 6 } else { content });
        Self { content, bytes }
    }

    /// Sets the first of the fields of this name.
    pub(crate) fn set(self, name: &str, value: u64) -> Self {
        self.set_nth(name, 0, value)
    }

    pub(crate) fn set_nth(mut self, name: &str, nth: usize, value: u64) -> Self {
        let mut at = 4_usize;
        for (field, width, count) in fields(self.content) {
            at = at.next_multiple_of(width);
            if field == name {
                assert!(nth < count);
                let place = at + nth * width;
                self.bytes[place..place + width].copy_from_slice(&value.to_le_bytes()[..width]);
                return self;
            }
            at += width * count;
        }
        panic!("revision 1.{} has no {name}", self.content);
    }

    /// Sets the field where the revision has it.
    pub(crate) fn set_if_there(self, name: &str, value: u64) -> Self {
        if fields(self.content).iter().any(|(field, ..)| *field == name) {
            self.set(name, value)
        } else {
            self
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
