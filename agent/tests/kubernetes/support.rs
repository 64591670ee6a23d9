//! A node with both servers, its witness, and what that said.

use std::{
    fmt::Write,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use weighbridge_agent::{
    clock::{BOOT_ID_PATH, Clock, SystemClock},
    holders::{
        HolderStates, Holders,
        kubernetes::{ApiOptions, KubernetesHolders, KubernetesOptions, KubernetesState, names::Names},
    },
    source::{Device, Look, SourceState},
};
use weighbridge_fake_kubernetes::{ApiServer, Kubelet};
use weighbridge_meter::{AcceleratorId, Holding, Source, Tier};

/// Long enough for anything that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Of the pod with this number.
pub(crate) const UID: fn(u32) -> String = |number| format!("{number:08x}-aaaa-bbbb-cccc-000000000000");

/// Of the owner with this number.
pub(crate) const OWNERS: fn(u32) -> String = |number| format!("{number:08x}-dddd-eeee-ffff-000000000000");

/// A pod of this node, as the API server shows one.
pub(crate) fn pod(number: u32, namespace: &str, name: &str, phase: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"uid": UID(number), "namespace": namespace, "name": name,
            "labels": {"app": "planted-label"}, "annotations": {"note": "planted-annotation"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "planted-image"}]},
        "status": {"phase": phase, "startTime": "2026-01-31T08:00:00Z"},
    })
}

/// A node of a cluster.
pub(crate) struct Node {
    pub(crate) kubelet: Kubelet,
    pub(crate) api: ApiServer,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) holders: Holders,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) holdings: Vec<Holding>,
    /// How often each accelerator's windows were cut.
    pub(crate) cuts: Vec<AcceleratorId>,
    runtime: Runtime,
    first: bool,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// `change` may change what is asked.
    pub(crate) fn with(change: impl FnOnce(&mut KubernetesOptions)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("kubelet.sock");
        let kubelet = Kubelet::start(&socket).expect("it listens");
        let api = ApiServer::start().expect("it listens");
        let runtime = Runtime::new().expect("a runtime");
        let clock = SystemClock::start(BOOT_ID_PATH.as_ref()).expect("a clock");
        let mut options = KubernetesOptions {
            socket: Some(socket),
            poll: Duration::from_millis(100),
            api: Some(ApiOptions {
                url: api.url().parse().expect("an address"),
                token_file: None,
                ca_file: None,
                deadline: Duration::from_secs(10),
            }),
            host: "host-1".into(),
            node: "node-1".into(),
            cluster: "eu-1".into(),
            tenant_label: None,
            proc: folder.path().join("proc"),
        };
        change(&mut options);
        let mut node = Self {
            kubelet,
            api,
            folder,
            holders: Holders::none(),
            clock: Arc::new(clock),
            holdings: Vec::new(),
            cuts: Vec::new(),
            runtime,
            first: true,
        };
        node.ask(&options);
        node
    }

    fn ask(&mut self, options: &KubernetesOptions) {
        let names = Names::new(&options.cluster, [7; 32]).expect("a name");
        let _inside = self.runtime.enter();
        let witness = KubernetesHolders::start(options, names, &self.clock, true);
        self.holders = Holders::none().with(witness);
    }

    /// The kubelet starts again: its socket is another.
    pub(crate) fn restart_kubelet(&mut self) {
        let socket = self.folder.path().join("kubelet.sock");
        self.kubelet = Kubelet::start(&socket).expect("it listens");
    }

    /// Looks once, and takes what is to be recorded.
    pub(crate) fn look(&mut self) -> HolderStates {
        let device = |id: &str| Device::new(id.parse().expect("a name"), "x", Source::Nvml, Tier::B);
        let devices = ["GPU-a", "GPU-b", "GPU-c"].map(device);
        let look = Look {
            devices: Vec::new(),
            source_state: SourceState::Ok,
            inventory_changed: std::mem::take(&mut self.first).then(|| devices.to_vec()),
            unidentified: 0,
        };
        let news = self.holders.look(self.clock.now(), &look);
        self.cuts.extend(news.changed);
        self.holdings.extend(self.holders.confirm());
        self.holders.states()
    }

    /// Looks until Kubernetes is in this state.
    #[track_caller]
    pub(crate) fn until_state(&mut self, what: &str, mut holds: impl FnMut(&KubernetesState) -> bool) {
        self.until(what, |node| {
            let state = node.look().kubernetes;
            if holds(&state) { Ok(()) } else { Err(format!("{state:?}")) }
        });
    }

    /// Looks until `look` is content.
    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "a limit for a test that fails")]
    pub(crate) fn until(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Result<(), String>) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(stands) = look(self) {
            assert!(Instant::now() < deadline, "waited for this: {what}; but: {stands}");
            thread::sleep(PAUSE);
        }
    }

    /// Returns once the kubelet was asked so often more, and a look took the answer.
    #[track_caller]
    pub(crate) fn answers(&mut self, more: u64) {
        let enough = self.kubelet.asked() + more;
        self.until("the kubelet is asked", |node| {
            node.look();
            if node.kubelet.asked() > enough { Ok(()) } else { Err(node.kubelet.asked().to_string()) }
        });
    }

    /// Who was recorded to hold what, each once, without times.
    pub(crate) fn held(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for Holding { principal, attempt, accelerators, evidence, .. } in &self.holdings {
            let ids: Vec<&str> = accelerators.iter().map(AcceleratorId::as_str).collect();
            let line = format!("{principal} as {attempt} holds {} by {evidence}", ids.join("+"));
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.iter().fold(String::new(), |mut text, line| {
            writeln!(text, "{line}").expect("a string takes everything");
            text
        })
    }
}
