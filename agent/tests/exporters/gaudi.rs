//! What single values of Gaudi's exporter mean.

use super::*;

/// Samples of one device: its name, and what each metric says.
fn exposition(metrics: &[(&str, &str)]) -> String {
    metrics.iter().map(|(name, value)| format!("habanalabs_{name}{{UUID=\"U1\"}} {value}\n")).collect()
}

async fn gaudi_once(text: &str) -> Look {
    let exporter = Exporter::saying(text).await;
    gaudi(&[&exporter]).look().await
}

#[tokio::test]
async fn a_gaudi_that_cannot_be_named_is_counted_once_and_not_metered() {
    let look = gaudi_once(
        "habanalabs_utilization{device=\"AM1\"} 5\nhabanalabs_power_mW{device=\"AM1\"} 98000\n\
         habanalabs_utilization{UUID=\"U 2\",id=\"1\"} 5\nhabanalabs_utilization{UUID=\"U3\"} 5\n",
    )
    .await;
    assert_eq!((look.unidentified, look.devices.len()), (2, 1));
}

#[tokio::test]
async fn a_clock_or_power_that_no_board_has_is_a_gap() {
    for (name, most) in [("clock_soc_mhz", 5_000_u32), ("power_mW", 100_000_000)] {
        let state =
            async |value: u32| states(&gaudi_once(&exposition(&[(name, &value.to_string())])).await)[0];
        assert!(matches!(state(most).await, DeviceState::Read(_)), "{name}");
        assert_eq!(state(most + 1).await, DeviceState::Missing(GapCause::Implausible), "{name}");
    }
}

#[tokio::test]
async fn a_clock_or_an_energy_of_zero_is_one_that_was_not_read() {
    let zeros = [("utilization", "7"), ("clock_soc_mhz", "0"), ("energy", "0")];
    let expected = Reading { busy: part(0.07), ..Reading::default() };
    assert_eq!(states(&gaudi_once(&exposition(&zeros)).await), [DeviceState::Read(expected)]);
}

#[tokio::test]
async fn a_gaudi_of_which_the_same_is_served_again_and_again_is_stale_if_it_works_or_draws_power() {
    let (works, rests) = (("utilization", "55"), ("utilization", "0"));
    let (power, energy) = (("power_mW", "98000"), ("energy", "1000"));
    for (metrics, stale) in [
        (vec![works, energy], true),
        (vec![rests, power, energy], true),
        (vec![works, power], true),
        // Without energy, an idle device may well look the same for hours; without either, a busy one too.
        (vec![rests, power], false),
        (vec![works], false),
    ] {
        let exporter = Exporter::saying(&exposition(&metrics)).await;
        let mut source = GaudiSource::start(GaudiOptions {
            exporters: vec![exporter.url.clone()],
            deadline: Duration::from_secs(30),
            // Whatever was served before is too old.
            interval: Duration::ZERO,
        });
        source.look().await;
        let again = states(&source.look().await)[0];
        assert_eq!(again == DeviceState::Missing(GapCause::Stale), stale, "{metrics:?}: {again:?}");
        exporter.say(&exposition(&[&metrics[..], &[("clock_soc_mhz", "1600")]].concat()));
        assert!(matches!(states(&source.look().await)[0], DeviceState::Read(_)), "{metrics:?} renewed");
    }
}

#[tokio::test]
async fn a_gaudi_is_known_by_any_one_thing_that_tells_its_generation() {
    let known = async |text: String| inventory(&gaudi_once(&text).await)[0].pci_device.clone();
    let named = |name: &str| format!("habanalabs_utilization{{UUID=\"U1\",product_name=\"{name}\"}} 5\n");
    let (second, third) = (Some("1da3:1020".to_owned()), Some("1da3:1060".to_owned()));
    assert_eq!(known(named("HL-225B")).await, second);
    assert_eq!(known(named("HL-338")).await, third);
    assert_eq!(known(named("HL-100")).await, None);
    let memory = |bytes: &str| exposition(&[("memory_total_bytes", bytes)]);
    assert_eq!(known(memory("1.03079215104e+11")).await, second);
    assert_eq!(known(memory("1.37438953472e+11")).await, third);
    assert_eq!(known(memory("3.4359738368e+10")).await, None);
    assert_eq!(known(exposition(&[("clock_soc_max_mhz", "1650")])).await, second);
}
