//! What goes wrong on a host is a gap with its cause, never a zero, and ends when the fault does.

use std::thread;

use weighbridge_fake_nvml::{DriverFault, Fault};
use weighbridge_meter::{Span, UtcMillis};
use weighbridge_tests::{
    agent::{Agent, AgentOptions},
    audit,
    collector::Collector,
    machine::Device,
    site::Site,
    wait,
};

/// Milliseconds between two looks: an answer given just before a fault may stand for the look it belongs to.
const PERIOD_MS: i64 = 250;

/// The wall clocks of two processes are read a few milliseconds apart.
const CLOCK_MS: i64 = 10;

/// A fault of one device, and what it is called everywhere.
struct Case {
    fault: Fault,
    cause: &'static str,
}

const CASES: [Case; 6] = [
    Case { fault: Fault::Lost, cause: "device_lost" },
    Case { fault: Fault::Gone, cause: "device_lost" },
    Case { fault: Fault::Hang, cause: "call_hung" },
    Case { fault: Fault::Error, cause: "read_failed" },
    Case { fault: Fault::Nan, cause: "implausible" },
    Case { fault: Fault::Backwards, cause: "counter_backwards" },
];

/// A deadline within the period: a hanging call must show.
fn options(name: String, first: u32) -> AgentOptions {
    let devices = vec![Device::numbered(first), Device::numbered(first + 1)];
    AgentOptions { deadline: "200ms", ..AgentOptions::quick(name, devices) }
}

fn gap_ms(collector: &Collector, device: &Device, cause: &str) -> Result<u64, String> {
    let accelerator = collector.accelerator(&device.uuid)?;
    accelerator["time"]["gap_ms"][cause].as_u64().ok_or_else(|| format!("no gap {cause} in {accelerator}"))
}

/// The value of a series in an agent's or collector's own metrics.
fn series(text: &str, series: &str) -> Result<f64, String> {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    value.ok_or_else(|| format!("no {series} in {text}"))
}

/// Returns once a window of this device begins after `moment`.
fn measured_after(collector: &Collector, device: &Device, moment: UtcMillis) {
    wait::until(&format!("{} is measured after {moment}", device.uuid), || {
        let audited = audit::windows(collector, device);
        let last = audited.windows.last().copied();
        last.filter(|window| moment <= window.start()).ok_or_else(|| format!("its last window is {last:?}"))
    });
}

fn of_one_device(collector: &Collector, agent: &Agent, case: &Case) {
    let [victim, bystander] = agent.devices() else { panic!("two devices") };
    let on = wait::now();
    agent.driver().set(&victim.uuid, case.fault).unwrap();
    // The counter that ran backwards has done so once, and goes on: a gap of two looks. The others last.
    let lasting = case.fault != Fault::Backwards;
    let least_ms: u32 = if lasting { 2_000 } else { 1 };
    wait::until(&format!("{} is a gap {}", victim.uuid, case.cause), || {
        let gap_ms = gap_ms(collector, victim, case.cause)?;
        if gap_ms >= u64::from(least_ms) { Ok(()) } else { Err(format!("{gap_ms} ms")) }
    });
    let name = format!(
        "weighbridge_agent_gap_seconds_total{{accelerator=\"{}\",cause=\"{}\"}}",
        victim.uuid, case.cause
    );
    let seconds = series(&agent.metrics().unwrap(), &name).unwrap();
    // Prometheus adds up floats.
    assert!(seconds * 1000.0 + 0.5 >= f64::from(least_ms), "{seconds} s of {name}");
    measured_after(collector, bystander, on);

    let off = wait::now();
    agent.driver().clear(&victim.uuid, case.fault).unwrap();
    measured_after(collector, victim, off);

    let windows = audit::windows(collector, victim).windows;
    let during = if lasting {
        // The look before the end may have set the base, which takes no metrics: time counts from there.
        Span::new(on.plus(PERIOD_MS), off.plus(-PERIOD_MS - CLOCK_MS)).unwrap()
    } else {
        // Somewhere within two looks of the step there is time that no window covers.
        let holes: Vec<Span> =
            windows.windows(2).filter_map(|pair| Span::new(pair[0].end(), pair[1].start())).collect();
        let [hole] = holes[..] else { panic!("one hole, not {holes:?}") };
        let close = Span::new(on.plus(-2 * PERIOD_MS), on.plus(4 * PERIOD_MS)).unwrap();
        assert_eq!(hole.overlap(&close), Some(hole), "the hole is where the counter fell, at {on}");
        hole
    };
    let covered = windows.iter().find(|window| window.overlap(&during).is_some());
    assert_eq!(covered, None, "a window covers time in which {:?} was on: {during:?}", case.fault);

    let windows = audit::windows(collector, bystander).windows;
    assert!(windows.windows(2).all(|pair| pair[0].end() == pair[1].start()), "the other device has holes");
}

/// The driver goes with all its devices, comes back, and is not there when the agent starts again.
fn of_the_driver(collector: &Collector, agent: &mut Agent) {
    let name = agent.name().to_owned();
    let state = |wanted: &str, agent: &Agent| {
        wait::until(&format!("{name} says that its source is {wanted}"), || {
            let shown = collector.agent(&name)?;
            if shown["source_state"] != wanted {
                return Err(shown.to_string());
            }
            let of_agent = format!("weighbridge_agent_source_state{{state=\"{wanted}\"}}");
            match series(&agent.metrics()?, &of_agent)? {
                1.0 => Ok(()),
                other => Err(format!("{other}")),
            }
        });
    };
    state("ok", agent);
    let devices = agent.devices().to_vec();
    agent.driver().set_driver(DriverFault::NotLoaded).unwrap();
    let on = wait::now();
    for device in &devices {
        agent.driver().set(&device.uuid, Fault::Lost).unwrap();
    }
    state("driver_missing", agent);
    for device in &devices {
        wait::until("the time of a known device is a gap for want of a driver", || {
            gap_ms(collector, device, "driver_missing")
        });
    }
    let shown = series(&collector.metrics(), "weighbridge_collector_agents{state=\"troubled\"}").unwrap();
    assert!(shown >= 1.0, "the collector counts {shown} agents in trouble");

    // An agent that starts without a driver knows no device to say anything of: its state says it all.
    agent.kill();
    agent.start();
    state("driver_missing", agent);

    let off = wait::now();
    for device in &devices {
        agent.driver().clear(&device.uuid, Fault::Lost).unwrap();
    }
    agent.driver().clear_driver(DriverFault::NotLoaded).unwrap();
    state("ok", agent);
    for device in &devices {
        measured_after(collector, device, off);
        let covered = audit::windows(collector, device).covers(on.plus(PERIOD_MS), off.plus(-CLOCK_MS));
        assert_eq!(covered, None, "a window covers time without a driver");
    }
}

#[test]
fn each_fault_is_a_gap_with_its_cause_and_ends_while_other_devices_go_on() {
    let mut number = 0;
    let mut next = |name: String| {
        number += 2;
        options(name, number)
    };
    let mut agents: Vec<AgentOptions> = CASES.iter().map(|case| next(format!("{:?}", case.fault))).collect();
    agents.push(next("Driver".into()));
    let mut site = Site::new(agents);
    site.start_agents();
    site.measured(1_000);

    let (collector, (of_driver, of_devices)) = (&site.collector, site.agents.split_last_mut().unwrap());
    thread::scope(|scope| {
        for (agent, case) in of_devices.iter().zip(&CASES) {
            scope.spawn(move || of_one_device(collector, agent, case));
        }
        scope.spawn(move || of_the_driver(collector, of_driver));
    });

    site.stop_agents();
    for agent in &site.agents {
        agent.devices().iter().for_each(|device| drop(audit::accelerator(&site.collector, device)));
    }
}

#[test]
fn a_driver_that_takes_its_time_to_start_costs_no_certainty() {
    let device = Device::numbered(1);
    let mut site = Site::new(vec![AgentOptions::quick("slow", vec![device.clone()])]);
    site.agents[0].driver().set_driver(DriverFault::Hang).unwrap();
    site.start_agents();
    // Its first look is under way, longer than the time between two.
    wait::until("the agent answers", || site.agents[0].metrics());
    wait::until_moment(wait::instant() + std::time::Duration::from_millis(700));
    site.agents[0].driver().clear_driver(DriverFault::Hang).unwrap();
    site.measured(2_000);
    site.stop_agents();
    // Each window is exact, the first one too.
    audit::accelerator(&site.collector, &device);
}
