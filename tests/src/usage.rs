//! What a process used, as the kernel counts it, and how figures are summed up.

use std::{fs, time::Duration};

/// Processor time of a process so far, user and system.
///
/// # Panics
/// If there is no such process.
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name in parentheses may hold blanks; utime and stime are the 12th and 13th fields after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every Linux there is.
    Duration::from_millis(ticks * 10)
}

/// Time that the threads a process has now spent on a processor, by the scheduler's own clock.
///
/// Finer than [`cpu`], which comes in steps of 10 ms; threads that have ended are not in it.
///
/// # Panics
/// If there is no such process, or the kernel keeps no such account.
pub fn on_processor(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let files = threads.filter_map(|thread| Some(thread.ok()?.path().join("schedstat")));
    // A thread may end between the listing and the look.
    let accounts = files.filter_map(|file| fs::read_to_string(file).ok());
    let nanos = accounts.filter_map(|account| account.split(' ').next()?.parse::<u64>().ok()).sum();
    assert!(nanos > 0, "the kernel keeps account of threads");
    Duration::from_nanos(nanos)
}

/// The most memory that a process ever had resident, in KiB.
///
/// # Panics
/// If there is no such process.
pub fn most_resident_kib(pid: u32) -> u64 {
    memory_kib(pid, "VmHWM:")
}

/// The memory that a process has resident now, in KiB.
///
/// # Panics
/// If there is no such process.
pub fn resident_kib(pid: u32) -> u64 {
    memory_kib(pid, "VmRSS:")
}

fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux says how much");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number of KiB")
}

/// The value that so many per mille are not above; sorts them.
///
/// # Panics
/// If there are none.
pub fn quantile(values: &mut [Duration], per_mille: usize) -> Duration {
    values.sort_unstable();
    values[(values.len() * per_mille / 1000).min(values.len() - 1)]
}

/// A duration in milliseconds, for people.
pub fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}
