//! What filling ahead is worth on this disk: appends of two kilobytes, each with a sync, in the folder given.
//!
//! `cargo run --release -p weighbridge-journal --example syncs -- FOLDER`

use std::{path::PathBuf, time::Instant};

use weighbridge_journal::{Journal, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("a folder to write in is expected")?);
    for round in 0..3 {
        for step in [0_u64, 128 << 10, 1 << 20] {
            let dir = folder.join(format!("{round}-{step}"));
            let (mut journal, _) = Journal::open(&dir, Options { segment_bytes: 1 << 20 })?;
            journal.fill_ahead(step);
            let mut times = Vec::new();
            for number in 0..1_000_u32 {
                let payload: Vec<u8> =
                    (0..2_000_u32).map(|at| (number * 31 + at * 7).to_le_bytes()[0]).collect();
                #[expect(clippy::disallowed_methods, reason = "it measures how long a disk takes")]
                let began = Instant::now();
                journal.prepare(2_000, 0)?;
                journal.append(&payload)?;
                journal.sync()?;
                times.push(began.elapsed());
            }
            let total: std::time::Duration = times.iter().sum();
            times.sort();
            println!(
                "filled ahead by {step:>7}: {:>5.0} appends a second, half in {:?}, 99 in 100 in {:?}",
                1_000.0 / total.as_secs_f64(),
                times[500],
                times[990]
            );
            std::fs::remove_dir_all(dir)?;
        }
    }
    Ok(())
}
