//! Certificates that end, and authorities and a deny list that change, while batches flow and programs die.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use weighbridge_store::Fact;
use weighbridge_tests::{
    agent::{Agent, AgentOptions},
    collector::{self, Collector},
    ledgers,
    machine::Device,
    oracle::Oracle,
    process::{self, Finished},
    random::Random,
    site::Site,
    trust, wait,
};
use weighbridge_wire::certificate::Looked;

use crate::{
    fail_points::{POINT, POINTS_FROM, POINTS_TO, names},
    rounds,
};

/// Certificates that live for two seconds, an agent's, and three, the server's; and renew long after their end.
const SHORT: &str = "[authority]\nagent_certificate = \"2s\"\nserver_certificate = \"3s\"\n";

fn agents(count: u32) -> Vec<AgentOptions> {
    let agent = |index| AgentOptions::quick(format!("host-{index:02}"), vec![Device::numbered(index)]);
    (0..count).map(agent).collect()
}

/// The authorities, as the collector shows them: fingerprint and stage.
#[track_caller]
fn authorities(shown: &Finished) -> Vec<(String, String)> {
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let words = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    shown.stdout.lines().filter_map(words).collect()
}

/// The same as the last record in the ledger has them.
fn recorded(collector: &Collector) -> Vec<(String, String)> {
    let last = ledgers::facts(&collector.data()).into_iter().rev().find_map(|fact| match fact {
        Fact::Record { kind, body, .. } if kind == "authority" => Some(body),
        _ => None,
    });
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let list = last.as_ref().and_then(|body| body["authorities"].as_array()).into_iter().flatten();
    list.map(|one| (text(one, "fingerprint"), text(one, "stage"))).collect()
}

/// Returns once the certificates of all agents have ended, by so many milliseconds.
#[track_caller]
fn ended(site: &Site, by: i64) {
    for agent in &site.agents {
        wait::until(&format!("the certificate of {} has ended", agent.name()), || {
            let (certificate, _) = trust::certificate(agent)?;
            let end = certificate.not_after.plus(by);
            if end < wait::now() { Ok(()) } else { Err(format!("it ends at {end}")) }
        });
    }
}

/// From now on certificates last for an hour, and all agents have one: a judge must not wait for renewals.
#[track_caller]
fn settle(site: &mut Site, oracle: &mut Oracle) {
    let lasting = "agent_certificate = \"1h\"\nserver_certificate = \"1h\"\n";
    site.agents.iter().for_each(|agent| oracle.note(agent));
    site.collector.kill();
    configure(&site.collector, lasting);
    site.collector.start_ready();
    for agent in &site.agents {
        wait::until("the certificate lasts", || {
            let (certificate, _) = trust::certificate(agent)?;
            let lasts = certificate.not_after.since(wait::now()) > 60_000;
            if lasts { Ok(()) } else { Err(agent.log()) }
        });
        trust::uplink_is(agent, "ok");
    }
}

/// Writes another configuration of the authority, for the next start.
fn configure(collector: &Collector, authority: &str) {
    let config = fs::read_to_string(collector.config()).unwrap();
    let (before, _) = config.split_once("[authority]\n").unwrap();
    fs::write(collector.config(), format!("{before}[authority]\n{authority}")).unwrap();
}

#[test]
fn certificates_that_end_while_the_collector_is_away_cost_no_window() {
    let mut site = Site::secured(SHORT, agents(4));
    site.join_agents();
    site.start_agents();
    site.measured(1_000);
    let mut oracle = Oracle::new();

    // All of them wait too long, one of them switched off; they come back by themselves.
    site.collector.kill();
    site.agents[3].kill();
    ended(&site, 0);
    for agent in &site.agents[..3] {
        wait::until("batches wait", || match agent.waiting() {
            0 | 1 => Err(agent.log()),
            _ => Ok(()),
        });
    }
    site.collector.start_ready();
    site.agents[3].start();
    site.agents.iter().for_each(|agent| trust::uplink_is(agent, "ok"));
    site.agents.iter().for_each(trust::caught_up);

    // And again, at a collector that renews nothing that has ended: each is refused with the reason.
    site.collector.kill();
    ended(&site, 1_000);
    configure(&site.collector, "agent_certificate = \"1h\"\nserver_certificate = \"3s\"\ngrace = \"0s\"\n");
    site.agents.iter().for_each(|agent| oracle.note(agent));
    site.collector.start_ready();
    for agent in &site.agents {
        trust::uplink_is(agent, "certificate_refused");
        assert!(agent.log().contains("certificate"), "{}", agent.log());
    }
    // Killed while nobody lets them in, they measure on, and join anew while they run.
    site.agents[2].kill();
    site.agents[2].start();
    trust::uplink_is(&site.agents[2], "certificate_refused");
    site.agents.iter().for_each(|agent| oracle.note(agent));
    site.join_agents();
    for agent in &site.agents {
        trust::uplink_is(agent, "ok");
        trust::caught_up(agent);
    }
    oracle.weigh(&site);
    // Those that were never killed have measured every moment of it.
    site.agents.iter_mut().for_each(Agent::stop);
    site.collector.settle();
    let windows: usize = site.agents[..2].iter().map(|agent| trust::whole(&site.collector, agent)).sum();
    site.start_agents();
    oracle.judge(&mut site);
    println!("{windows} windows without a hole");
}

#[test]
fn a_join_or_a_renewal_that_fails_at_any_step_is_made_good_by_the_next_one() {
    let mut random = Random::announced();
    const FIRST: &str = "tls.create";
    let scout = Site::secured(SHORT, agents(1));
    let known: BTreeSet<String> = {
        let (agent, list) = (&scout.agents[0], scout.folder().join("points"));
        let token = trust::token(&scout.collector, agent, &[]).display().to_string();
        let listing = [(POINTS_TO, list.to_str().unwrap()), (POINTS_FROM, FIRST)];
        let joined = agent.run_with(&["enroll", "--token-file", &token], &listing);
        assert_eq!(joined.code, Some(0), "{joined:?}");
        names(&list)
    };
    drop(scout);
    for step in ["tls.create", "tls.write", "tls.sync", "tls.replace", "tls.sync_folder"] {
        assert!(known.contains(step), "a join has steps that can fail: {known:?}");
    }
    let plans: Vec<(&String, &str)> =
        known.iter().flat_map(|name| ["before", "after"].map(|moment| (name, moment))).collect();
    let mut site = Site::secured(SHORT, agents(u32::try_from(plans.len()).unwrap()));

    // The authorities are the first file, the certificate with its key is the second.
    let mut of_joins = 0;
    for (agent, (name, moment)) in site.agents.iter().zip(&plans) {
        let token = trust::token(&site.collector, agent, &[]).display().to_string();
        let join = ["enroll", "--token-file", &token];
        let times: &[u64] = if rounds(0, 1) == 1 { &[1, 2] } else { &[1 + random.within(0..2)] };
        for time in times {
            for action in ["abort", "error"] {
                let point = format!("{name}:{moment}:{time}:{action}");
                let ended = agent.run_with(&join, &[(POINT, &point)]);
                assert_ne!(ended.code, Some(0), "{point}: {ended:?}");
                of_joins += 1;
            }
        }
        let joined = agent.run(&join);
        assert_eq!(joined.code, Some(0), "{name} {moment}: {joined:?}");
    }
    let oracle = Mutex::new(Oracle::new());
    let runs = rounds(2, 8);
    thread::scope(|scope| {
        for ((agent, (name, moment)), seed) in site.agents.iter_mut().zip(&plans).zip(random.number()..) {
            let oracle = &oracle;
            scope.spawn(move || {
                let mut random = Random::from_seed(seed);
                for run in 0..runs {
                    let time = 1 + random.within(0..2);
                    let action = if run % 2 == 0 { "abort" } else { "error" };
                    agent.start_with(&[(POINT, &format!("{name}:{moment}:{time}:{action}"))]);
                    if action == "abort" {
                        agent.ended();
                    } else {
                        // It goes on with what it has, says so, and tries again.
                        let failed = "weighbridge_agent_certificate_renewals_total{outcome=\"failed\"}";
                        wait::until("a renewal fails", || trust::series(&agent.metrics()?, failed));
                        trust::renewed(agent, 1.0);
                        agent.kill();
                    }
                    oracle.lock().unwrap_or_else(PoisonError::into_inner).note(agent);
                }
                agent.start();
                trust::renewed(agent, 1.0);
            });
        }
    });
    let mut oracle = oracle.into_inner().unwrap_or_else(PoisonError::into_inner);
    settle(&mut site, &mut oracle);
    oracle.judge(&mut site);
    println!(
        "{of_joins} joins and {} renewals failed at {} steps: {known:?}",
        plans.len() * runs,
        known.len()
    );
}

/// The steps of a rollover, in order, and the stages of the authorities after each.
const STEPS: [(&str, &[&str]); 3] =
    [("introduce", &["active", "introduced"]), ("activate", &["leaving", "active"]), ("retire", &["active"])];

/// The arguments of a step. Whoever saw that all agents are ready need not wait for those that may be away.
fn step_of(step: &'static str) -> Vec<&'static str> {
    let force = (step != "introduce").then_some("--force");
    ["ca", step].into_iter().chain(force).collect()
}

#[test]
fn a_rollover_that_fails_at_any_step_is_taken_up_where_it_stands() {
    let mut random = Random::announced();
    let mut site = Site::secured(SHORT, agents(3));
    site.join_agents();
    site.start_agents();
    let mut oracle = Oracle::new();
    let names = [
        "authority.step",
        "authority.write",
        "authority.sync",
        "authority.rename",
        "journal.write",
        "journal.sync",
    ];
    // In the short form each place once, somehow.
    let mut plans: Vec<String> = Vec::new();
    for name in names {
        let ways = ["before:1:abort", "after:1:abort", "before:1:error", "after:1:error"];
        let first = usize::try_from(random.within(0..4)).unwrap();
        plans.extend(ways.iter().cycle().skip(first).take(rounds(1, 4)).map(|way| format!("{name}:{way}")));
    }
    let mut by_the_dead = 0;
    for ((step, stages), point) in STEPS.iter().cycle().zip(&plans) {
        let issuers: Vec<_> =
            site.agents.iter().map(|agent| trust::certificate(agent).unwrap().0.issuer).collect();
        let command = step_of(step);
        let show = |site: &Site| authorities(&site.collector.run(&["ca", "show"]));
        let before = show(&site);
        site.collector.kill();
        site.agents.iter().for_each(|agent| oracle.note(agent));
        site.collector.start_with(&[(POINT, point), (POINTS_FROM, "authority.step")]);
        site.collector.ready();
        let tried = site.collector.run(&command);
        if point.ends_with("abort") {
            assert_ne!(tried.code, Some(0), "{point}: {tried:?}");
            // The answer is gone sooner than the process.
            wait::until("it is dead", || site.collector.ended().ok_or_else(|| "it runs".into()));
            site.collector.kill();
            site.collector.start();
        }
        // After an error it takes facts again by itself.
        site.collector.ready();
        // Whoever gave the word looks how it stands, and gives it again where it did not count.
        if show(&site) == before {
            let again = site.collector.run(&command);
            assert_eq!(again.code, Some(0), "{point} {step}: {again:?}");
        } else if tried.code != Some(0) {
            by_the_dead += 1;
        }
        let stands = show(&site);
        let shown: Vec<&str> = stands.iter().map(|one| one.1.as_str()).collect();
        assert_eq!(shown, *stages, "{point} {step}");
        if point.ends_with("error") {
            site.collector.kill();
            site.collector.start_ready();
            assert_eq!(show(&site), stands, "{point} {step}: a start finds what was there");
        }
        wait::until("the ledger says so", || match recorded(&site.collector) {
            recorded if recorded == stands => Ok(()),
            recorded => Err(format!("{point} {step}: {recorded:?}, expected {stands:?}")),
        });
        for (agent, issuer) in site.agents.iter().zip(issuers) {
            match *step {
                "introduce" => trust::believes(agent, 2),
                "activate" => wait::until("the new authority has signed", || {
                    let (certificate, _) = trust::certificate(agent)?;
                    if certificate.issuer == issuer { Err(agent.log()) } else { Ok(()) }
                }),
                _ => trust::believes(agent, 1),
            }
        }
    }
    settle(&mut site, &mut oracle);
    oracle.judge(&mut site);
    println!("{} steps of a rollover failed, {by_the_dead} of them were taken all the same", plans.len());
}

/// Who gives the collector his commands from beside it, whoever runs and dies meanwhile.
struct Operator<'a> {
    config: PathBuf,
    folder: &'a Path,
    over: &'a AtomicBool,
}

impl Operator<'_> {
    fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = process::command(&process::program(collector::PROGRAM));
        command.arg("--config").arg(&self.config).args(arguments);
        process::run("operator", &mut command, self.folder, wait::PATIENCE)
    }

    /// Gives a command until it counts, or is found to have counted although nobody said so.
    #[track_caller]
    fn insist(&self, arguments: &[&str], counted: &str) {
        wait::until(&arguments.join(" "), || match self.run(arguments) {
            done if done.code == Some(0) || done.stderr.contains(counted) => Ok(()),
            done => Err(format!("{done:?}")),
        });
    }
}

/// Looks at each agent until `look` is content with all of them.
#[track_caller]
fn all(what: &str, agents: &[PathBuf], look: impl Fn(&Looked, usize) -> bool) {
    for tls in agents {
        wait::until(what, || {
            let (looked, authorities) = trust::certificate_in(tls)?;
            if look(&looked, authorities) { Ok(()) } else { Err(format!("{}: {looked:?}", tls.display())) }
        });
    }
}

/// Kills in a rollover.
const KILLS: usize = 20;

#[test]
fn killing_everything_while_trust_changes_loses_nothing_and_shuts_nobody_out() {
    let mut random = Random::announced();
    let mut site = Site::secured(SHORT, agents(4));
    site.join_agents();
    site.start_agents();
    let mut oracle = Oracle::new();
    let over = AtomicBool::new(false);
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator { config: site.collector.config(), folder: folder.path(), over: &over };
    let agents: Vec<PathBuf> = site.agents.iter().map(Agent::tls).collect();
    let suspect = site.agents[0].name().to_owned();
    let rollovers = rounds(1, 20);
    let kills = thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let _over = Over(operator.over);
            for _ in 0..rollovers {
                operator.insist(&["ca", "introduce"], "there is an introduced authority already");
                operator.insist(&["enrol", "deny", &suspect, "--reason", "for a moment"], "no second word");
                all("it believes both", &agents[1..], |_, authorities| authorities == 2);
                // Nobody takes back what was said to be done, whoever was killed since.
                let listed = operator.run(&["enrol", "ls"]);
                assert!(listed.code != Some(0) || listed.stdout.contains(&suspect), "{listed:?}");
                operator.insist(&["enrol", "allow", &suspect], "is not shut out");
                all("it believes both", &agents, |_, authorities| authorities == 2);
                let issuer = trust::certificate_in(&agents[0]).unwrap().0.issuer;
                operator.insist(&["ca", "activate", "--force"], "there is no introduced authority");
                all("the new authority has signed", &agents, |looked, _| looked.issuer != issuer);
                operator.insist(&["ca", "retire", "--force"], "no authority is leaving");
                all("it believes one", &agents, |_, authorities| authorities == 1);
            }
        });
        let mut kills = 0;
        let mut at = wait::instant();
        while !over.load(Ordering::Acquire) {
            // A command that found nobody has the ledger to itself: whoever starts meanwhile gives up.
            if site.collector.ended().is_some() {
                site.collector.start();
            }
            // So many a rollover: on a slow machine nothing would come to its end between two of them.
            if kills >= rollovers * KILLS {
                wait::until_moment(wait::instant() + Duration::from_millis(20));
                continue;
            }
            at = at.max(wait::instant()) + Duration::from_millis(random.within(50..700));
            wait::until_moment(at);
            // One of five; the collector twice as often as any other.
            let victim = usize::try_from(random.within(0..6)).unwrap();
            let down = Duration::from_millis(random.within(0..200));
            at += down;
            kills += 1;
            match site.agents.get_mut(victim) {
                Some(agent) => {
                    agent.kill();
                    oracle.note(agent);
                    wait::until_moment(at);
                    agent.start();
                }
                None => {
                    site.collector.kill();
                    wait::until_moment(at);
                    site.collector.start();
                }
            }
        }
        acting.join().unwrap();
        kills
    });
    settle(&mut site, &mut oracle);
    oracle.judge(&mut site);
    let stands = authorities(&site.collector.run(&["ca", "show"]));
    assert_eq!(recorded(&site.collector), stands, "the last record of the authorities is what they are");
    println!("{kills} kills in {rollovers} rollovers");
}

/// Says that something is over however it ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
