//! How many SMs a MIG instance has: its profile tells only slices.
//!
//! Of the parts listed below, NVIDIA's tools and guide give the figure. Of others nothing is guessed: the instance
//! is then one of unknown size, bounded by its whole device. Slices alone do not tell it: an H100 lends the SMs
//! that seven slices leave over to profiles with more memory (`3g.40gb` has 60 of 132, where three sevenths are
//! 57).

use weighbridge_meter::Model;

/// SMs by units of the whole device and compute slices, for the profile with the least memory first:
/// `nvidia-smi mig -lgip`.
const KNOWN: &[(u32, &[(u32, u32)])] = &[
    // A30, in four slices.
    (56, &[(1, 14), (2, 28), (4, 56)]),
    // A100 and A800.
    (108, &[(1, 14), (2, 28), (3, 42), (4, 56), (7, 98)]),
    // H100, H200 and GH200.
    (132, &[(1, 16), (2, 32), (3, 60), (4, 64), (7, 132)]),
];

/// On these with one slice and two slices' worth of memory, as in `1g.20gb` of 80 GB: 26 SMs.
const HOPPER: (u32, u32) = (132, 26);

/// One slice of the largest of these (`1g.18gb` of 141 GB) has no more memory than this.
const HOPPER_SLICE_GB: u32 = 18;

/// SMs of an instance with this profile, as `1g.10gb` or `1c.3g.40gb+me`. `None` where the model or the profile
/// is not known: the instance is then bounded by its whole device.
pub(super) fn units(model: &Model, profile: &str) -> Option<u32> {
    let (slices, memory_gb) = parse(profile)?;
    if (model.units, slices) == (HOPPER.0, 1) && memory_gb.is_none_or(|gb| gb > HOPPER_SLICE_GB) {
        return Some(HOPPER.1);
    }
    let known = KNOWN.iter().find(|(units, _)| *units == model.units);
    let known = known.and_then(|(_, profiles)| profiles.iter().find(|(of, _)| *of == slices));
    known.map(|(_, sms)| *sms)
}

/// Compute slices and memory. An instance within an instance (`1c.3g...`) is taken for all of it.
fn parse(profile: &str) -> Option<(u32, Option<u32>)> {
    let plain = profile.trim().trim_start_matches("MIG ").split(['+', '-']).next()?;
    let number = |suffix: &str| {
        plain.split('.').find_map(|part| part.strip_suffix(suffix)).and_then(|text| text.parse().ok())
    };
    let slices: u32 = number("g")?;
    (slices > 0).then_some((slices, number("gb")))
}

#[cfg(test)]
mod tests {
    use weighbridge_meter::AcceleratorTable;

    use super::*;

    #[test]
    fn an_instance_has_the_sms_of_its_profile_where_they_are_published() {
        let table = AcceleratorTable::shipped();
        let of = |name: &str, profile: &str| units(table.find(None, name).expect("in the table"), profile);
        let rows = [
            ("NVIDIA A30", "1g.6gb", Some(14)),
            ("NVIDIA A100-SXM4-80GB", "1g.10gb", Some(14)),
            ("NVIDIA A100-SXM4-80GB", "7g.80gb", Some(98)),
            ("NVIDIA H100 80GB HBM3", "1g.10gb", Some(16)),
            ("NVIDIA H100 80GB HBM3", "1g.10gb+me", Some(16)),
            ("NVIDIA H100 80GB HBM3", "1g.20gb", Some(26)),
            ("NVIDIA H100 80GB HBM3", "MIG 3g.40gb", Some(60)),
            ("NVIDIA H100 80GB HBM3", "1c.3g.40gb", Some(60)),
            ("NVIDIA H200", "1g.18gb", Some(16)),
            ("NVIDIA H200", "1g.35gb", Some(26)),
            ("NVIDIA B200", "1g.23gb", None),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "1g.24gb", None),
            ("NVIDIA H100 80GB HBM3", "", None),
            ("NVIDIA H100 80GB HBM3", "0g.10gb", None),
            ("NVIDIA H100 80GB HBM3", "4294967295g.1gb", None),
        ];
        for (name, profile, expected) in rows {
            assert_eq!(of(name, profile), expected, "{name} {profile}");
        }
    }
}
