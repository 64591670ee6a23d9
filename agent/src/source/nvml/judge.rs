//! What the driver's answers mean: pure, so that every strange one can be written by hand.

use weighbridge_meter::{
    DeviceState, GapCause, Reading,
    reading::{Activity, Ratio},
};

/// GPM metrics in percent, as [`super::driver::METRICS`] orders them. `None` for what is not supported.
pub(super) type Percents = [Option<f64>; 8];

/// What the driver said in one look, taken as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) sm_clock_mhz: Option<u32>,
    pub(super) power_mw: Option<u32>,
    pub(super) energy_mj: Option<u64>,
    pub(super) busy_percent: Option<u32>,
    pub(super) gpm_percent: Percents,
    /// `None` if not asked or not said.
    pub(super) pids: Option<Vec<u32>>,
}

/// What an answer says of the device, given the energy counter in the answer before.
pub(super) fn judge(energy_before: Option<u64>, answer: &Answer) -> DeviceState {
    if counter_went_backwards(energy_before, answer.energy_mj) {
        return DeviceState::Missing(GapCause::CounterBackwards);
    }
    let (Some(activity), Ok(busy)) =
        (activity(&answer.gpm_percent), ratio(answer.busy_percent.map(f64::from)))
    else {
        return DeviceState::Missing(GapCause::Implausible);
    };
    DeviceState::Read(Reading {
        sm_clock_mhz: answer.sm_clock_mhz,
        activity,
        busy,
        power_mw: answer.power_mw,
        energy_mj: answer.energy_mj,
        ..Reading::default()
    })
}

/// Whether a cumulative counter fell: a driver reload, a reset, or somebody's hand.
/// A counter that is missing on either side says nothing.
pub(super) fn counter_went_backwards(before: Option<u64>, now: Option<u64>) -> bool {
    matches!((before, now), (Some(before), Some(now)) if now < before)
}

/// A value the driver gave that no part of a whole can have.
#[derive(Debug)]
struct Implausible;

/// Nothing stays nothing; a percentage must be one.
fn ratio(percent: Option<f64>) -> Result<Option<Ratio>, Implausible> {
    percent.map(|percent| Ratio::from_percent(percent).ok_or(Implausible)).transpose()
}

/// `None` if any of the percentages cannot be.
fn activity(percents: &Percents) -> Option<Activity> {
    let [tensor, hmma, imma, dfma, fp64, fp32, fp16, sm] = percents.map(ratio);
    Some(Activity {
        tensor: tensor.ok()?,
        hmma: hmma.ok()?,
        imma: imma.ok()?,
        dfma: dfma.ok()?,
        fp64: fp64.ok()?,
        fp32: fp32.ok()?,
        fp16: fp16.ok()?,
        sm: sm.ok()?,
        integer: None,
    })
}

/// NVML's `00000000:1A:00.0` as the kernel writes it: `0000:1a:00.0`.
pub(super) fn kernel_pci_address(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    // A domain that needs more than four digits keeps them.
    match lower.strip_prefix("0000") {
        Some(rest) if rest.find(':') == Some(4) => rest.to_owned(),
        _ => lower,
    }
}

/// NVML's combined id, vendor in the low half: `10de:2330`.
pub(super) fn pci_device(combined: u32) -> String {
    format!("{:04x}:{:04x}", combined & 0xffff, combined >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        Answer {
            sm_clock_mhz: Some(1500),
            power_mw: Some(500_000),
            energy_mj: Some(1000),
            busy_percent: Some(97),
            gpm_percent: [
                Some(50.0),
                Some(40.0),
                Some(5.0),
                Some(1.0),
                Some(2.0),
                Some(3.0),
                Some(4.0),
                Some(90.0),
            ],
            pids: None,
        }
    }

    fn percent(percent: f64) -> Option<Ratio> {
        Some(Ratio::from_percent(percent).unwrap())
    }

    #[test]
    fn every_value_lands_in_its_own_field() {
        let expected = Reading {
            sm_clock_mhz: Some(1500),
            activity: Activity {
                tensor: percent(50.0),
                hmma: percent(40.0),
                imma: percent(5.0),
                dfma: percent(1.0),
                fp64: percent(2.0),
                fp32: percent(3.0),
                fp16: percent(4.0),
                sm: percent(90.0),
                integer: None,
            },
            busy: percent(97.0),
            power_mw: Some(500_000),
            energy_mj: Some(1000),
            ..Reading::default()
        };
        assert_eq!(judge(Some(1000), &answer()), DeviceState::Read(expected));
    }

    #[test]
    fn what_is_not_supported_stays_unknown() {
        assert_eq!(judge(None, &Answer::default()), DeviceState::Read(Reading::default()));
    }

    #[test]
    fn a_counter_that_falls_is_a_gap() {
        let state = judge(Some(1001), &answer());
        assert_eq!(state, DeviceState::Missing(GapCause::CounterBackwards));
    }

    #[test]
    fn only_a_fall_is_backwards() {
        assert!(counter_went_backwards(Some(2), Some(1)));
        assert!(!counter_went_backwards(Some(1), Some(1)));
        assert!(!counter_went_backwards(Some(1), Some(2)));
        assert!(!counter_went_backwards(None, Some(1)));
        assert!(!counter_went_backwards(Some(1), None));
    }

    #[test]
    fn a_metric_that_cannot_be_is_a_gap_whichever_it_is() {
        for place in 0..8 {
            for value in [f64::NAN, -0.1, 101.1, f64::INFINITY] {
                let mut answer = answer();
                answer.gpm_percent[place] = Some(value);
                let state = judge(None, &answer);
                assert_eq!(state, DeviceState::Missing(GapCause::Implausible), "{value} at {place}");
            }
        }
        let busy = Answer { busy_percent: Some(200), ..answer() };
        assert_eq!(judge(None, &busy), DeviceState::Missing(GapCause::Implausible));
    }

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        assert_eq!(kernel_pci_address("00000000:1A:00.0"), "0000:1a:00.0");
        assert_eq!(kernel_pci_address("0000000B:1A:00.0"), "000b:1a:00.0");
        assert_eq!(kernel_pci_address("00010000:1A:00.0"), "00010000:1a:00.0");
        assert_eq!(kernel_pci_address("0000:1A:00.0"), "0000:1a:00.0");
        assert_eq!(pci_device(0x2330_10de), "10de:2330");
    }
}
