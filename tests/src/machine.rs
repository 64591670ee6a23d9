//! Fake accelerators that do the same all the time.

use std::fmt::Write;

/// An H100 SXM5 with a constant clock and a constant part of it in which tensor pipes are active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `GPU-...`
    pub uuid: String,
    /// SM clock, in MHz.
    pub clock_mhz: u32,
    /// Tensor activity in eighths: 12.5 % is a fraction that floats, percentages and billionths all hold exactly.
    pub tensor_eighths: u32,
    /// Board power, in milliwatts.
    pub power_mw: u32,
}

/// Highest clock of the model, in MHz.
pub const MAX_CLOCK_MHZ: u32 = 1980;

impl Device {
    /// One of many that all differ: each number has its own UUID, and its own clock and activity among neighbours.
    pub fn numbered(number: u32) -> Self {
        Self {
            uuid: format!("GPU-{number:08x}-1111-2222-3333-444444444444"),
            clock_mhz: 1000 + number * 26 % 980,
            tensor_eighths: 1 + number % 7,
            power_mw: 300_000 + number * 1000 % 400_000,
        }
    }
}

/// What the fake library is told.
pub fn script(devices: &[Device]) -> String {
    let mut script = String::from("driver_version = \"580.95.05\"\n");
    for (index, device) in devices.iter().enumerate() {
        let Device { uuid, clock_mhz, tensor_eighths, power_mw } = device;
        let percent = f64::from(*tensor_eighths) * 12.5;
        let written = write!(
            script,
            r#"
[[device]]
uuid = "{uuid}"
name = "NVIDIA H100 80GB HBM3"
pci_bus_id = "00000000:{:02X}:00.0"
pci_device = "10de:2330"
architecture = "hopper"
sm_clock_mhz = {clock_mhz}
max_sm_clock_mhz = {MAX_CLOCK_MHZ}
power_mw = {power_mw}
power_limit_mw = 700000
energy_start_mj = 1000000000000
energy_mw = {power_mw}
memory_bytes = 85899345920
gpm = true
gpm_percent = {{ any_tensor = {percent:?}, hmma = {percent:?}, imma = 0.0, dfma = 0.0, fp64 = 0.0, fp32 = 0.0, fp16 = 0.0, sm = 100.0 }}
gpu_util = 100
"#,
            16 + index
        );
        written.expect("a string takes everything");
    }
    script
}
