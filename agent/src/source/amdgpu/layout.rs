//! The binary file `gpu_metrics`, revision by revision: pure, and never a panic whatever the bytes.
//!
//! Layouts are those of `kgd_pp_interface.h` in the Linux kernel: natural alignment, little-endian. Revisions
//! do not extend each other, and 1.6 was first published with another layout under the same number, so a
//! table is read only if revision *and* size are known. The driver fills a table with ones before it writes
//! into it: a field of ones is one that is not supported.
//!
//! Deliberately absent: revisions 2 and 3 (processors with graphics), 1.9 and later (a list of attributes),
//! temperatures, throttling, and activity by partition (`xcp_stats`), which nobody has checked yet.

/// What a table says, in its own units. `None` for what it does not support.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Metrics {
    /// Watts; of the whole package.
    pub(super) power_w: Option<u32>,
    /// Percent.
    pub(super) gfx_percent: Option<u32>,
    /// Percent.
    pub(super) memory_percent: Option<u32>,
    /// In 2^-16 J, since the driver was loaded; of the whole package.
    pub(super) energy: Option<u64>,
    /// Nanoseconds since boot, suspended time included, as the driver wrote the table.
    pub(super) boot_ns: Option<u64>,
    /// Summed percentages; it wraps.
    pub(super) gfx_sum: Option<u32>,
    /// Summed percentages; it wraps.
    pub(super) memory_sum: Option<u32>,
    /// Received over all links, in KiB.
    pub(super) xgmi_read_kib: Option<u64>,
    /// Sent over all links, in KiB.
    pub(super) xgmi_write_kib: Option<u64>,
    /// Mean over the dies that run.
    pub(super) gfx_clock_mhz: Option<u32>,
    /// Dies that have a clock.
    pub(super) dies: Option<u32>,
    /// As how many devices it shows itself.
    pub(super) partitions: Option<u32>,
}

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// A table whose layout is known.
    Known(Metrics),
    /// A layout that is not known: format and content revision.
    Unknown(u8, u8),
    /// Shorter than it says it is.
    Broken,
}

/// Where things stand in one revision.
struct Layout {
    content: u8,
    size: u16,
    power: usize,
    gfx: usize,
    memory: usize,
    energy: Option<usize>,
    boot: usize,
    /// That of memory follows it.
    sums: Option<usize>,
    /// Eight links; those of writing follow.
    links: Option<usize>,
    clocks: Clocks,
    partitions: Option<usize>,
}

enum Clocks {
    /// The mean, then a momentary one.
    One(usize, usize),
    /// One for each of eight dies.
    Eight(usize),
}

const fn first(content: u8, size: u16) -> Layout {
    Layout {
        content,
        size,
        power: 22,
        gfx: 16,
        memory: 18,
        energy: Some(24),
        boot: 32,
        sums: Some(80),
        links: None,
        clocks: Clocks::One(40, 54),
        partitions: None,
    }
}

const fn second(content: u8, size: u16, [energy, sums, links, clocks]: [usize; 4]) -> Layout {
    Layout {
        content,
        size,
        power: 10,
        gfx: 12,
        memory: 14,
        energy: Some(energy),
        boot: energy + 8,
        sums: Some(sums),
        links: Some(links),
        clocks: Clocks::Eight(clocks),
        // After the clocks of 8 + 3 x 4 + 1 others.
        partitions: if content >= 6 { Some(clocks + 42) } else { None },
    }
}

/// Format revision 1, which all accelerators have.
const LAYOUTS: [Layout; 9] = [
    // Its energy has another width, and nobody says which unit.
    Layout { power: 34, gfx: 28, memory: 30, energy: None, boot: 8, sums: None, ..first(0, 80) },
    first(1, 96),
    first(2, 104),
    first(3, 120),
    second(4, 288, [24, 56, 104, 240]),
    second(5, 360, [88, 120, 176, 312]),
    second(6, 1664, [16, 68, 128, 264]),
    second(7, 2208, [24, 76, 136, 296]),
    second(8, 3872, [24, 76, 136, 296]),
];

/// Reads a table.
pub(super) fn parse(bytes: &[u8]) -> Table {
    let &[low, high, format, content, ..] = bytes else { return Table::Broken };
    let size = u16::from_le_bytes([low, high]);
    let Some(table) = bytes.get(..usize::from(size)).filter(|table| table.len() >= 4) else {
        return Table::Broken;
    };
    let known = LAYOUTS.iter().find(|layout| format == 1 && layout.content == content && layout.size == size);
    match known {
        Some(layout) => Table::Known(layout.read(table)),
        None => Table::Unknown(format, content),
    }
}

impl Layout {
    fn read(&self, table: &[u8]) -> Metrics {
        let small = |at| u16_at(table, at).map(u32::from);
        let link_sum = |first: usize| {
            let links = (0..8).filter_map(|link| u64_at(table, first + link * 8));
            links.fold(None, |sum: Option<u64>, link| Some(sum.unwrap_or(0).saturating_add(link)))
        };
        let (gfx_clock_mhz, dies) = match self.clocks {
            Clocks::One(mean, now) => (small(mean).or(small(now)), None),
            Clocks::Eight(first) => {
                let clocks: Vec<u32> = (0..8).filter_map(|die| small(first + die * 2)).collect();
                let running: Vec<u32> = clocks.iter().copied().filter(|&mhz| mhz > 0).collect();
                let dies = u32::try_from(clocks.len()).ok().filter(|&dies| dies > 0);
                // None runs: then that is the clock.
                (mean(&running).or(dies.map(|_| 0)), dies)
            }
        };
        Metrics {
            power_w: small(self.power),
            gfx_percent: small(self.gfx),
            memory_percent: small(self.memory),
            energy: self.energy.and_then(|at| u64_at(table, at)),
            boot_ns: u64_at(table, self.boot),
            gfx_sum: self.sums.and_then(|at| u32_at(table, at)),
            memory_sum: self.sums.and_then(|at| u32_at(table, at + 4)),
            xgmi_read_kib: self.links.and_then(link_sum),
            xgmi_write_kib: self.links.and_then(|at| link_sum(at + 64)),
            gfx_clock_mhz,
            dies,
            partitions: self.partitions.and_then(small),
        }
    }
}

fn mean(values: &[u32]) -> Option<u32> {
    let count = u32::try_from(values.len()).ok()?;
    values.iter().sum::<u32>().checked_div(count)
}

/// What stands there, unless it is not supported.
fn u16_at(table: &[u8], at: usize) -> Option<u16> {
    let bytes = table.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_le_bytes(bytes)).filter(|&value| value != u16::MAX)
}

fn u32_at(table: &[u8], at: usize) -> Option<u32> {
    let bytes = table.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(bytes)).filter(|&value| value != u32::MAX)
}

fn u64_at(table: &[u8], at: usize) -> Option<u64> {
    let bytes = table.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes)).filter(|&value| value != u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..4096), content in 0_u8..12, fits in any::<bool>(),
        ) {
            parse(&bytes);
            // As far as the header, such as a driver would write.
            let mut bytes = bytes;
            if let (true, [low, high, format, revision, ..]) = (fits, bytes.as_mut_slice()) {
                let known = LAYOUTS.iter().find(|layout| layout.content == content);
                [*low, *high] = known.map_or(64, |layout| layout.size).to_le_bytes();
                (*format, *revision) = (1, content);
                parse(&bytes);
            }
        }
    }

    #[test]
    fn a_table_of_ones_supports_nothing() {
        for layout in &LAYOUTS {
            let mut bytes = vec![0xff; usize::from(layout.size)];
            bytes[..2].copy_from_slice(&layout.size.to_le_bytes());
            (bytes[2], bytes[3]) = (1, layout.content);
            assert_eq!(parse(&bytes), Table::Known(Metrics::default()), "1.{}", layout.content);
            assert_eq!(parse(&bytes[..bytes.len() - 1]), Table::Broken, "1.{}", layout.content);
        }
    }
}
