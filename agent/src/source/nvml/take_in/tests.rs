//! What a later search says of devices that are being read.

use weighbridge_fake_nvml::FakeDriver;
use weighbridge_meter::Condition;

use super::{
    super::{
        NvmlOptions,
        judge::{Answer, tests::hopper},
    },
    *,
};

/// How the one device is rated after a look in which GPM gave nothing.
fn rated(source: &mut NvmlSource) -> (Tier, Vec<Condition>) {
    let one = &mut source.devices[0];
    one.heard(Ok(Answer::default()));
    (one.device.tier, one.device.conditions.clone())
}

#[test]
fn confidential_computing_that_a_later_search_finds_on_is_named_of_what_is_being_read() {
    let folder = tempfile::tempdir().unwrap();
    let driver = FakeDriver::install(folder.path(), "driver_version = \"595.10\"").unwrap();
    let nvml = Arc::new(Nvml::builder().lib_path(driver.library().as_os_str()).init().unwrap());
    let mut source = NvmlSource::start(NvmlOptions::default());
    let device = Device::new("GPU-1".parse().unwrap(), "NVIDIA H100 80GB HBM3", Source::Nvml, Tier::B);
    let found = |described: Option<(Device, Facts)>, confidential| {
        let card = FoundCard { id: device.id.clone(), described, layout: Layout::Whole };
        Found { nvml: Arc::clone(&nvml), cards: vec![card], unidentified: 0, confidential }
    };
    source.take_in(found(Some((device.clone(), hopper())), false));
    assert_eq!(rated(&mut source), (Tier::D, vec![]));
    // What is being read is not described again.
    source.take_in(found(None, true));
    assert_eq!(rated(&mut source), (Tier::D, vec![Condition::ConfidentialComputing]));
}
