//! Compares known work on a real GPU with what the agent metered: `tests/gpu/run` starts it.

use std::{fs, path::PathBuf, process::ExitCode};

use weighbridge_tests::known_work::{compare, cost, phases, spooled, table};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("known-work: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<String, String> {
    let (mut spool, mut work, mut costs, mut json) = (None, None, None, false);
    while let Some(flag) = arguments.next() {
        if flag == "--json" {
            json = true;
            continue;
        }
        let value = arguments.next().map(PathBuf::from).ok_or(format!("{flag}: a path is missing"))?;
        match flag.as_str() {
            "--spool" => spool = Some(value),
            "--work" => work = Some(value),
            "--cost" => costs = Some(value),
            _ => return Err(format!("{flag} is not one of --spool, --work, --cost and --json")),
        }
    }
    let read =
        |path: &PathBuf| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let work = phases(&read(&work.ok_or("--work is missing")?)?)?;
    let (windows, devices) = spooled(&spool.ok_or("--spool is missing")?)?;
    let rows = compare(&work, &windows, &devices);
    if json {
        return serde_json::to_string_pretty(&rows).map_err(|error| error.to_string());
    }
    let costs = costs.map(|path| read(&path).and_then(|text| cost(&text))).transpose()?;
    Ok(format!("{}{}", table(&rows), costs.unwrap_or_default()))
}
