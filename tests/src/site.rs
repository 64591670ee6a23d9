//! One collector and its agents, in a temporary folder.

use std::{fmt::Write, net::SocketAddr, path::Path};

use tempfile::TempDir;
use weighbridge_meter::UtcMillis;

use crate::{
    agent::{Agent, AgentOptions},
    collector::Collector,
    proxy::Proxy,
    random::Random,
    trust, wait,
};

/// Everything that a test runs. Dropping it ends all programs and removes the folder.
#[derive(Debug)]
pub struct Site {
    /// The collector; it serves.
    pub collector: Collector,
    /// The agents; enrolled, and not started.
    pub agents: Vec<Agent>,
    folder: TempDir,
}

/// Moments in the making of a site at which a test may step in.
#[derive(Debug)]
pub enum Stage<'a> {
    /// Where agents will send to.
    Address(&'a mut SocketAddr),
    /// The collector's data folder, which is not there yet.
    Data(&'a Path),
}

/// Whose the hosts are: a customer, its principal, and the lease by which it has some hosts.
#[derive(Clone, Copy, Debug)]
pub struct Tenant<'a> {
    /// Customer id.
    pub customer: &'a str,
    /// Principal.
    pub principal: &'a str,
    /// Lease, which is the attempt.
    pub lease: &'a str,
    /// Hosts, all of each.
    pub hosts: &'a [&'a str],
}

impl Site {
    /// A collector that serves, and agents that are enrolled.
    ///
    /// # Panics
    /// If any of it does not work.
    #[track_caller]
    pub fn new(agents: Vec<AgentOptions>) -> Self {
        Self::with_config("", agents)
    }

    /// The same with more in the collector's configuration.
    ///
    /// # Panics
    /// If any of it does not work.
    #[track_caller]
    pub fn with_config(more: &str, agents: Vec<AgentOptions>) -> Self {
        Self::prepared(more, agents, |_| {})
    }

    /// The same, with agents that send to a proxy in front of the collector.
    ///
    /// # Panics
    /// If any of it does not work.
    #[track_caller]
    pub fn behind_proxy(agents: Vec<AgentOptions>, random: Random) -> (Self, Proxy) {
        let mut proxy = None;
        let site = Self::prepared("", agents, |stage| {
            if let Stage::Address(address) = stage {
                let started = Proxy::start(*address, random.clone());
                *address = started.address();
                proxy = Some(started);
            }
        });
        (site, proxy.expect("each site has an address"))
    }

    /// The same; `with` may put the collector's folder on another file system before it starts.
    ///
    /// # Panics
    /// If any of it does not work.
    #[track_caller]
    pub fn prepared(more: &str, agents: Vec<AgentOptions>, mut with: impl FnMut(Stage<'_>)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        // What goes into the section of the store stands first.
        let (store, more) = match more.strip_prefix("[store]\n") {
            Some(both) => both.split_once("\n\n").unwrap_or((both, "")),
            None => ("", more),
        };
        let mut collector = Collector::prepare_store(&folder.path().join("collector"), store, more);
        let mut address = collector.ingest();
        with(Stage::Address(&mut address));
        let prepared = agents.into_iter().map(|options| {
            let of_agent = folder.path().join(&options.name);
            Agent::prepare(&of_agent, options, address)
        });
        let agents: Vec<Agent> = prepared.collect();
        with(Stage::Data(&collector.data()));
        collector.start_ready();
        let mut csv = String::from("agent,host,site,fabric,public_key,valid_from,valid_to\n");
        agents.iter().for_each(|agent| csv.push_str(&agent.enrolment()));
        if !agents.is_empty() {
            collector.import("agents", &csv);
        }
        Self { collector, agents, folder }
    }

    /// The same under TLS. Nobody has joined yet: [`Site::join_agents`] lets them.
    ///
    /// # Panics
    /// If any of it does not work.
    #[track_caller]
    pub fn secured(more: &str, agents: Vec<AgentOptions>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut collector = Collector::prepare_secure(&folder.path().join("collector"), "", more);
        let prepared = agents.into_iter().map(|options| {
            let of_agent = folder.path().join(&options.name);
            Agent::prepare_secure(&of_agent, options, collector.ingest())
        });
        let agents = prepared.collect();
        collector.start_ready();
        Self { collector, agents, folder }
    }

    /// Has all agents join, each with a token of its own.
    ///
    /// # Panics
    /// If one cannot.
    #[track_caller]
    pub fn join_agents(&self) {
        self.agents.iter().for_each(|agent| trust::enroll(&self.collector, agent));
    }

    /// A place for files of the test itself.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Gives hosts to tenants, from the hour before this one on, for a week.
    #[track_caller]
    pub fn lease(&self, tenants: &[Tenant<'_>]) {
        let start = wait::now().hour().plus(-UtcMillis::HOUR);
        let end = start.plus(7 * UtcMillis::DAY);
        let mut customers = String::from(
            "customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,email,\
             telephone,access\n",
        );
        let mut principals = String::from("principal,customer,valid_from,valid_to\n");
        let mut leases = String::from("lease,host,accelerator,principal,start,end\n");
        for Tenant { customer, principal, lease, hosts } in tenants {
            writeln!(customers, "{customer},entity,foreign,,Example of {customer},,,,,,,").expect("a string");
            writeln!(principals, "{principal},{customer},{start},").expect("a string");
            for host in *hosts {
                writeln!(leases, "{lease},{host},*,{principal},{start},{end}").expect("a string");
            }
        }
        self.collector.import("customers", &customers);
        self.collector.import("principals", &principals);
        self.collector.import("leases", &leases);
    }

    /// Starts all agents.
    #[track_caller]
    pub fn start_agents(&mut self) {
        self.agents.iter_mut().for_each(Agent::start);
    }

    /// Stops all agents, and returns once the collector has everything and its sums reflect it.
    ///
    /// # Panics
    /// If anything is left in a spool.
    #[track_caller]
    pub fn stop_agents(&mut self) {
        self.agents.iter_mut().for_each(Agent::stop);
        for agent in &self.agents {
            let (waiting, parked) = (agent.waiting(), agent.inspect().parked.len());
            assert_eq!((waiting, parked), (0, 0), "{}: {}", agent.name(), agent.log());
        }
        self.collector.settle();
    }

    /// Returns once every device has been measured for so long.
    #[track_caller]
    pub fn measured(&self, millis: u64) {
        wait::until(&format!("every device is measured for {millis} ms"), || {
            for device in self.agents.iter().flat_map(Agent::devices) {
                let accelerator = self.collector.accelerator(&device.uuid)?;
                if accelerator["time"]["measured_ms"].as_u64().is_none_or(|measured| measured < millis) {
                    return Err(accelerator.to_string());
                }
            }
            Ok(())
        });
    }
}
