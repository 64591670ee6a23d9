//! Trust between the programs: joining, and connections under an agent's certificate.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, pki_types::UnixTime, time_provider::TimeProvider};
use weighbridge_agent::tls::{client_config, files::Files};
use weighbridge_wire::certificate::Looked;

use crate::{
    agent::Agent,
    audit,
    collector::Collector,
    process::{self, Finished},
    wait,
};

/// Has a token made for this agent; where it lies.
///
/// # Panics
/// If the collector makes none.
#[track_caller]
pub fn token(collector: &Collector, agent: &Agent, more: &[&str]) -> PathBuf {
    let file = agent.folder().join(format!("token-{}", wait::now().0));
    let out = file.display().to_string();
    let name = agent.name();
    let arguments = [
        &["enrol", "token", "--agent", name, "--host", name, "--site", "site-1", "--fabric", "fabric-1"][..],
        &["--out", &out],
        more,
    ]
    .concat();
    let made = collector.run(&arguments);
    assert_eq!(made.code, Some(0), "{made:?}");
    file
}

/// Lets this agent join with that token, however it ends.
#[track_caller]
pub fn join(agent: &Agent, token: &Path) -> Finished {
    agent.run(&["enroll", "--token-file", &token.display().to_string()])
}

/// Lets this agent join.
///
/// # Panics
/// If it cannot.
#[track_caller]
pub fn enroll(collector: &Collector, agent: &Agent) {
    let joined = join(agent, &token(collector, agent, &[]));
    assert_eq!(joined.code, Some(0), "{joined:?}");
}

/// The kit's clock, for rustls.
#[derive(Debug)]
pub struct Wall;

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(wait::now().0 / 1000).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// What a client needs that passes for this agent.
///
/// # Panics
/// If the agent is not enrolled.
#[track_caller]
pub fn connecting_as(agent: &Agent) -> Arc<ClientConfig> {
    connecting_with(&agent.tls())
}

/// What a client needs that has these files.
///
/// # Panics
/// If nobody enrolled there.
#[track_caller]
pub fn connecting_with(tls: &Path) -> Arc<ClientConfig> {
    let parsed = Files::Own(tls.into()).read().and_then(|read| read.parse()).expect("the agent is enrolled");
    let shown = Some((parsed.certificates, parsed.key));
    Arc::new(client_config(parsed.authorities, shown, Arc::new(Wall)).expect("its files can be used"))
}

/// What a client needs that believes what this agent believes, and shows nothing.
///
/// # Panics
/// If the agent is not enrolled.
#[track_caller]
pub fn connecting_as_nobody(agent: &Agent) -> Arc<ClientConfig> {
    let parsed = Files::Own(agent.tls()).read().and_then(|read| read.parse()).expect("the agent is enrolled");
    Arc::new(client_config(parsed.authorities, None, Arc::new(Wall)).expect("its files can be used"))
}

/// The agent's certificate, and how many authorities it believes.
pub fn certificate(agent: &Agent) -> Result<(Looked, usize), String> {
    certificate_in(&agent.tls())
}

/// The same from the folder of its files.
pub fn certificate_in(tls: &Path) -> Result<(Looked, usize), String> {
    let parsed = Files::Own(tls.into()).read().and_then(|read| read.parse());
    let parsed = parsed.map_err(|error| format!("{error}"))?;
    let looked = Looked::at(&parsed.certificates[0]).map_err(|error| error.to_string())?;
    Ok((looked, parsed.authorities.len()))
}

/// Lets an agent without a program join: what connects as it, for load that signs with this key itself.
///
/// # Panics
/// If it cannot.
#[track_caller]
pub fn joined(collector: &Collector, folder: &Path, name: &str, seed: &[u8; 32]) -> Arc<ClientConfig> {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    let of_agent = folder.join(name);
    fs::create_dir_all(&of_agent).expect("the folder can be made");
    let path = |file: &str| of_agent.join(file);
    let key = fs::File::options().write(true).create_new(true).mode(0o600).open(path("key"));
    let written = key.and_then(|mut key| key.write_all(BASE64.encode(seed).as_bytes()));
    written.expect("the folder is writable");
    let text = format!(
        "[agent]\nid = {name:?}\nhost = {name:?}\nkey_file = {:?}\n\n[tls]\ndir = {:?}\n\n\
         [uplink]\ncollectors = [\"https://{}\"]\n",
        path("key"),
        path("tls"),
        collector.ingest(),
    );
    fs::write(path("agent.toml"), text).expect("the folder is writable");
    let token = path("token");
    let made = collector.run(&[
        "enrol",
        "token",
        "--agent",
        name,
        "--host",
        name,
        "--site",
        "site-1",
        "--fabric",
        "fabric-1",
        "--out",
        &token.display().to_string(),
    ]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let mut command = process::command(&process::program(crate::agent::PROGRAM));
    command.arg("--config").arg(path("agent.toml")).arg("enroll").arg("--token-file").arg(token);
    let joined = process::run("command", &mut command, &of_agent, wait::PATIENCE);
    assert_eq!(joined.code, Some(0), "{joined:?}");
    connecting_with(&path("tls"))
}

/// The value of a series in what a program says to Prometheus.
pub fn series(text: &str, series: &str) -> Result<f64, String> {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    value.ok_or_else(|| format!("no {series} in {text}"))
}

/// Returns once the agent says this of its uplink.
#[track_caller]
pub fn uplink_is(agent: &Agent, state: &str) {
    wait::until(&format!("the uplink of {} is {state}", agent.name()), || {
        let name = format!("weighbridge_agent_uplink_state{{state=\"{state}\"}}");
        match series(&agent.metrics()?, &name)? {
            1.0 => Ok(()),
            _ => Err(agent.log()),
        }
    });
}

/// Returns once the agent has renewed so often in this run.
#[track_caller]
pub fn renewed(agent: &Agent, times: f64) -> f64 {
    wait::until(&format!("{} has renewed {times} times", agent.name()), || {
        let name = "weighbridge_agent_certificate_renewals_total{outcome=\"ok\"}";
        let count = series(&agent.metrics()?, name).unwrap_or(0.0);
        if count >= times { Ok(count) } else { Err(format!("{count} times: {}", agent.log())) }
    })
}

/// Returns once nothing but the batch under way waits at the agent.
#[track_caller]
pub fn caught_up(agent: &Agent) {
    wait::until(&format!("{} has sent what it had", agent.name()), || match agent.waiting() {
        0 | 1 => Ok(()),
        waiting => Err(format!("{waiting} batches wait: {}", agent.log())),
    });
}

/// Returns once a step of the rollover is done; before its time it is refused.
#[track_caller]
pub fn step(collector: &Collector, step: &str) {
    wait::until(&format!("ca {step}"), || {
        let done = collector.run(&["ca", step]);
        match done.code {
            Some(0) => Ok(()),
            Some(1) if done.stderr.contains("not before") => Err(done.stderr),
            _ => panic!("{done:?}"),
        }
    });
}

/// Returns once the agent believes so many authorities.
#[track_caller]
pub fn believes(agent: &Agent, authorities: usize) {
    wait::until(&format!("{} believes {authorities} authorities", agent.name()), || {
        match certificate(agent)?.1 {
            count if count == authorities => Ok(()),
            count => Err(format!("{count}: {}", agent.log())),
        }
    });
}

/// Every window of the agent's devices is exact, and each begins where the one before ended.
#[track_caller]
pub fn whole(collector: &Collector, agent: &Agent) -> usize {
    let mut count = 0;
    for device in agent.devices() {
        let windows = audit::accelerator(collector, device).windows;
        let hole = windows.windows(2).find(|pair| pair[0].end() != pair[1].start());
        assert_eq!(hole, None, "a window of {} is lost", device.uuid);
        count += windows.len();
    }
    count
}
