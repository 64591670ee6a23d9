//! What an agent costs its host: the real program, eight fake accelerators, one look a second, a minute.
//!
//! The driver is fake, so the time in the real driver is not in here; everything else is.

use std::time::Duration;

use weighbridge_tests::{
    agent::AgentOptions,
    audit,
    machine::Device,
    site::Site,
    usage::{cpu, most_resident_kib, on_processor},
    wait,
};

const LASTS: Duration = Duration::from_secs(60);

/// Starts the agent, waits, and asks the kernel and the collector.
fn main() {
    let devices = (1..=8).map(Device::numbered).collect();
    let options = AgentOptions { period: "1s", window: "10s", ..AgentOptions::quick("bench-host", devices) };
    let mut site = Site::new(vec![options]);
    site.start_agents();
    site.measured(1_000);
    let pid = site.agents[0].id().expect("the agent runs");
    let (began, before, before_fine) = (wait::instant(), cpu(pid), on_processor(pid));
    wait::until_moment(began + LASTS);
    let lasted = began.elapsed();
    let (used, fine) = (cpu(pid) - before, on_processor(pid).saturating_sub(before_fine));
    let memory = most_resident_kib(pid);
    site.stop_agents();

    let audited = site.agents[0].devices().iter().map(|device| audit::accelerator(&site.collector, device));
    let (windows, measured_ms) =
        audited.fold((0, 0), |sum, one| (sum.0 + one.windows.len(), sum.1 + one.total().1));
    println!(
        "weighbridge-agent, 8 accelerators (fake driver), one look a second, windows and batches of 10 s"
    );
    println!("  measured for            {:.1} s", lasted.as_secs_f64());
    println!(
        "  resident memory, most   {:.1} MiB  (VmHWM)",
        f64::from(u32::try_from(memory).expect("KiB")) / 1024.0
    );
    let share = |time: Duration| 100.0 * time.as_secs_f64() / lasted.as_secs_f64();
    println!(
        "  processor               {:.3} % of a core  (scheduler's account of its threads)",
        share(fine)
    );
    println!("  the same in ticks       {:.3} % of a core  (utime + stime, in steps of 10 ms)", share(used));
    println!("  windows in the ledger   {windows}, each exact; {measured_ms} accelerator-milliseconds");
}
