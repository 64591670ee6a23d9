//! The demo tells its story, and leaves behind what any site would: a ledger that verifies, and no identity in clear.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path, time::Duration};

use weighbridge_tests::{collector, process};

/// The demo's own file of customers, read where it is written: a value that is added there is looked for here.
fn identities() -> Vec<String> {
    let source = include_str!("../../collector/src/demo/fleet.rs");
    let (_, csv) = source.split_once("CUSTOMERS: &str = \"\\\n").expect("the demo has a file of customers");
    let (csv, _) = csv.split_once("\";").expect("which ends");
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = rows.next().expect("a header");
    assert_eq!(header[..5], ["customer", "kind", "us_person", "control_group", "name"]);
    let mut values = Vec::new();
    for row in rows {
        assert_eq!(row.len(), header.len(), "no value is quoted: {row:?}");
        // Entries of a list lie apart, and so do an address and when it was used.
        let parts = row[4..].iter().flat_map(|value| value.split([';', '@'])).map(str::trim);
        // Words too common to say who somebody is, and the year with which each time begins.
        values.extend(parts.filter(|part| part.len() > 4 && !part.starts_with("2026-")).map(str::to_owned));
        values.extend(row[9..10].iter().filter(|value| !value.is_empty()).map(|email| (*email).to_owned()));
    }
    assert!(values.len() > 25, "{values:?}");
    values
}

/// Where any of the values stands in a file below the folder; and how many bytes were looked at.
fn search(folder: &Path, values: &[String]) -> (Vec<String>, u64) {
    let mut by_first: Vec<Vec<&[u8]>> = vec![Vec::new(); 256];
    for value in values {
        by_first[usize::from(value.as_bytes()[0])].push(value.as_bytes());
    }
    let (mut found, mut looked_at, mut folders) = (Vec::new(), 0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            looked_at += bytes.len() as u64;
            for (at, byte) in bytes.iter().enumerate() {
                for value in
                    by_first[usize::from(*byte)].iter().filter(|value| bytes[at..].starts_with(value))
                {
                    found.push(format!("{}:{at}: {}", path.display(), String::from_utf8_lossy(value)));
                }
            }
        }
    }
    (found, looked_at)
}

#[test]
fn the_demo_tells_its_story_and_what_it_leaves_verifies_rebuilds_and_names_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("demo");
    let run = |name: &str, arguments: &[&str]| {
        let mut command = process::command(&process::program(collector::PROGRAM));
        command.args(arguments);
        process::run(name, &mut command, folder.path(), Duration::from_secs(300))
    };
    let demo = run("demo", &["demo", "--once", "--hours", "6", "--data", &data.display().to_string()]);
    assert_eq!(demo.code, Some(0), "{demo:?}");
    let story = &demo.stdout;
    let line = |parts: &[&str]| {
        let line = story.lines().find(|line| parts.iter().all(|part| line.contains(part)));
        line.unwrap_or_else(|| panic!("no line with {parts:?} in:\n{story}"))
    };
    line(&["2,048 accelerators", "6 hours"]);
    line(&["case-", "customer:C-1001 is projected to meet the criteria of the proposed 15 CFR 7.308"]);
    line(&["case-", "customer:C-1003 is projected to meet the criteria of the proposed 15 CFR 7.308"]);
    line(&["customer C-1001 (Foreign)", "findings under packs about foreign persons", "1 account(s)"]);
    line(&["customer C-1002 (Us): no finding under packs about foreign persons, 2 findings under others"]);
    line(&["customer C-1003", "3 account(s)"]);
    line(&[
        "host meridian-0007 has said nothing since hour 5: 8 of its accelerators stand as silent, not as idle",
    ]);
    line(&["principal lease:demo/stray belongs to no customer", "operations that still count"]);
    assert!(!story.contains("opened about customer:C-1002"), "{story}");
    line(&["12,288 accelerator-hours: ", "0.0 % unattributed; 99.9 % measured"]);

    // It ends with a report that is filed: as paper, page and record, and with a proof that holds without the collector.
    line(&["An officer looked at case-0001, asked its customer, decided, and filed version 1"]);
    let filed = folder.path().join("demo-reports");
    assert!(fs::read(filed.join("case-0001.pdf")).unwrap().starts_with(b"%PDF-"));
    let page = fs::read_to_string(filed.join("case-0001.html")).unwrap();
    for said in ["Aurora Example Models Ltd", "instruction tuning; no biological data", "America/New_York"] {
        assert!(page.contains(said), "{said}");
    }

    let config = data.join("collector.toml").display().to_string();
    let verified = run("verify", &["--config", &config, "verify"]);
    assert_eq!((verified.code, verified.stderr.as_str()), (Some(0), ""), "{verified:?}");
    assert!(verified.stdout.contains("the sums follow from the ledger, to the integer"), "{verified:?}");
    let rebuilt = run("rebuild", &["--config", &config, "rebuild"]);
    assert_eq!(rebuilt.code, Some(0), "{rebuilt:?}");
    assert!(rebuilt.stdout.contains("rebuilt: the same integers as before"), "{rebuilt:?}");
    assert_eq!(run("rebuild", &["--config", &config, "rebuild"]).stdout, rebuilt.stdout, "row by row");

    let key = run("log-key", &["--config", &config, "log-key"]).stdout;
    let proof = filed.join("case-0001.proof").display().to_string();
    let checked = run("proof", &["verify", "--proof", &proof, "--key", key.trim()]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stdout.contains("the report beside it is the one that was proved"), "{checked:?}");
    let shown = run("show", &["--config", &config, "case", "show", "case-0001"]);
    assert!(shown.stdout.contains("filed"), "{shown:?}");

    let values = identities();
    let (found, looked_at) = search(&data, &values);
    assert_eq!(found, [] as [String; 0]);
    assert!(looked_at > 10_000_000, "{looked_at} bytes");
    assert!(values.iter().all(|value| !story.contains(value.as_str())), "{story}");

    // The values are there, sealed, for who says why; and the same search finds them then.
    let reports = folder.path().join("reports");
    fs::create_dir(&reports).unwrap();
    let out = reports.display().to_string();
    let look = ["report", "case-0001", "--actor", "ada", "--reason", "to see it", "--out", &out];
    let report = run("report", &[["--config", config.as_str()].as_slice(), &look].concat());
    assert_eq!(report.code, Some(0), "{report:?}");
    let opened = search(&reports, &values).0;
    for value in ["Aurora Example Models Ltd", "ops@aurora.example", "192.0.2.17"] {
        for file in ["case-0001.json", "case-0001.html"] {
            assert!(opened.iter().any(|found| found.contains(file) && found.ends_with(value)), "{opened:?}");
        }
    }
    assert_eq!(search(&data, &values).0, [] as [String; 0], "a look leaves nothing behind");
}

#[test]
fn the_demo_begins_in_an_empty_folder_only() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("taken");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("mine"), "precious").unwrap();
    let mut command = process::command(&process::program(collector::PROGRAM));
    command.args(["demo", "--once", "--data"]).arg(&data);
    let demo = process::run("demo", &mut command, folder.path(), Duration::from_secs(60));
    assert_eq!(demo.code, Some(2), "{demo:?}");
    assert!(demo.stderr.contains(&format!("{}: is not empty", data.display())), "{demo:?}");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(data.join("mine")).unwrap(), "precious");
}
