//! Accelerators through the management controllers of their baseboards, by an agent that speaks for a site.
//!
//! A controller sees what its GPUs do whoever runs the system on the host, so readings through it are out of a
//! tenant's reach. They are points in time, renewed every few seconds at best: what was between them is taken
//! to be like them. Controllers are read side by side, each within the deadline; what one does not answer is a
//! gap in its own devices and nobody else's.
//!
//! Bulk reports of NVIDIA's baseboards are preferred, one request for all GPUs; what they lack is read of each
//! processor, and where there is nothing else, its power. Which of it a controller has is looked up, never
//! assumed: sets of reports differ between releases of one firmware. Shapes and names are those of the DMTF's
//! Redfish schemas and of NVIDIA's extensions, as its published bmcweb and nsmd write them.
//!
//! Deliberately absent: anything that changes something on a controller (sessions and subscriptions too),
//! processors that are not called GPUs, MIG instances (the percentages are of the whole GPU), and a memory of
//! devices beyond this run.

mod anything;
mod http;
mod identity;
mod judge;
mod link;
mod quantity;
mod rows;
#[cfg(test)]
mod tests;
mod tree;

#[doc(hidden)]
pub use self::anything::read_anything;

use std::sync::Arc;

use rustls::ClientConfig;
use tokio::{sync::Mutex, task::JoinSet, time::Instant};
use weighbridge_meter::{AcceleratorTable, DeviceState, GapCause};

use self::link::{Heard, Link};
use super::{AcceleratorSource, Device, DeviceLook, Look, SourceState};

/// Which controllers to read.
#[derive(Clone, Debug)]
pub struct RedfishOptions {
    /// The controllers.
    pub controllers: Vec<Controller>,
    /// The longest a look may take.
    pub deadline: std::time::Duration,
    /// What a controller offers is looked up in every so many looks; 0 counts as 1.
    pub discover_every: u32,
    /// A certificate authority to believe, in PEM; `None`: those of the system.
    pub ca_file: Option<std::path::PathBuf>,
    /// Whether any certificate is believed: controllers often come with one that nobody signed.
    pub any_certificate: bool,
}

/// One management controller.
#[derive(Clone, Debug)]
pub struct Controller {
    /// Its address: `https://bmc-7.example`.
    pub url: reqwest::Url,
    /// The host whose accelerators it speaks for.
    pub host: String,
    /// Name of its account; `None`: none is needed.
    pub user: Option<String>,
    /// File with that account's password and nothing else.
    pub password_file: Option<std::path::PathBuf>,
}

/// Accelerators through the management controllers of their baseboards.
#[derive(Debug)]
pub struct RedfishSource {
    options: RedfishOptions,
    looks: u32,
    tls: Option<Arc<ClientConfig>>,
    /// Why TLS could not be set up, as last said in the log.
    tls_failed: Option<String>,
    /// Shared with the tasks of a look, which may end before it.
    links: Vec<Arc<Mutex<Link>>>,
    devices: Vec<Tracked>,
    /// Whether an inventory was ever given.
    announced: bool,
}

/// A device that was found once.
#[derive(Debug)]
struct Tracked {
    device: Device,
    /// The controller that speaks for it.
    link: usize,
    state: DeviceState,
    /// Another controller that claims it too, as last said in the log.
    claimed_by: Option<usize>,
}

impl RedfishSource {
    /// A source that touches nothing until its first look.
    pub fn start(options: RedfishOptions) -> Self {
        let table = Arc::new(AcceleratorTable::shipped());
        let link = |controller: &Controller| Link::new(controller.clone(), Arc::clone(&table));
        let links = options.controllers.iter().map(|one| Arc::new(Mutex::new(link(one)))).collect();
        Self { options, looks: 0, tls: None, tls_failed: None, links, devices: Vec::new(), announced: false }
    }

    /// How connections are secured, set up when first needed and again until that succeeds.
    fn tls(&mut self) -> Result<Option<Arc<ClientConfig>>, http::TlsError> {
        let needed = self.options.controllers.iter().any(|one| one.url.scheme() == "https");
        if needed && self.tls.is_none() {
            self.tls = Some(http::tls_config(self.options.ca_file.as_deref(), self.options.any_certificate)?);
        }
        Ok(self.tls.clone())
    }

    /// Reads all controllers at the same time.
    async fn hear(&mut self) -> Vec<Heard> {
        let discover = self.looks.is_multiple_of(self.options.discover_every.max(1));
        self.looks = self.looks.wrapping_add(1);
        let tls = self.tls();
        let failed = |cause, detail: &str| Heard {
            trouble: Some((cause, detail.to_owned())),
            discovered: false,
            devices: Vec::new(),
        };
        let tls = match tls {
            Ok(tls) => tls,
            Err(error) => {
                let detail = crate::uplink::chain(&error);
                if self.tls_failed.as_ref() != Some(&detail) {
                    tracing::error!(detail, "cannot connect to management controllers");
                    self.tls_failed = Some(detail.clone());
                }
                return vec![failed(GapCause::ReadFailed, &detail); self.links.len()];
            }
        };
        let deadline = Instant::now() + self.options.deadline;
        // Tasks end with the set, so a look that is dropped leaves nothing behind that talks.
        let mut tasks = JoinSet::new();
        for (index, link) in self.links.iter().enumerate() {
            let (link, tls) = (Arc::clone(link), tls.clone());
            tasks.spawn(async move { (index, link.lock().await.look(tls, discover, deadline).await) });
        }
        let mut heard = vec![failed(GapCause::ReadFailed, "reading it came to no end"); self.links.len()];
        while let Some(result) = tasks.join_next().await {
            match result {
                Ok((index, answer)) => heard[index] = answer,
                Err(error) => {
                    tracing::error!(%error, "reading a management controller failed: this is a bug")
                }
            }
        }
        heard
    }

    /// Takes in what was heard. True if the inventory changed.
    fn take_in(&mut self, heard: &[Heard]) -> bool {
        let mut changed = false;
        for tracked in &mut self.devices {
            let owner = &heard[tracked.link];
            // What its controller no longer names is not reported, and what was not heard is not known.
            let cause = owner.trouble.as_ref().map_or(GapCause::NotReported, |(cause, _)| *cause);
            tracked.state = DeviceState::Missing(cause);
        }
        for (link, one) in heard.iter().enumerate() {
            for (device, state) in &one.devices {
                let Some(tracked) = self.devices.iter_mut().find(|tracked| tracked.device.id == device.id)
                else {
                    changed = true;
                    let device = device.clone();
                    self.devices.push(Tracked { device, link, state: *state, claimed_by: None });
                    continue;
                };
                let is_its_own = heard[tracked.link].devices.iter().any(|(own, _)| own.id == device.id);
                if tracked.link != link && (is_its_own || one.trouble.is_some()) {
                    if tracked.claimed_by.replace(link) != Some(link) {
                        let (id, host) = (&device.id, &self.options.controllers[link].host);
                        tracing::warn!(%id, host, "a second controller names this accelerator: not read there");
                    }
                    continue;
                }
                changed |= tracked.device != *device;
                tracked.device = device.clone();
                tracked.link = link;
                tracked.state = *state;
            }
        }
        changed
    }

    /// The source as a whole: it can find accelerators if every controller was found out about, and one answers.
    fn state(&self, heard: &[Heard]) -> SourceState {
        let named = |index: usize, one: &Heard| {
            let (cause, detail) = one.trouble.as_ref()?;
            let host = &self.options.controllers[index].host;
            Some(SourceState::Missing(*cause, format!("the controller of {host}: {detail}")))
        };
        let mut troubles = heard.iter().enumerate();
        let never_heard = troubles.clone().find(|(_, one)| !one.discovered);
        let nobody = heard.iter().all(|one| one.trouble.is_some());
        let worst = never_heard.or_else(|| troubles.next().filter(|_| nobody));
        worst.and_then(|(index, one)| named(index, one)).unwrap_or(SourceState::Ok)
    }
}

impl AcceleratorSource for RedfishSource {
    async fn look(&mut self) -> Look {
        let heard = self.hear().await;
        let found = !self.announced && heard.iter().any(|one| one.discovered);
        let changed = self.take_in(&heard) || found;
        self.announced |= found;
        let look = |tracked: &Tracked| DeviceLook {
            id: tracked.device.id.clone(),
            state: tracked.state,
            pids: None,
            used: Vec::new(),
            machines: None,
        };
        Look {
            devices: self.devices.iter().map(look).collect(),
            source_state: self.state(&heard),
            inventory_changed: changed
                .then(|| self.devices.iter().map(|tracked| tracked.device.clone()).collect()),
            unidentified: 0,
        }
    }
}
