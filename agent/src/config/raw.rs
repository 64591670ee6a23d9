//! What may be written into the configuration file. Unknown keys are refused.
//!
//! Durations are written as `"250ms"`, `"5s"`, `"10m"`, `"2h"` or `"7d"`, sizes as `"64MiB"`. Every key may be
//! left out, but for those that a source needs.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    /// Who this agent is.
    pub agent: Agent,
    /// How it measures.
    pub meter: Meter,
    /// Where readings come from.
    pub source: Source,
    /// Who tells about holders.
    pub holders: Holders,
    /// Where batches are kept.
    pub spool: Spool,
    /// Where they are sent.
    pub uplink: Uplink,
    /// Under which certificate.
    pub tls: Tls,
    /// The agent's own pages.
    pub http: Http,
    /// Messages.
    pub log: Log,
}

/// `[agent]`: who this agent is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// The name under which it is enrolled; 1 to 96 printable characters. Default: the host's name. Changing it
    /// makes another agent of it, to be enrolled anew.
    pub id: Option<String>,
    /// The host's name in the inventory and in lease files. Default: what the kernel says.
    pub host: Option<String>,
    /// Hosts of one class share their user numbers: `uid:<class>/1000` is one person on all of them. Default:
    /// `"default"`. Change it where clusters number users differently.
    pub class: Option<String>,
    /// Who could have changed the readings: `"host"` (default) where the operator runs this agent, `"guest"`
    /// where the tenant does.
    pub trust: Option<String>,
    /// The signing key, 32 bytes in base64, made on the first run. Default:
    /// `/var/lib/weighbridge/agent/key`. Whoever can read it can sign for this agent.
    pub key_file: Option<PathBuf>,
}

/// `[meter]`: how it measures.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Meter {
    /// Between two looks, `"100ms"` to `"60s"`. Default `"1s"`. Longer saves processor time; an NVML source
    /// averages over the time between, so nothing is missed.
    pub period: Option<String>,
    /// Windows end at whole multiples of this; it must divide an hour, from `"1s"`. Default `"60s"`. Longer
    /// makes fewer records and wider bounds where holders are found out later.
    pub window: Option<String>,
    /// Two looks further apart than this leave a gap; at least twice `period`. Default `"10s"`.
    pub longest_tick: Option<String>,
    /// A batch is sealed and sent at whole multiples of this; it must divide an hour, from `"1s"`. Default
    /// `"60s"`. Large fleets take `"5m"`: a power cut loses at most this much.
    pub batch: Option<String>,
}

/// `[source]`: where readings come from.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Source {
    /// `"nvml"` (default), `"amdgpu"`, `"dcgm"`, `"gaudi"`, `"redfish"`, `"allocation"`, `"simulated"` or
    /// `"replay"`. Only the section of that name counts.
    pub kind: Option<String>,
    /// For `"nvml"`.
    pub nvml: Nvml,
    /// For `"amdgpu"`.
    pub amdgpu: Amdgpu,
    /// For `"dcgm"`.
    pub dcgm: Exporters,
    /// For `"gaudi"`.
    pub gaudi: Exporters,
    /// For `"redfish"`.
    pub redfish: Redfish,
    /// For `"simulated"`.
    pub simulated: Simulated,
    /// For `"replay"`.
    pub replay: Replay,
    /// For `"allocation"`.
    pub allocation: Allocation,
}

/// `[source.nvml]`: NVIDIA's management library.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nvml {
    /// Path of the library, or a name for the dynamic loader. Default `libnvidia-ml.so.1`.
    pub library: Option<PathBuf>,
    /// A device that does not answer within this time has a gap, `"10ms"` to `"30s"`. Default `"500ms"`; keep
    /// it below `meter.period`.
    pub deadline: Option<String>,
    /// New devices, and a driver that is not there yet, are searched for this often. Default `"30s"`.
    pub search_every: Option<String>,
    /// While this file is there, all devices are let go of, so that drivers can be unbound and MIG changed; the
    /// time is a gap with the cause `released`. Default `/run/weighbridge-agent/release`.
    pub release_file: Option<PathBuf>,
    /// Where the kernel shows PCI devices, to find those given to virtual machines. Default `/sys`.
    pub sysfs: Option<PathBuf>,
}

/// `[source.amdgpu]`: the files of AMD's driver.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Amdgpu {
    /// Where the kernel shows devices. Default `/sys`.
    pub sysfs: Option<PathBuf>,
    /// New devices are searched for this often. Default `"30s"`.
    pub search_every: Option<String>,
}

/// `[source.dcgm]` and `[source.gaudi]`: exporters of their vendors.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exporters {
    /// What to read. Default `["http://127.0.0.1:9400/metrics"]` for dcgm-exporter, port 41611 for Gaudi's.
    pub exporters: Option<Vec<String>>,
    /// An exporter that does not answer within this time leaves a gap. Default `"5s"`.
    pub deadline: Option<String>,
    /// How often the exporters renew their values; goes with every device's record. Default `"30s"`, as theirs.
    pub interval: Option<String>,
}

/// `[source.redfish]`: management controllers of accelerator baseboards, for an agent that speaks for a site.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redfish {
    /// The controllers. Needed.
    pub controllers: Vec<RedfishController>,
    /// A controller that does not answer within this time leaves a gap. Default `"20s"`.
    pub deadline: Option<String>,
    /// What each controller offers is looked up in every so many looks. Default 20.
    pub discover_every: Option<u32>,
    /// Certificate authority of the controllers, in PEM. Default: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Believes any certificate: whoever is on the way can then change what is read. Default `false`.
    pub any_certificate: Option<bool>,
}

/// `[[source.redfish.controllers]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedfishController {
    /// Its address, as `"https://bmc-7.example"`.
    pub url: String,
    /// The host whose accelerators it speaks for, by the name that its own agent and leases use.
    pub host: String,
    /// Name of its account.
    pub user: Option<String>,
    /// File with the password of that account and nothing else.
    pub password_file: Option<PathBuf>,
}

/// `[source.simulated]`: accelerators that do what a file says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simulated {
    /// The scenario. Needed.
    pub scenario: Option<PathBuf>,
    /// Its time runs so many times as fast, 1 to 100000. Default 1.
    pub rate: Option<u32>,
    /// When it starts, RFC 3339. Default: now.
    pub start: Option<String>,
}

/// `[source.replay]`: a recording.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replay {
    /// CSV with the columns `t_s,gpu` and what was recorded. Needed.
    pub file: Option<PathBuf>,
    /// Device name of the recorded accelerators, as in the accelerator table. Needed.
    pub model: Option<String>,
    /// Device names of those that differ, by their number in the recording.
    pub models: BTreeMap<String, String>,
    /// SM clock in MHz to assume where tensor activity was recorded: recordings carry no clock. Default: the
    /// clock at which the model reaches its published peak.
    pub clock_mhz: Option<u32>,
    /// Its time runs so many times as fast, 1 to 100000. Default 1.
    pub rate: Option<u32>,
    /// When it starts, RFC 3339. Default: now.
    pub start: Option<String>,
}

/// `[source.allocation]`: accelerators that nothing can be read from.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Allocation {
    /// What is there. Needed.
    pub accelerators: Vec<AllocatedAccelerator>,
}

/// `[[source.allocation.accelerators]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocatedAccelerator {
    /// Its name: a UUID, or host and PCI address. Never an ordinal.
    pub id: String,
    /// As the driver would print it.
    pub name: String,
    /// PCI vendor and device, as in `"10de:2330"`; finds the model more safely than the name.
    pub pci_device: Option<String>,
}

/// `[holders]`: who tells about holders.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Holders {
    /// CSV `lease,host,accelerator,principal,start,end`; looked at every 10 seconds. Default: none.
    pub lease_file: Option<PathBuf>,
    /// Whether the users whose processes have a device open are reported as holders, where nothing better is known
    /// of a process. Default `true`; needs a source that names processes, and the right to see those of others.
    pub process_owners: Option<bool>,
    /// Whether the cgroup of a process that has a device open says who holds it: a job of Slurm, a pod, a virtual
    /// machine, a container, a service. Default `true`; needs the same as `process_owners`.
    pub cgroups: Option<bool>,
    /// What this host's Slurm is called: the first part of `slurm:<cluster>/<account>`. Default `"default"`; give
    /// the name in `slurm.conf`, the same wherever one of its accounts means the same customer.
    pub slurm_cluster: Option<String>,
    /// What its Kubernetes cluster is called, as in `k8s:<cluster>/<namespace>`. Default `"default"`.
    pub kubernetes_cluster: Option<String>,
    /// The kubelet and the API server.
    pub kubernetes: Kubernetes,
    /// What the cloud of its virtual machines is called, as in `vm:<cloud>/<project>`. Default `"default"`.
    pub cloud: Option<String>,
    /// Groups of the operator's own that hold a whole system, below which jobs and pods are looked for, as
    /// `["/docker/*"]` on hosts of `kind`; `*` is any one directory. Default: none. Whoever can make groups below
    /// them can pass for any job or pod.
    pub cgroup_roots: Option<Vec<String>>,
    /// Where libvirt keeps the state of machines that run: their UUIDs, OpenStack projects and devices. Default
    /// `/run/libvirt/qemu`; empty: it is not read. The folder must be root's, and its files are for root to read.
    pub libvirt: Option<PathBuf>,
    /// Where the kernel shows processes. Default `/proc`; in a container, where the host's is mounted.
    pub proc: Option<PathBuf>,
    /// Where `weighbridge-agent hook slurm`, called from Slurm's prolog and epilog, puts its files. Default
    /// `/run/weighbridge/hooks`; empty: they are not read. The folder must be root's, and nobody else may write to it.
    pub slurm_hooks: Option<PathBuf>,
    /// The accelerators in the order in which Slurm counts them, as `["GPU-...", "GPU-..."]`. Default: by the numbers
    /// of their device nodes where the driver tells them, else by PCI address. Needed where `gres.conf` lists them
    /// in another order; `doctor` prints the order that is taken.
    pub slurm_order: Vec<String>,
}

/// `[holders.kubernetes]`: what the kubelet gave to pods, and what the API server knows of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kubernetes {
    /// The kubelet's PodResources socket. Default `/var/lib/kubelet/pod-resources/kubelet.sock`, which only root can
    /// open; empty: it is not asked. In a container, mount its folder, not the socket: a kubelet that starts again
    /// makes another.
    pub socket: Option<PathBuf>,
    /// The kubelet is asked this often, `"100ms"` to `"1m"`, and at once when a pod begins or ends. Default `"5s"`.
    pub poll: Option<String>,
    /// The API server, as `"https://10.96.0.1"`. Default: in a pod the cluster's own, elsewhere none; empty: none.
    /// Without it the attempts of pods are known on this host only.
    pub api: Option<String>,
    /// File with the token to show it; it is read again for each request. Default: in a pod that of its service
    /// account, else none.
    pub token_file: Option<PathBuf>,
    /// The authority of its certificate, in PEM. Default: in a pod that of its service account, else those of the
    /// system.
    pub ca_file: Option<PathBuf>,
    /// For an answer of it, `"100ms"` to `"1m"`. Default `"10s"`.
    pub deadline: Option<String>,
    /// What the cluster calls this host. Default `agent.host`; in a pod set it from `spec.nodeName`.
    pub node: Option<String>,
    /// A label of namespaces that says whose the pods in one are, in place of its name. Default: none. A namespace
    /// without the label is nobody's. The labels of pods are the tenant's own and are not asked.
    pub tenant_label: Option<String>,
}

/// `[spool]`: where batches are kept.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spool {
    /// The folder. Default `/var/lib/weighbridge/agent/spool`.
    pub dir: Option<PathBuf>,
    /// What no collector acknowledged yet may take so much, from `"1MiB"`; beyond it the agent goes on and
    /// records what it could not keep as a gap. Default `"1GiB"`, more than a year of one host.
    pub max_bytes: Option<String>,
    /// What is acknowledged is kept up to so much, so that a collector restored from a backup gets it again.
    /// Default `"64MiB"`; `"0B"` keeps none.
    pub keep_acknowledged_bytes: Option<String>,
    /// And up to so long. Default `"7d"`.
    pub keep_acknowledged: Option<String>,
}

/// `[uplink]`: where batches are sent.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uplink {
    /// Addresses of collectors, tried in turn, as `["https://collector.example:19312"]`. Default: none; batches
    /// wait in the spool.
    pub collectors: Option<Vec<String>>,
    /// For the connection. Default `"5s"`.
    pub connect_timeout: Option<String>,
    /// For a whole request. Default `"30s"`.
    pub timeout: Option<String>,
    /// The first wait after a failure is up to this long, each further one up to twice as long. Default `"1s"`.
    pub retry_shortest: Option<String>,
    /// No wait is longer. Default `"2m"`.
    pub retry_longest: Option<String>,
    /// An agent that nobody enrolled asks again after up to this time. Default `"5m"`.
    pub retry_not_enrolled: Option<String>,
    /// Allows `http://` addresses of this host, without TLS: for trying out, and behind a proxy of one's own on
    /// the same host. Never those of another host. Default `false`.
    pub plain_http_on_loopback: Option<bool>,
    /// A stopping agent tries to send what it has for so long. Default `"5s"`; what is left waits in the spool.
    pub stop_grace: Option<String>,
}

/// `[tls]`: the agent's certificate.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The folder where `enroll` and renewals keep certificate, key and authorities. Default
    /// `/var/lib/weighbridge/agent/tls`. Whoever can read it can pass for this agent.
    pub dir: Option<PathBuf>,
    /// A certificate of the site's own authority, in PEM, with those between it and the authority, instead of one
    /// from `enroll`. Then `key_file` and `authorities_file` are needed too; the three are read again when they
    /// change, and nothing is renewed. Default: none.
    pub certificate_file: Option<PathBuf>,
    /// Its private key, in PEM.
    pub key_file: Option<PathBuf>,
    /// The authorities by which a collector is believed, in PEM.
    pub authorities_file: Option<PathBuf>,
}

/// `[http]`: the agent's own pages.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address and port of `/metrics`. Default `"127.0.0.1:19310"`; empty for none.
    pub listen: Option<String>,
}

/// `[log]`: messages.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `"error"`, `"warn"`, `"info"` (default), `"debug"` or `"trace"`.
    pub level: Option<String>,
}
