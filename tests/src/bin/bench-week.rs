//! Whether an agent grows: the real program and 56 simulated accelerators, a week in about ten minutes.
//!
//! Every look, window, seal and fsync of a week happens; only the clock runs a thousand times as fast. No collector
//! answers, so the spool keeps it all, which is the harder case.

use std::{fmt::Write, fs, time::Duration};

use weighbridge_tests::{
    agent::PROGRAM,
    process::{self, Process},
    usage::{cpu, resident_kib},
    wait,
};

/// Times as fast as real time; a look a second is then one a millisecond.
const RATE: u32 = 1_000;
const ACCELERATORS: u32 = 56;

/// Starts the agent and says once a simulated day what it occupies. Days can be given; 7 otherwise.
fn main() {
    let days: u32 = std::env::args().nth(1).map_or(7, |days| days.parse().expect("a number of days"));
    let folder = tempfile::tempdir().expect("a folder");
    let mut scenario = String::from("seed = 7\n");
    for number in 0..ACCELERATORS {
        write!(
            scenario,
            "\n[[accelerator]]\nid = \"GPU-week-{number}\"\nname = \"NVIDIA H100 80GB HBM3\"\nrepeat = true\n\n\
             [[accelerator.phase]]\nfor = \"50m\"\ntensor = 0.45\nbusy = 1.0\npower_w = 640\nnoise = 0.02\n\n\
             [[accelerator.phase]]\nfor = \"10m\"\nfault = \"device_lost\"\n"
        )
        .expect("a string takes everything");
    }
    let path = |name: &str| folder.path().join(name);
    fs::write(path("scenario.toml"), scenario).expect("the folder is writable");
    let config = format!(
        "[agent]\nid = \"week\"\nhost = \"week\"\nkey_file = {:?}\n\n[source]\nkind = \"simulated\"\n\n\
         [source.simulated]\nscenario = {:?}\nrate = {RATE}\n\n[holders]\nprocess_owners = false\n\n\
         [spool]\ndir = {:?}\n\n[http]\nlisten = \"\"\n",
        path("key"),
        path("scenario.toml"),
        path("spool"),
    );
    fs::write(path("agent.toml"), config).expect("the folder is writable");
    let mut command = process::command(&process::program(PROGRAM));
    command.arg("--config").arg(path("agent.toml")).arg("run");
    let agent = Process::start(PROGRAM, &mut command, folder.path());
    let pid = agent.id();
    let began = wait::instant();
    println!(
        "weighbridge-agent, {ACCELERATORS} simulated accelerators, a look a second, {RATE} times as fast"
    );
    let a_day = Duration::from_secs(86_400) / RATE;
    // The first figure after an hour, when everything has happened once.
    wait::until_moment(began + a_day / 24);
    let first = resident_kib(pid);
    println!("  after an hour   {:.1} MiB resident", mebibytes(first));
    for day in 1..=days {
        wait::until_moment(began + a_day * day);
        println!("  after day {day}     {:.1} MiB resident", mebibytes(resident_kib(pid)));
    }
    let (last, used) = (resident_kib(pid), cpu(pid));
    assert!(agent.stop().success(), "the agent ends well");
    println!("  growth          {:+.2} MiB", mebibytes(last) - mebibytes(first));
    println!(
        "  processor       {:.1} s for {days} days, {:.4} % of a core at true speed",
        used.as_secs_f64(),
        100.0 * used.as_secs_f64() / (f64::from(days) * 86_400.0)
    );
}

fn mebibytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).expect("KiB")) / 1024.0
}
