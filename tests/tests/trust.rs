//! Trust between the programs: joining, renewal, shutting out and another authority, all of it without a restart
//! and without a window lost; and everything that must not be let in.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path, sync::Arc};

use ed25519_dalek::SigningKey;
use tempfile::TempDir;
use weighbridge_store::Fact;
use weighbridge_tests::{
    agent::{Agent, AgentOptions},
    collector::Collector,
    http::{Answer, Connection},
    ledgers,
    machine::Device,
    process::{self, Finished},
    trust, wait,
};
use weighbridge_wire::{Batch, seal::seal};

/// Certificates that live for seconds.
const SHORT: &str = "[authority]\nagent_certificate = \"6s\"\nserver_certificate = \"9s\"\n";

/// The same, and an authority that is leaving need not stay for long.
const BRIEF: &str = "[authority]\nagent_certificate = \"6s\"\nserver_certificate = \"9s\"\ngrace = \"2s\"\n";

/// A collector under TLS that serves, and agents that nobody enrolled yet. Dropping it ends all programs.
struct Secured {
    collector: Collector,
    agents: Vec<Agent>,
    _folder: TempDir,
}

impl Secured {
    fn new(more: &str, names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut collector = Collector::prepare_secure(&folder.path().join("collector"), "", more);
        let agents = names.iter().zip(1..).map(|(name, number)| {
            let options = AgentOptions::quick(*name, vec![Device::numbered(number)]);
            Agent::prepare_secure(&folder.path().join(name), options, collector.ingest())
        });
        let agents = agents.collect();
        collector.start_ready();
        Self { collector, agents, _folder: folder }
    }

    fn stop_agents(&mut self) {
        self.agents.iter_mut().for_each(Agent::stop);
        for agent in &self.agents {
            let (waiting, parked) = (agent.waiting(), agent.inspect().parked.len());
            assert_eq!((waiting, parked), (0, 0), "{}: {}", agent.name(), agent.log());
        }
        self.collector.settle();
    }
}

#[test]
fn enrolment_renewal_revocation_and_rollover_need_no_restart_and_lose_no_window() {
    let mut site = Secured::new(BRIEF, &["steady", "suspect"]);
    let began = wait::instant();
    for agent in &mut site.agents {
        agent.start();
    }
    let programs = |site: &Secured| -> Vec<u32> {
        site.agents.iter().filter_map(Agent::id).chain(site.collector.id()).collect()
    };
    let started = programs(&site);

    // They measure before anybody lets them in.
    for agent in &site.agents {
        trust::uplink_is(agent, "no_certificate");
        trust::enroll(&site.collector, agent);
    }
    for agent in &site.agents {
        trust::uplink_is(agent, "ok");
        trust::renewed(agent, 2.0);
    }

    // One is shut out on the connection that it has open, and let in again.
    let (steady, suspect) = (&site.agents[0], &site.agents[1]);
    let denied = site.collector.run(&["enrol", "deny", suspect.name(), "--reason", "smells of smoke"]);
    assert_eq!(denied.code, Some(0), "{denied:?}");
    trust::uplink_is(suspect, "denied");
    assert!(suspect.log().contains("smells of smoke"), "{}", suspect.log());
    let refused = trust::series(
        &site.collector.metrics(),
        "weighbridge_collector_not_admitted_total{reason=\"denied\"}",
    );
    assert!(refused.unwrap() >= 1.0);
    trust::uplink_is(steady, "ok");
    let allowed = site.collector.run(&["enrol", "allow", suspect.name()]);
    assert_eq!(allowed.code, Some(0), "{allowed:?}");
    trust::caught_up(suspect);

    // Another authority, in three steps.
    let first = trust::certificate(steady).unwrap().0.issuer;
    trust::step(&site.collector, "introduce");
    site.agents.iter().for_each(|agent| trust::believes(agent, 2));
    trust::step(&site.collector, "activate");
    for agent in &site.agents {
        wait::until("the new authority has signed", || {
            let (certificate, _) = trust::certificate(agent)?;
            if certificate.issuer == first { Err(agent.log()) } else { Ok(()) }
        });
    }
    trust::step(&site.collector, "retire");
    site.agents.iter().for_each(|agent| trust::believes(agent, 1));
    for agent in &site.agents {
        let before = trust::renewed(agent, 1.0);
        trust::renewed(agent, before + 1.0);
        trust::uplink_is(agent, "ok");
    }

    assert_eq!(programs(&site), started, "nothing was started again");
    site.stop_agents();
    let windows: usize = site.agents.iter().map(|agent| trust::whole(&site.collector, agent)).sum();
    site.collector.stop();
    let verified = site.collector.run(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    println!("{windows} windows in {} s, none lost", began.elapsed().as_secs());
}

#[test]
fn an_agent_whose_certificate_ended_while_it_was_off_comes_back_by_itself() {
    let mut site = Secured::new(SHORT, &["off"]);
    let (collector, agent) = (&site.collector, &mut site.agents[0]);
    trust::enroll(collector, agent);
    let (certificate, _) = trust::certificate(agent).unwrap();
    wait::until("the certificate has ended", || {
        if certificate.not_after < wait::now() { Ok(()) } else { Err("not yet".into()) }
    });
    let doctor = agent.run(&["doctor"]);
    assert!(doctor.stdout.contains("FAIL  certificate") && doctor.stdout.contains("has ended"), "{doctor:?}");
    agent.start();
    trust::uplink_is(agent, "ok");
    trust::renewed(agent, 1.0);
    site.stop_agents();
    trust::whole(&site.collector, &site.agents[0]);
}

#[test]
fn an_agent_whose_certificate_is_over_for_good_measures_on_and_joins_again_while_it_runs() {
    let strict = "[authority]\nagent_certificate = \"6s\"\nserver_certificate = \"1h\"\ngrace = \"0s\"\n";
    let mut site = Secured::new(strict, &["late"]);
    let agent = &mut site.agents[0];
    trust::enroll(&site.collector, agent);
    let (certificate, _) = trust::certificate(agent).unwrap();
    wait::until("the certificate has ended", || {
        if certificate.not_after.plus(1_000) < wait::now() { Ok(()) } else { Err("not yet".into()) }
    });
    agent.start();
    trust::uplink_is(agent, "certificate_refused");
    let waiting = agent.waiting();
    wait::until(
        "the agent measures on",
        || {
            if agent.waiting() > waiting { Ok(()) } else { Err(agent.log()) }
        },
    );
    trust::enroll(&site.collector, agent);
    trust::uplink_is(agent, "ok");
    trust::caught_up(agent);
    site.stop_agents();
    trust::whole(&site.collector, &site.agents[0]);
}

#[track_caller]
fn ended(finished: &Finished, code: i32, said: &str) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    assert!(finished.stderr.contains(said), "{said} is not in: {}", finished.stderr);
}

#[test]
fn a_join_token_works_once_for_one_agent_at_one_collector_in_its_time() {
    let mut site = Secured::new("", &["one", "two"]);
    let (collector, one, two) = (&site.collector, &site.agents[0], &site.agents[1]);
    let good = trust::token(collector, one, &["--trust", "guest"]);
    ended(&trust::join(two, &good), 1, "the token is for agent one, the host says it is two");
    ended(&trust::join(one, &good), 0, "");
    let files = ["identity.pem", "authorities.pem"].map(|name| one.tls().join(name));
    for file in &files {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    // The answer may have been lost: the same host may ask again. A copy of the token is worth nothing.
    ended(&trust::join(one, &good), 0, "");
    let before = files.each_ref().map(|file| fs::read(file).unwrap());
    let key = one.folder().join("key");
    fs::rename(&key, one.folder().join("key.before")).unwrap();
    ended(&trust::join(one, &good), 1, "the token was used already, with another key");
    assert_eq!(files.each_ref().map(|file| fs::read(file).unwrap()), before, "what was there is untouched");
    fs::rename(one.folder().join("key.before"), &key).unwrap();

    let unknown = two.folder().join("unknown");
    let secret = fs::read_to_string(trust::token(collector, two, &[])).unwrap();
    let mut forged: weighbridge_wire::enrol::JoinToken = secret.parse().unwrap();
    forged.secret[0] ^= 1;
    fs::write(&unknown, forged.to_string()).unwrap();
    ended(&trust::join(two, &unknown), 1, "this collector never made this token");

    let brief = trust::token(collector, two, &["--valid", "1s"]);
    wait::until("the token has expired", || {
        let facts = collector.run(&["enrol", "ls"]);
        let waiting = facts.stdout.lines().filter(|line| line.contains("agent two")).count();
        // The one whose secret was forged waits on.
        if waiting == 1 { Ok(()) } else { Err(facts.stdout) }
    });
    ended(&trust::join(two, &brief), 1, "the token ended at ");

    fs::write(&unknown, "letmein").unwrap();
    ended(&trust::join(two, &unknown), 2, "not a join token");
    let elsewhere = Secured::new("", &["two"]);
    let foreign = trust::token(&elsewhere.collector, &elsewhere.agents[0], &[]);
    ended(&trust::join(two, &foreign), 1, "is not the collector that this token is for");
    drop(elsewhere);

    let fresh = trust::token(collector, two, &[]);
    let nowhere = format!("https://{}", weighbridge_tests::ports::free());
    let fresh = fresh.display().to_string();
    let unreachable = two.run(&["enroll", "--collector", &nowhere, "--token-file", &fresh]);
    ended(&unreachable, 3, "cannot be reached");
    let plain = format!("http://{}", collector.ingest());
    ended(&two.run(&["enroll", "--collector", &plain, "--token-file", &fresh]), 2, "needs an https address");
    let denied = collector.run(&["enrol", "deny", "two", "--reason", "sold"]);
    assert_eq!(denied.code, Some(0), "{denied:?}");
    ended(&trust::join(two, Path::new(&fresh)), 1, "agent two is shut out: sold");
    let refused =
        collector.run(&["enrol", "token", "--agent", "two", "--host", "h", "--site", "s", "--fabric", "f"]);
    ended(&refused, 1, "allow it first");

    wait::until("the end of the token is recorded", || {
        let expired = |fact: &Fact| matches!(fact, Fact::Record { kind, body, .. } if kind == "join_token" && body["event"] == "expired");
        let facts = ledgers::facts(&site.collector.data());
        if facts.iter().any(expired) { Ok(()) } else { Err(format!("{} facts", facts.len())) }
    });
    site.collector.stop();
    let facts = ledgers::facts(&site.collector.data());
    let tokens: Vec<&str> = facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Record { kind, body, .. } if kind == "join_token" => body["event"].as_str(),
            _ => None,
        })
        .collect();
    for event in ["made", "used", "expired"] {
        assert!(tokens.contains(&event), "{tokens:?}");
    }
    let secret: weighbridge_wire::enrol::JoinToken = secret.parse().unwrap();
    let text = format!("{facts:?}");
    assert!(!text.contains(&weighbridge_store::fold::hex(&secret.secret)), "a secret is in the ledger");
    let enrolled = facts.iter().find_map(|fact| match fact {
        Fact::Agent(agent) if agent.agent.as_str() == "one" => Some(agent),
        _ => None,
    });
    assert_eq!(enrolled.unwrap().max_trust, weighbridge_meter::Trust::Guest);
}

/// A batch of this agent, signed by its own key.
fn batch(agent: &Agent) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = fs::read_to_string(agent.folder().join("key")).unwrap();
    let seed: [u8; 32] = STANDARD.decode(text.trim()).unwrap().try_into().unwrap();
    let batch = Batch {
        agent: agent.name().parse().unwrap(),
        epoch: weighbridge_meter::EpochId([5; 16]),
        sequence: 1,
        prev_hash: [0; 32],
        boot: weighbridge_meter::BootId([6; 16]),
        windows: Vec::new(),
        gaps: Vec::new(),
        holdings: Vec::new(),
        inventory: Vec::new(),
        status: None,
        losses: Vec::new(),
    };
    seal(&batch, &SigningKey::from_bytes(&seed)).unwrap().bytes
}

fn post(connection: &mut Connection, body: &[u8]) -> std::io::Result<Answer> {
    connection.request("POST", "/api/v1/batches", &[], body)
}

#[test]
fn only_the_agents_own_batches_come_in_under_tls_1_3_and_a_certificate_of_this_authority() {
    let site = Secured::new("", &["one", "two"]);
    let (at, one, two) = (site.collector.ingest(), &site.agents[0], &site.agents[1]);
    site.agents.iter().for_each(|agent| trust::enroll(&site.collector, agent));

    let mut own = Connection::open_secure(at, trust::connecting_as(one)).unwrap();
    let taken = post(&mut own, &batch(one)).unwrap();
    assert_eq!(taken.status, 200, "{taken:?}");
    assert_eq!(own.tls_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let others = post(&mut own, &batch(two)).unwrap();
    assert_eq!(others.status, 403, "{others:?}");
    assert!(others.body.contains("somebody else's certificate"), "{}", others.body);

    let mut nobody = Connection::open_secure(at, trust::connecting_as_nobody(one)).unwrap();
    let refused = post(&mut nobody, &batch(one)).unwrap();
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.body.contains("no certificate"), "{}", refused.body);
    let mut nobody = Connection::open_secure(at, trust::connecting_as_nobody(one)).unwrap();
    let renewal = nobody.request("POST", "/api/v1/enrolment/renew", &[], br#"{"request":"","proof":""}"#);
    assert_eq!(renewal.unwrap().status, 403);

    // Plain HTTP finds nobody who understands it.
    assert!(weighbridge_tests::http::request(at, "POST", "/api/v1/batches", &[], &batch(one)).is_err());

    // TLS 1.2 is not spoken.
    let old = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut old = Connection::open_secure(at, Arc::new(old)).unwrap();
    let error = post(&mut old, &batch(one)).unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");

    // A certificate of another authority gets no further than the handshake.
    let elsewhere = Secured::new("", &["one"]);
    trust::enroll(&elsewhere.collector, &elsewhere.agents[0]);
    let parts = |agent: &Agent| {
        weighbridge_agent::tls::files::Files::Own(agent.tls()).read().unwrap().parse().unwrap()
    };
    let (ours, theirs) = (parts(one), parts(&elsewhere.agents[0]));
    let shown = Some((theirs.certificates, theirs.key));
    let foreign =
        weighbridge_agent::tls::client_config(ours.authorities, shown, Arc::new(trust::Wall)).unwrap();
    let mut foreign = Connection::open_secure(at, Arc::new(foreign)).unwrap();
    let error = post(&mut foreign, &batch(one)).unwrap_err().to_string();
    assert!(error.contains("UnknownCA") || error.contains("UnknownIssuer"), "{error}");

    let text = site.collector.metrics();
    let count = |name: &str| trust::series(&text, name).unwrap();
    assert!(count("weighbridge_collector_not_admitted_total{reason=\"no_certificate\"}") >= 1.0);
    assert!(count("weighbridge_collector_not_admitted_total{reason=\"other_certificate\"}") >= 1.0);
    assert!(count("weighbridge_collector_enrolments_total{outcome=\"ok\"}") >= 2.0);
    assert!(count("weighbridge_collector_certificate_left_seconds") > 0.0);
    assert!(count("weighbridge_collector_authority_left_seconds") > 0.0);
}

#[test]
fn plain_http_beyond_loopback_is_refused_by_both_programs() {
    let folder = tempfile::tempdir().unwrap();
    let check = |program: &str, text: &str| {
        let file = folder.path().join("config.toml");
        fs::write(&file, text).unwrap();
        let mut command = process::command(&process::program(program));
        command.arg("--config").arg(&file).arg("check-config");
        process::run("command", &mut command, folder.path(), wait::PATIENCE)
    };
    let collector = check(
        "weighbridge-collector",
        "[ingest]\nlisten = \"0.0.0.0:19312\"\nplain_http_on_loopback = true\n",
    );
    ended(&collector, 2, "which ingest.plain_http_on_loopback needs");
    let agent = check(
        "weighbridge-agent",
        "[uplink]\ncollectors = [\"http://192.0.2.1:19312\"]\nplain_http_on_loopback = true\n",
    );
    ended(&agent, 2, "over TLS only");
}

#[test]
fn an_agent_takes_the_certificate_that_a_sites_own_tools_put_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let source = Secured::new("", &["site"]);
    trust::enroll(&source.collector, &source.agents[0]);
    // What a site's tools would hand out: the same files, by another hand.
    let theirs = source.agents[0].tls();
    for name in ["identity.pem", "authorities.pem"] {
        fs::copy(theirs.join(name), folder.path().join(name)).unwrap();
    }
    let text = format!(
        "[agent]\nid = \"site\"\nkey_file = {3:?}\n\n[spool]\ndir = {4:?}\n\n\
         [tls]\ncertificate_file = {0:?}\nkey_file = {0:?}\nauthorities_file = {1:?}\n\n\
         [uplink]\ncollectors = [\"https://{2}\"]\n\n[source]\nkind = \"allocation\"\n\n\
         [[source.allocation.accelerators]]\nid = \"GPU-1\"\nname = \"NVIDIA H100 80GB HBM3\"\n",
        folder.path().join("identity.pem"),
        folder.path().join("authorities.pem"),
        source.collector.ingest(),
        source.agents[0].folder().join("key"),
        folder.path().join("spool"),
    );
    let config = folder.path().join("agent.toml");
    fs::write(&config, text).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = process::command(&process::program("weighbridge-agent"));
        command.arg("--config").arg(&config).args(arguments);
        process::run("command", &mut command, folder.path(), wait::PATIENCE)
    };
    let doctor = run(&["doctor"]);
    assert!(doctor.stdout.contains("it is read again when the file changes"), "{doctor:?}");
    assert!(doctor.stdout.contains("ok  collector https://"), "{doctor:?}");
    ended(&run(&["enroll", "--token-file", "-"]), 2, "there is nothing to join");
}
