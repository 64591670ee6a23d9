//! From a driver's constants to a customer's total, through the real programs.

use std::collections::BTreeMap;

use weighbridge_meter::UtcMillis;
use weighbridge_tests::{
    agent::AgentOptions,
    audit,
    collector::time,
    machine::{Device, MAX_CLOCK_MHZ},
    pencil::Amount,
    site::{Site, Tenant},
};

#[test]
fn every_window_hour_and_customer_is_what_a_pencil_says() {
    let mut devices: Vec<Device> = (0..9).map(Device::numbered).collect();
    // Where the upper bound is the peak of the device.
    devices[8] = Device { clock_mhz: MAX_CLOCK_MHZ, tensor_eighths: 8, ..Device::numbered(8) };
    let (first, rest) = devices.split_at(2);
    let mut site = Site::new(vec![
        AgentOptions::quick("host-a", first.to_vec()),
        AgentOptions { window: "2s", ..AgentOptions::quick("host-b", rest[..3].to_vec()) },
        AgentOptions::quick("host-c", rest[3..].to_vec()),
    ]);
    let tenants = [
        Tenant { customer: "C-1", principal: "lease:site-1/one", lease: "L-1", hosts: &["host-a", "host-b"] },
        Tenant { customer: "C-2", principal: "lease:site-1/two", lease: "L-2", hosts: &["host-c"] },
    ];
    site.lease(&tenants);
    site.start_agents();
    site.measured(6_000);
    site.stop_agents();

    let mut of_customers = [BTreeMap::<UtcMillis, (Amount, u64)>::new(), BTreeMap::new()];
    for (index, agent) in site.agents.iter().enumerate() {
        for device in agent.devices() {
            let audited = audit::accelerator(&site.collector, device);
            let windows = &audited.windows;
            for pair in windows.windows(2) {
                assert_eq!(pair[0].end(), pair[1].start(), "nothing went wrong, so there are no holes");
            }
            let between = &windows[1..windows.len() - 1];
            let length = if agent.name() == "host-b" { 2000 } else { 1000 };
            assert!(
                between.len() >= 2 && between.iter().all(|window| window.millis() == length),
                "{windows:?}"
            );
            for (hour, sum) in audited.hours {
                let total = of_customers[index / 2].entry(hour).or_default();
                *total = (total.0.plus(sum.0), total.1 + sum.1);
            }
        }
    }
    for (Tenant { customer, principal, lease, .. }, expected) in tenants.iter().zip(of_customers) {
        let hours = site.collector.get(&format!("customers/{customer}/hours"));
        let hours: BTreeMap<UtcMillis, (Amount, u64)> = hours["hours"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                (time(&row["hour"]).unwrap(), (audit::amount(row), row["measured_ms"].as_u64().unwrap()))
            })
            .collect();
        assert_eq!(hours, expected);

        let sum = expected.values().fold(Amount::default(), |sum, hour| sum.plus(hour.0));
        let detail = site.collector.get(&format!("customers/{customer}"));
        let total = &detail["total"];
        assert_eq!(audit::amount(&total["measured"]), sum);
        let millis = |key: &str| total[key].as_u64().unwrap();
        assert_eq!(millis("held_ms"), millis("measured_ms") + millis("interpolated_ms") + millis("gap_ms"));
        assert_eq!(millis("never_seen_ms"), 0);
        // What the gaps may hide is nothing in low, and never less than was measured.
        let with_gaps = audit::amount(&total["with_gaps"]);
        assert_eq!(with_gaps.low, sum.low);
        assert!(with_gaps.best >= sum.best && with_gaps.high >= sum.high, "{with_gaps:?}");
        let attempts = detail["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 1);
        assert_eq!(
            (&attempts[0]["attempt"], &attempts[0]["principal"]),
            (&(*lease).into(), &(*principal).into())
        );
    }
}
