//! A folder of configurations that must be refused, each with the message that people will see.

use std::{error::Error, fmt::Write, fs, path::PathBuf};

use expect_test::expect_file;
use weighbridge_agent::config::{Config, ConfigError, Layers, SourceConfig, load};

fn folder(name: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/configs").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .expect("listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

fn load_text(text: &str, flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("agent.toml");
    fs::write(&file, text).expect("written");
    let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    load(&Layers { file: Some(file), flags, environment: false }, "node1")
}

#[test]
fn every_invalid_sample_is_refused_with_its_message() {
    let mut shown = String::new();
    for path in folder("invalid") {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let layers = Layers { file: Some(path.clone()), flags: vec![], environment: false };
        let error = load(&layers, "node1").expect_err(&name);
        let message = error.to_string().replace(&format!("{}", path.display()), "agent.toml");
        writeln!(shown, "{name}\n    {message}").expect("string");
    }
    expect_file!["configs/invalid.expected"].assert_eq(&shown);
}

#[test]
fn every_valid_sample_is_taken() {
    for path in folder("valid") {
        let layers = Layers { file: Some(path.clone()), flags: vec![], environment: false };
        if let Err(error) = load(&layers, "node1") {
            panic!("{}: {error}", path.display());
        }
    }
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = load_text("", &[]).unwrap();
    assert_eq!((config.agent.as_str(), config.host.as_str()), ("node1", "node1"));
    assert_eq!((config.period.as_millis(), config.pace.window_ms, config.batch_ms), (1_000, 60_000, 60_000));
    assert!(matches!(config.source, SourceConfig::Nvml { .. }));
    assert!(config.uplink.is_none() && config.lease_file.is_none());
    let processes = config.processes.unwrap();
    assert!(processes.cgroups && processes.owners && processes.proc == std::path::Path::new("/proc"));
    assert_eq!(config.spool.max_bytes, 1 << 30);
    assert_eq!(config.listen.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:19310"));
}

#[test]
fn a_flag_wins_over_the_file_and_is_named_when_it_is_wrong() {
    let file = "[meter]\nperiod = \"2s\"\n";
    assert_eq!(load_text(file, &[("meter.period", "3s")]).unwrap().period.as_secs(), 3);
    let error = load_text(file, &[("meter.priod", "3s")]).unwrap_err().to_string();
    assert!(error.starts_with("flag meter.priod: ") && error.contains("`priod`"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_an_error_with_its_cause() {
    let layers = Layers { file: Some("/nowhere/agent.toml".into()), flags: vec![], environment: false };
    let error = load(&layers, "node1").unwrap_err();
    assert_eq!(error.to_string(), "cannot read configuration file /nowhere/agent.toml");
    assert!(error.source().is_some());
}
