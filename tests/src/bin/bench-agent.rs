//! What an agent costs its host: the real program, fake accelerators, one look a second, a minute.
//!
//! `bench-agent` has eight whole accelerators, `bench-agent mig` eight that are split into seven instances each.
//! The driver is fake, so the time in the real driver is not in here; everything else is.

use std::{fmt::Write, time::Duration};

use weighbridge_tests::{
    agent::AgentOptions,
    audit,
    machine::{self, Device},
    site::Site,
    usage::{cpu, most_resident_kib, on_processor},
    wait,
};

const LASTS: Duration = Duration::from_secs(60);
const GPUS: u32 = 8;
const INSTANCES: u32 = 7;

/// Starts the agent, waits, and asks the kernel and the collector.
fn main() {
    let mig = std::env::args().nth(1).is_some_and(|what| what == "mig");
    let devices: Vec<Device> = (1..=GPUS).map(Device::numbered).collect();
    let script = mig.then(|| split(&devices));
    let options = AgentOptions {
        period: "1s",
        window: "10s",
        script,
        ..AgentOptions::quick("bench-host", if mig { Vec::new() } else { devices })
    };
    let mut site = Site::new(vec![options]);
    site.start_agents();
    if mig {
        wait::until("the first instances are measured", || {
            let metrics = site.agents[0].metrics()?;
            let measured =
                metrics.lines().filter(|line| line.starts_with("weighbridge_agent_windows_total{"));
            match measured.count() {
                56.. => Ok(()),
                some => Err(format!("{some} of 56")),
            }
        });
    } else {
        site.measured(1_000);
    }
    let pid = site.agents[0].id().expect("the agent runs");
    let (began, before, before_fine) = (wait::instant(), cpu(pid), on_processor(pid));
    wait::until_moment(began + LASTS);
    let lasted = began.elapsed();
    let (used, fine) = (cpu(pid) - before, on_processor(pid).saturating_sub(before_fine));
    let memory = most_resident_kib(pid);
    site.stop_agents();

    let what = if mig { "56 MIG instances of 8 accelerators" } else { "8 accelerators" };
    println!("weighbridge-agent, {what} (fake driver), one look a second, windows and batches of 10 s");
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
    if !mig {
        let audited =
            site.agents[0].devices().iter().map(|device| audit::accelerator(&site.collector, device));
        let (windows, measured_ms) =
            audited.fold((0, 0), |sum, one| (sum.0 + one.windows.len(), sum.1 + one.total().1));
        println!("  windows in the ledger   {windows}, each exact; {measured_ms} accelerator-milliseconds");
    }
}

/// The same machine with each accelerator split into seven.
fn split(devices: &[Device]) -> String {
    let mut script = String::from("driver_version = \"580.95.05\"\n");
    for (index, device) in devices.iter().enumerate() {
        // What the machine without MIG is told, but for the driver's version.
        let whole = machine::script(std::slice::from_ref(device));
        let whole = whole.split_once("[[device]]").map_or("", |(_, rest)| rest);
        let bus = format!("00000000:{:02X}:00.0", 16 + index);
        let whole = whole.replace("00000000:10:00.0", &bus);
        write!(script, "\n[[device]]{whole}mig = true\n").expect("a string takes everything");
        for instance in 0..INSTANCES {
            write!(
                script,
                "\n[[device.instance]]\nuuid = \"MIG-{index:08x}-1111-2222-3333-{instance:012x}\"\n\
                 gi = {}\nci = 0\nsms = 16\n\
                 gpm_percent = {{ any_tensor = 50.0, hmma = 50.0, imma = 0.0, dfma = 0.0, fp64 = 0.0, \
                 fp32 = 0.0, fp16 = 0.0, sm = 100.0 }}\n",
                instance + 7
            )
            .expect("a string takes everything");
        }
    }
    script
}
