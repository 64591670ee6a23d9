//! Accelerators that do what a scenario says: the same scenario and moment always give the same reading.
//!
//! A [`Scenario`] is a TOML file, or is put together by a program that drives many hosts in fast time; either
//! way [`Scenario::look_at`] is a pure function of the time since the start. Windows from it say `simulated`
//! and can never be taken for those of a real device.
//!
//! ```toml
//! seed = 7
//!
//! [[accelerator]]
//! id = "GPU-sim-0"
//! name = "NVIDIA H100 80GB HBM3"
//! repeat = true
//!
//! [[accelerator.phase]]
//! for = "50m"
//! tensor = 0.45
//! busy = 1.0
//! power_w = 640
//! noise = 0.02
//!
//! [[accelerator.phase]]
//! for = "10m"
//! fault = "device_lost"
//! ```

use std::{path::Path, sync::Arc};

use serde::Deserialize;
use weighbridge_meter::{
    AcceleratorTable, DeviceState, GapCause, Reading, Source, Tier,
    reading::{Activity, Ratio},
};

use super::{AcceleratorSource, Device, DeviceLook, Look, SourceState};
use crate::{clock::Clock, duration};

/// What a set of accelerators does, moment by moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Decides the noise, and nothing else.
    pub seed: u64,
    /// Each with its own course of events.
    pub accelerators: Vec<SimulatedAccelerator>,
}

/// One accelerator and what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedAccelerator {
    /// As the inventory shows it.
    pub device: Device,
    /// One after the other; after the last one it goes on for ever, or begins anew.
    pub phases: Vec<Phase>,
    /// Whether it begins anew after the last phase.
    pub repeat: bool,
}

/// Something that goes on for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    /// How long, in milliseconds; at least 1.
    pub length_ms: u64,
    /// No reading at all, for this reason.
    pub fault: Option<GapCause>,
    /// Part of the time in which tensor pipes are active, 0 to 1.
    pub tensor: Option<f64>,
    /// Part of the time in which a kernel is resident, 0 to 1.
    pub busy: Option<f64>,
    /// SM clock in MHz; needed for anything to be made of `tensor`.
    pub clock_mhz: Option<u32>,
    /// Board power in watts.
    pub power_w: Option<u32>,
    /// Ratios and power are multiplied by something from `1 - noise` to `1 + noise`, new at each second.
    pub noise: f64,
}

impl Phase {
    /// A phase in which nothing can be read of anything, but the device answers: a start for struct updates.
    pub fn lasting(length_ms: u64) -> Self {
        Self {
            length_ms: length_ms.max(1),
            fault: None,
            tensor: None,
            busy: None,
            clock_mhz: None,
            power_w: None,
            noise: 0.0,
        }
    }
}

/// A scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file could not be read.
    #[error("cannot read scenario {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not TOML, or with keys that do not exist.
    #[error("scenario: {0}")]
    NotAScenario(String),
    /// A value that cannot be.
    #[error("scenario, {place}: {value} is not {expected}")]
    Bad {
        /// Key, with the number of the accelerator and of the phase, from 0.
        place: String,
        /// What stood there.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    accelerator: Vec<RawAccelerator>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccelerator {
    id: String,
    name: String,
    pci_device: Option<String>,
    #[serde(default)]
    repeat: bool,
    #[serde(default)]
    phase: Vec<RawPhase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPhase {
    r#for: String,
    fault: Option<String>,
    tensor: Option<f64>,
    busy: Option<f64>,
    clock_mhz: Option<u32>,
    power_w: Option<u32>,
    #[serde(default)]
    noise: f64,
}

impl Scenario {
    /// From a TOML file. Models are looked up in `table` by PCI device, else by name.
    pub fn read(path: &Path, table: &AcceleratorTable) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Unreadable { path: path.display().to_string(), source })?;
        Self::parse(&text, table)
    }

    /// From TOML.
    pub fn parse(text: &str, table: &AcceleratorTable) -> Result<Self, ScenarioError> {
        let raw: RawScenario = toml::from_str(text)
            .map_err(|error| ScenarioError::NotAScenario(one_line(&error.to_string())))?;
        if raw.accelerator.is_empty() {
            return Err(bad("accelerator", "an empty list", "a list of at least one accelerator"));
        }
        let mut accelerators: Vec<SimulatedAccelerator> = Vec::with_capacity(raw.accelerator.len());
        for (index, raw) in raw.accelerator.into_iter().enumerate() {
            let accelerator = checked(index, raw, table)?;
            if accelerators.iter().any(|other| other.device.id == accelerator.device.id) {
                let place = format!("accelerator[{index}].id");
                return Err(bad(&place, format!("{:?}", accelerator.device.id.as_str()), "unique"));
            }
            accelerators.push(accelerator);
        }
        Ok(Self { seed: raw.seed, accelerators })
    }

    /// The inventory.
    pub fn devices(&self) -> Vec<Device> {
        self.accelerators.iter().map(|accelerator| accelerator.device.clone()).collect()
    }

    /// What a look would give so many milliseconds after the start, without the inventory.
    pub fn look_at(&self, elapsed_ms: u64) -> Look {
        let devices = self.accelerators.iter().enumerate().map(|(index, accelerator)| DeviceLook {
            id: accelerator.device.id.clone(),
            state: accelerator.state(self.seed.wrapping_add(index as u64), elapsed_ms),
            pids: None,
            used: Vec::new(),
            machines: None,
        });
        Look {
            devices: devices.collect(),
            source_state: SourceState::Ok,
            inventory_changed: None,
            unidentified: 0,
        }
    }

    /// The same with the inventory: for the first look of a run.
    pub fn first_look_at(&self, elapsed_ms: u64) -> Look {
        Look { inventory_changed: Some(self.devices()), ..self.look_at(elapsed_ms) }
    }
}

fn bad(place: &str, value: impl std::fmt::Display, expected: &'static str) -> ScenarioError {
    ScenarioError::Bad { place: place.into(), value: value.to_string(), expected }
}

/// Parsers draw pictures of the place; a log line has no room for them.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

fn checked(
    index: usize,
    raw: RawAccelerator,
    table: &AcceleratorTable,
) -> Result<SimulatedAccelerator, ScenarioError> {
    let place = |key: &str| format!("accelerator[{index}].{key}");
    let id = raw.id.parse().map_err(|_| {
        bad(
            &place("id"),
            format!("{:?}", raw.id),
            "an accelerator id: 1 to 96 printable characters without blanks",
        )
    })?;
    if raw.phase.is_empty() {
        return Err(bad(&place("phase"), "an empty list", "a list of at least one phase"));
    }
    let model = table.find(raw.pci_device.as_deref(), &raw.name);
    let table_clock = model.map(|model| model.table_clock_mhz);
    let phases = raw
        .phase
        .into_iter()
        .enumerate()
        .map(|(number, phase)| checked_phase(&place(&format!("phase[{number}]")), &phase, table_clock))
        .collect::<Result<Vec<_>, _>>()?;
    let tier = if phases.iter().any(|phase| phase.tensor.is_some()) { Tier::B } else { Tier::D };
    let pci_device = raw.pci_device.or_else(|| model.map(|model| model.pci_device.clone()));
    let device = Device {
        id,
        pci_address: None,
        pci_device,
        name: raw.name,
        max_sm_clock_mhz: model.map(|model| model.max_clock_mhz),
        power_limit_mw: model.map(|model| model.power_w.saturating_mul(1000)),
        memory_bytes: None,
        tier,
        source: Source::Simulated,
        driver: None,
        host: None,
        trust: None,
        parent: None,
        units: None,
        instance: None,
        sample_ms: 0,
        conditions: Vec::new(),
        present: true,
    };
    Ok(SimulatedAccelerator { device, phases, repeat: raw.repeat })
}

fn checked_phase(place: &str, raw: &RawPhase, table_clock: Option<u32>) -> Result<Phase, ScenarioError> {
    let part = |key: &str, value: Option<f64>| match value {
        Some(value) if !(0.0..=1.0).contains(&value) => {
            Err(bad(&format!("{place}.{key}"), value, "a part of the whole, from 0 to 1"))
        }
        value => Ok(value),
    };
    let length_ms = duration::parse_ms(&raw.r#for).filter(|&length| length > 0).ok_or_else(|| {
        bad(&format!("{place}.for"), format!("{:?}", raw.r#for), "a duration above zero such as \"10m\"")
    })?;
    let fault = match &raw.fault {
        None => None,
        Some(name) => Some(
            GapCause::from_name(name)
                .filter(|cause| {
                    !matches!(cause, GapCause::Silent | GapCause::NeverSeen | GapCause::SpoolFull)
                })
                .ok_or_else(|| {
                    bad(
                        &format!("{place}.fault"),
                        format!("{name:?}"),
                        "the cause of a gap that a source can report, such as \"device_lost\"",
                    )
                })?,
        ),
    };
    let tensor = part("tensor", raw.tensor)?;
    let clock_mhz = raw.clock_mhz.or(table_clock);
    if tensor.is_some() && clock_mhz.is_none() {
        let key = format!("{place}.clock_mhz");
        return Err(bad(&key, "nothing", "a clock, which a model outside the table needs beside tensor"));
    }
    Ok(Phase {
        length_ms,
        fault,
        tensor,
        busy: part("busy", raw.busy)?,
        clock_mhz,
        power_w: raw.power_w,
        noise: part("noise", Some(raw.noise))?.unwrap_or(0.0),
    })
}

impl SimulatedAccelerator {
    fn state(&self, seed: u64, elapsed_ms: u64) -> DeviceState {
        let Some(phase) = self.phase(elapsed_ms) else {
            return DeviceState::Missing(GapCause::ReadFailed);
        };
        if let Some(cause) = phase.fault {
            return DeviceState::Missing(cause);
        }
        let factor = 1.0 + phase.noise * uniform(seed, elapsed_ms / 1000);
        let ratio =
            |part: Option<f64>| part.and_then(|part| Ratio::from_fraction((part * factor).clamp(0.0, 1.0)));
        let power_mw = phase.power_w.and_then(|watts| {
            // At most 1.0 x 2 x 4.3e9 W: far inside the exact range of a double.
            let milliwatts = (f64::from(watts) * 1000.0 * factor).max(0.0);
            format!("{milliwatts:.0}").parse::<u32>().ok()
        });
        // A simulated device tells all its pipes apart, as Hopper does; its matrix work is of the 16-bit class.
        let tensor = ratio(phase.tensor);
        let quiet = tensor.map(|_| Ratio::ZERO);
        let activity = Activity {
            tensor,
            hmma: tensor,
            imma: quiet,
            dfma: quiet,
            fp64: quiet,
            fp32: quiet,
            fp16: quiet,
            sm: tensor.and(ratio(phase.busy)),
            integer: quiet,
        };
        DeviceState::Read(Reading {
            sm_clock_mhz: phase.clock_mhz,
            activity,
            busy: ratio(phase.busy),
            power_mw,
            ..Reading::default()
        })
    }

    fn phase(&self, elapsed_ms: u64) -> Option<&Phase> {
        let whole: u64 = self.phases.iter().map(|phase| phase.length_ms).sum();
        let mut at = if self.repeat { elapsed_ms.checked_rem(whole)? } else { elapsed_ms };
        for phase in &self.phases {
            if at < phase.length_ms {
                return Some(phase);
            }
            at -= phase.length_ms;
        }
        self.phases.last()
    }
}

/// From -1 to 1, by the seed and the second alone (splitmix64).
fn uniform(seed: u64, second: u64) -> f64 {
    let mut x =
        seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(second.wrapping_mul(0xBF58_476D_1CE4_E5B9));
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    let top = u32::try_from(x >> 32).unwrap_or(u32::MAX);
    f64::from(top) / f64::from(u32::MAX) * 2.0 - 1.0
}

/// Plays a scenario by a clock.
pub struct SimulatedSource {
    scenario: Scenario,
    clock: Arc<dyn Clock>,
    started_ms: u64,
    told: bool,
}

impl SimulatedSource {
    /// The scenario begins now.
    pub fn new(scenario: Scenario, clock: Arc<dyn Clock>) -> Self {
        let started_ms = clock.now().boot_ms;
        Self { scenario, clock, started_ms, told: false }
    }
}

impl AcceleratorSource for SimulatedSource {
    async fn look(&mut self) -> Look {
        let elapsed = self.clock.now().boot_ms.saturating_sub(self.started_ms);
        let first = !std::mem::replace(&mut self.told, true);
        if first { self.scenario.first_look_at(elapsed) } else { self.scenario.look_at(elapsed) }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const TWO_PHASES: &str = r#"
        seed = 7
        [[accelerator]]
        id = "GPU-1"
        name = "NVIDIA H100 80GB HBM3"
        repeat = true
        [[accelerator.phase]]
        for = "50s"
        tensor = 0.5
        power_w = 600
        noise = 0.1
        [[accelerator.phase]]
        for = "10s"
        fault = "device_lost"
    "#;

    fn parsed(text: &str) -> Scenario {
        Scenario::parse(text, &AcceleratorTable::shipped()).expect("a scenario")
    }

    fn refused(text: &str, expected: Expect) {
        let error = Scenario::parse(text, &AcceleratorTable::shipped()).expect_err("refused");
        expected.assert_eq(&error.to_string());
    }

    #[test]
    fn the_same_moment_always_gives_the_same_reading() {
        let (one, other) = (parsed(TWO_PHASES), parsed(TWO_PHASES));
        for elapsed in (0..600_000).step_by(997) {
            assert_eq!(one.look_at(elapsed), other.look_at(elapsed));
        }
        let reseeded = Scenario { seed: 8, ..one.clone() };
        assert_ne!(one.look_at(5_000), reseeded.look_at(5_000));
        assert_ne!(one.look_at(5_000).devices, one.look_at(6_000).devices, "noise differs by the second");
    }

    #[test]
    fn phases_follow_each_other_and_begin_anew() {
        let scenario = parsed(TWO_PHASES);
        for (elapsed, lost) in [(0, false), (49_999, false), (50_000, true), (59_999, true), (60_000, false)]
        {
            let state = scenario.look_at(elapsed).devices[0].state;
            assert_eq!(state == DeviceState::Missing(GapCause::DeviceLost), lost, "{elapsed}");
        }
        let once = Scenario {
            accelerators: vec![SimulatedAccelerator { repeat: false, ..scenario.accelerators[0].clone() }],
            ..scenario
        };
        let last = once.look_at(3_600_000).devices[0].state;
        assert_eq!(last, DeviceState::Missing(GapCause::DeviceLost), "the last phase goes on");
    }

    #[test]
    fn noise_stays_within_its_bounds_and_has_no_bias_to_speak_of() {
        let scenario = parsed(TWO_PHASES);
        let mut sum = 0_u64;
        for second in 0..50 {
            let DeviceState::Read(reading) = scenario.look_at(second * 1000).devices[0].state else {
                panic!("it answers in the first phase");
            };
            let tensor = reading.activity.tensor.expect("given").billionths();
            assert!((450_000_000..=550_000_000).contains(&tensor), "{tensor}");
            sum += u64::from(tensor);
        }
        assert!((480_000_000..=520_000_000).contains(&(sum / 50)), "{}", sum / 50);
    }

    #[test]
    fn a_bad_value_is_named_with_place_and_expectation() {
        let changed = |from: &str, to: &str| TWO_PHASES.replace(from, to);
        refused(
            &changed("tensor = 0.5", "tensor = 1.5"),
            expect!["scenario, accelerator[0].phase[0].tensor: 1.5 is not a part of the whole, from 0 to 1"],
        );
        refused(
            &changed("\"50s\"", "\"soon\""),
            expect![[
                r#"scenario, accelerator[0].phase[0].for: "soon" is not a duration above zero such as "10m""#
            ]],
        );
        refused(
            &changed("device_lost", "bored"),
            expect![[
                r#"scenario, accelerator[0].phase[1].fault: "bored" is not the cause of a gap that a source can report, such as "device_lost""#
            ]],
        );
        refused(
            &changed("NVIDIA H100 80GB HBM3", "Home Made"),
            expect![
                "scenario, accelerator[0].phase[0].clock_mhz: nothing is not a clock, which a model outside the table needs beside tensor"
            ],
        );
        refused(
            "seed = 1",
            expect!["scenario, accelerator: an empty list is not a list of at least one accelerator"],
        );
        refused(
            &changed("repeat", "repaet"),
            expect![
                "scenario: TOML parse error at line 6, column 9 | 6 |         repaet = true |         ^^^^^^ unknown field `repaet`, expected one of `id`, `name`, `pci_device`, `repeat`, `phase`"
            ],
        );
    }
}
