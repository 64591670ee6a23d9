//! What a controller offers: found by following its links, so that no firmware's layout is taken for granted.
//!
//! What was fetched is kept until the walk is complete. A controller that needs longer for it than a look may
//! take is walked over several looks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use weighbridge_meter::{AcceleratorId, AcceleratorTable};

use super::{
    http::{Client, Failure},
    identity,
    quantity::{number, whole},
    rows::Property,
};

const ROOT: &str = "/redfish/v1/";

/// Pages of one collection, and members of all its pages: no baseboard is near either.
const PAGES: usize = 64;
const MEMBERS: usize = 1024;

/// An accelerator as its controller describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gpu {
    pub(super) id: AcceleratorId,
    /// Under the table's name where that can be told.
    pub(super) name: String,
    pub(super) pci_device: Option<String>,
    pub(super) max_clock_mhz: Option<u32>,
    pub(super) power_limit_mw: Option<u32>,
    pub(super) memory_bytes: Option<u64>,
    /// Of its processor resource.
    pub(super) path: String,
    /// Of its `ProcessorMetrics`.
    pub(super) metrics: Option<String>,
    /// Of its `EnvironmentMetrics`.
    pub(super) environment: Option<String>,
    /// Sensors behind those, by path.
    pub(super) sensors: Vec<(String, Property)>,
    /// Paths of its memory.
    pub(super) memory: Vec<String>,
    /// Paths of the chassis it sits in.
    pub(super) chassis: Vec<String>,
}

/// A metric report that is worth reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) path: String,
    /// Of single NVLink ports: large, and needed only where the devices' own rows lack them.
    pub(super) ports: bool,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) gpus: Vec<Gpu>,
    /// Those of ports last.
    pub(super) reports: Vec<Report>,
}

/// What was fetched so far; `None`: there is no such thing.
pub(super) type Fetched = BTreeMap<String, Option<Value>>;

/// One walk over a controller.
pub(super) struct Walk<'a> {
    pub(super) client: &'a mut Client,
    pub(super) fetched: &'a mut Fetched,
    pub(super) table: &'a AcceleratorTable,
    pub(super) host: &'a str,
    /// What the walk before found: stands where a single resource cannot be read.
    pub(super) known: &'a [Gpu],
}

impl Walk<'_> {
    /// Finds everything.
    pub(super) async fn offer(&mut self) -> Result<Offer, Failure> {
        let root = self.get(ROOT).await?.ok_or_else(|| Failure::Bad("no Redfish service".into()))?;
        let mut offer = Offer { gpus: Vec::new(), reports: self.reports(&root).await? };
        let systems = link(&root["Systems"]);
        for system in self.members(systems.as_deref()).await? {
            let Some(system) = self.get(&system).await? else { continue };
            for processor in self.members(link(&system["Processors"]).as_deref()).await? {
                self.processor(&processor, &mut offer.gpus).await?;
            }
        }
        self.name_apart(&mut offer.gpus);
        Ok(offer)
    }

    async fn get(&mut self, path: &str) -> Result<Option<Value>, Failure> {
        if let Some(fetched) = self.fetched.get(path) {
            return Ok(fetched.clone());
        }
        let value = match self.client.get(path).await {
            Ok(value) => Some(value),
            Err(Failure::Absent) => None,
            Err(failure) => return Err(failure),
        };
        self.fetched.insert(path.to_owned(), value.clone());
        Ok(value)
    }

    /// What the walk can do without: an account need not be allowed to see it, nor need it be in order.
    async fn get_if_possible(&mut self, path: &str) -> Result<Value, Failure> {
        match self.get(path).await {
            Ok(value) => Ok(value.unwrap_or_default()),
            Err(failure @ (Failure::Bad(_) | Failure::Refused(403))) => {
                tracing::warn!(host = self.host, path, ?failure, "a controller does not show something");
                self.fetched.insert(path.to_owned(), None);
                Ok(Value::Null)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Links to the members of a collection, over all its pages.
    async fn members(&mut self, collection: Option<&str>) -> Result<Vec<String>, Failure> {
        let mut members = Vec::new();
        let mut next = collection.map(ToOwned::to_owned);
        for _ in 0..PAGES {
            let Some(page) = next else { return Ok(members) };
            let page = self.get(&page).await?.unwrap_or_default();
            members.extend(links(&page["Members"]));
            next = page["Members@odata.nextLink"].as_str().map(ToOwned::to_owned);
            if members.len() > MEMBERS {
                break;
            }
        }
        if next.is_some() || members.len() > MEMBERS {
            tracing::warn!(host = self.host, MEMBERS, PAGES, "a collection is longer than is read");
            members.truncate(MEMBERS);
        }
        Ok(members)
    }

    async fn reports(&mut self, root: &Value) -> Result<Vec<Report>, Failure> {
        let Some(service) = link(&root["TelemetryService"]) else { return Ok(Vec::new()) };
        let service = self.get_if_possible(&service).await?;
        let reports = match self.members(link(&service["MetricReports"]).as_deref()).await {
            // Without reports, resources are read one by one.
            Err(failure @ (Failure::Bad(_) | Failure::Refused(403))) => {
                tracing::warn!(host = self.host, ?failure, "a controller does not show its metric reports");
                Vec::new()
            }
            other => other?,
        };
        let mut reports: Vec<Report> = reports.into_iter().filter_map(report).collect();
        reports.sort_by_key(|report| report.ports);
        Ok(reports)
    }

    async fn processor(&mut self, path: &str, gpus: &mut Vec<Gpu>) -> Result<(), Failure> {
        let resource = match self.get(path).await {
            Ok(resource) => resource.unwrap_or_default(),
            Err(failure @ Failure::Bad(_)) => {
                tracing::warn!(host = self.host, path, ?failure, "a controller does not show a processor");
                gpus.extend(self.known.iter().find(|gpu| gpu.path == path).cloned());
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        let absent = resource["Status"]["State"] == "Absent";
        if resource["ProcessorType"] != "GPU" || absent {
            return Ok(());
        }
        let path = path.trim_end_matches('/').to_owned();
        let Some(id) = identity::accelerator_id(&resource, self.host, &path) else {
            tracing::warn!(host = self.host, path, "a GPU without a name that can be used");
            return Ok(());
        };
        let metrics = link(&resource["Metrics"]);
        // Host and baseboard may both show it: what can be read is the one to keep.
        if let Some(same) = gpus.iter().find(|gpu| gpu.id == id && id.as_str().starts_with("GPU-")) {
            if same.metrics.is_some() || metrics.is_none() {
                return Ok(());
            }
            let place = same.path.clone();
            gpus.retain(|gpu| gpu.path != place);
        }
        let environment = link(&resource["EnvironmentMetrics"]);
        let surroundings = match &environment {
            Some(environment) => self.get_if_possible(environment).await?,
            None => Value::Null,
        };
        let name = identity::model_name(self.table, &resource);
        let pci_device = match self.table.find(None, &name) {
            Some(_) => None,
            None => self.pci_device(&resource).await?,
        };
        let megabytes = number(&resource["MemorySummary"]["TotalMemorySizeMiB"]).and_then(whole);
        let limit = &surroundings["PowerLimitWatts"];
        let in_links = &resource["Links"];
        gpus.push(Gpu {
            id,
            name,
            pci_device,
            max_clock_mhz: positive(&resource["MaxSpeedMHz"], 1.0),
            power_limit_mw: positive(&limit["SetPoint"], 1000.0).or(positive(&limit["Reading"], 1000.0)),
            memory_bytes: megabytes.filter(|mib| *mib > 0).and_then(|mib| mib.checked_mul(1 << 20)),
            path,
            metrics,
            environment,
            sensors: sensors(&surroundings),
            memory: links(&in_links["Memory"]).chain(link(&in_links["Memory"])).collect(),
            chassis: links(&in_links["Chassis"]).chain(link(&in_links["Chassis"])).collect(),
        });
        Ok(())
    }

    /// Of a model that its name does not tell.
    async fn pci_device(&mut self, resource: &Value) -> Result<Option<String>, Failure> {
        let mut function = links(&resource["Links"]["PCIeFunctions"]).next();
        if function.is_none()
            && let Some(device) = link(&resource["Links"]["PCIeDevice"])
        {
            let device = self.get_if_possible(&device).await?;
            if let Some(functions) = link(&device["PCIeFunctions"]) {
                let functions = self.get_if_possible(&functions).await?;
                function = links(&functions["Members"]).next();
            }
        }
        match function {
            Some(function) => Ok(identity::pci_device(&self.get_if_possible(&function).await?)),
            None => Ok(None),
        }
    }

    /// Serial numbers of boards or trays are on several GPUs: those go by their place.
    fn name_apart(&self, gpus: &mut Vec<Gpu>) {
        let ids: Vec<AcceleratorId> = gpus.iter().map(|gpu| gpu.id.clone()).collect();
        for gpu in gpus.iter_mut() {
            if ids.iter().filter(|id| **id == gpu.id).count() > 1
                && let Ok(place) = identity::place(self.host, &gpu.path).parse()
            {
                gpu.id = place;
            }
        }
        let mut named = BTreeSet::new();
        gpus.retain(|gpu| named.insert(gpu.id.clone()));
    }
}

fn link(value: &Value) -> Option<String> {
    value["@odata.id"].as_str().map(|path| path.trim_end_matches('/').to_owned())
}

fn links(values: &Value) -> impl Iterator<Item = String> {
    values.as_array().into_iter().flatten().filter_map(link)
}

fn positive(value: &Value, scale: f64) -> Option<u32> {
    let number = number(value).and_then(|number| whole(number * scale));
    number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0)
}

/// By its name, with or without the vendor's prefix and the number at its end: NVIDIA calls them
/// `HGX_ProcessorGPMMetrics_0` and alike.
fn report(path: String) -> Option<Report> {
    let name = path.rsplit('/').next()?;
    let name = name.strip_prefix("HGX_").unwrap_or(name);
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
    let wanted = ["ProcessorGPMMetrics", "ProcessorMetrics", "PlatformEnvironmentMetrics", "MemoryMetrics"]
        .contains(&name);
    let ports = name == "ProcessorPortGPMMetrics";
    (wanted || ports).then_some(Report { path, ports })
}

/// Sensors that a device's surroundings name as the origin of its power and energy.
fn sensors(surroundings: &Value) -> Vec<(String, Property)> {
    let named = [
        ("PowerWatts", Property::Power),
        ("EnergyJoules", Property::Energy),
        ("EnergykWh", Property::EnergyKwh),
    ];
    let found = named.into_iter().filter_map(|(name, property)| {
        let path = surroundings[name]["DataSourceUri"].as_str()?;
        Some((path.trim_end_matches('/').to_owned(), property))
    });
    found.collect()
}
