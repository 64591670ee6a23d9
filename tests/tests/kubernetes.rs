//! Who held what on a node of Kubernetes, through the real agent and the real collector.
//!
//! The kubelet and the API server are stand-ins; both say what the test's script says. What each namespace should come
//! to is worked out from the script, the windows of each accelerator, and the moments between which the agent says
//! that it saw a pod, which have to lie where the script put it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::{Value, json};
use weighbridge_fake_kubernetes::{ApiServer, Given, Kubelet, Trouble};
use weighbridge_meter::{Evidence, Span, UtcMillis};
use weighbridge_store::Body;
use weighbridge_tests::{
    agent::{Agent, AgentOptions},
    audit::{self, Charged},
    collector::time,
    ledgers,
    machine::Device,
    planted::{files_below, holds},
    site::Site,
    wait,
};
use weighbridge_wire::Envelope;

const NODE: &str = "gpu-node-7";

/// What no agent may write or send: a tenant chose it.
const PLANTED: [&str; 6] =
    ["planted-pod", "planted-label", "planted-image", "planted-job", "planted-container", "planted-note"];

/// Of a pod or an owner.
fn uid(number: u32) -> String {
    format!("{number:08x}-aaaa-4bbb-8ccc-000000000000")
}

/// One pod of the script.
struct Scripted {
    number: u32,
    namespace: &'static str,
    devices: &'static [usize],
    attempt: String,
    /// Before this it held nothing, and after that it held what it was given.
    begun: (UtcMillis, UtcMillis),
    /// Before this it still held it, and after that nothing.
    ended: Option<(UtcMillis, UtcMillis)>,
    object: Value,
}

struct Weighed {
    kubelet: Kubelet,
    api: ApiServer,
    site: Site,
    script: Vec<Scripted>,
}

impl Weighed {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder").keep();
        let socket = folder.join("kubelet.sock");
        let kubelet = Kubelet::start(&socket).expect("it listens");
        let api = ApiServer::start().expect("it listens");
        fs::write(folder.join("token"), "secret-token\n").expect("written");
        api.require_token("secret-token");
        let more = format!(
            "[holders.kubernetes]\nsocket = {socket:?}\npoll = \"100ms\"\napi = {:?}\ntoken_file = {:?}\n",
            api.url(),
            folder.join("token")
        );
        let devices = (0..4).map(Device::numbered).collect();
        let options = AgentOptions { more, ..AgentOptions::quick(NODE, devices) };
        let mut site = Site::new(vec![options]);
        site.start_agents();
        site.measured(500);
        Self { kubelet, api, site, script: Vec::new() }
    }

    fn agent(&self) -> &Agent {
        &self.site.agents[0]
    }

    fn goes_on(&self) -> usize {
        self.script.iter().filter(|pod| pod.ended.is_none()).count()
    }

    /// What the kubelet lists of the script, and of pods that are over and `still` listed.
    fn list(&self, still: &[u32]) {
        let listed = self.script.iter().filter(|pod| pod.ended.is_none() || still.contains(&pod.number));
        let given = listed.map(|pod| {
            let ids: Vec<&str> =
                pod.devices.iter().map(|at| self.agent().devices()[*at].uuid.as_str()).collect();
            Given::gpus(pod.namespace, &format!("planted-pod-{}", pod.number), &ids)
        });
        self.kubelet.give(&given.collect::<Vec<_>>());
    }

    /// Waits until the agent says so many pods hold something, named by the API server.
    #[track_caller]
    fn until_named(&self, count: usize) {
        wait::until(&format!("{count} pods are named"), || {
            let metrics = self.agent().metrics()?;
            let line = format!("weighbridge_agent_kubernetes_pods{{state=\"named\"}} {count}");
            if metrics.lines().any(|found| found == line) { Ok(()) } else { Err(metrics) }
        });
    }

    /// A pod begins. `owner` is kind, number and restarts.
    #[track_caller]
    fn begin(
        &mut self,
        number: u32,
        namespace: &'static str,
        devices: &'static [usize],
        owner: Option<(&str, u32, u32)>,
    ) {
        let before = wait::now();
        let mut object = json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"uid": uid(number), "namespace": namespace, "name": format!("planted-pod-{number}"),
                "labels": {"app": "planted-label", "tenant": "planted-label"}, "annotations": {"note": "planted-note"}},
            "spec": {"nodeName": NODE, "containers": [{"name": "planted-container", "image": "planted-image"}]},
            "status": {"phase": "Running", "startTime": before.to_string(), "containerStatuses": [
                {"name": "planted-container", "state": {"running": {"startedAt": before.to_string()}}}]},
        });
        let mut attempt = format!("k8s:cluster/pod/{}", uid(number));
        if let Some((kind, owner, restarts)) = owner {
            let api = if kind == "Job" { "batch/v1" } else { "jobset.x-k8s.io/v1alpha2" };
            let name = format!("planted-job-{owner}");
            object["metadata"]["ownerReferences"] = json!([{"apiVersion": api, "kind": kind, "name": name,
                "uid": uid(owner), "controller": true}]);
            // An owner that the API server does not have counts for nothing.
            let path = format!("/apis/{api}/namespaces/{namespace}/{}s/{name}", kind.to_lowercase());
            self.api
                .put(&path, json!({"metadata": {"uid": uid(owner), "namespace": namespace, "name": name}}));
            object["metadata"]["labels"]["jobset.sigs.k8s.io/restart-attempt"] = json!(restarts.to_string());
            attempt = format!("k8s:cluster/{}", uid(owner));
            if restarts > 0 {
                attempt = format!("{attempt}+{restarts}");
            }
        }
        self.api.apply(object.clone());
        let ended = None;
        self.script.push(Scripted {
            number,
            namespace,
            devices,
            attempt,
            begun: (before, before),
            ended,
            object,
        });
        self.list(&[]);
        self.until_named(self.goes_on());
        self.script.last_mut().expect("pushed").begun.1 = wait::now();
    }

    /// A pod ends: the API server tells it, and the kubelet lists it no longer, or `still`.
    #[track_caller]
    fn end(&mut self, number: u32, still: &[u32]) {
        let at = wait::now();
        let pod = self.script.iter_mut().find(|pod| pod.number == number).expect("it began");
        pod.ended = Some((at, at));
        pod.object["status"] = json!({"phase": "Succeeded", "containerStatuses": [
            {"name": "planted-container", "state": {"terminated": {"finishedAt": at.to_string()}}}]});
        let object = pod.object.clone();
        self.api.apply(object);
        self.list(still);
        self.until_named(self.goes_on());
        let pod = self.script.iter_mut().find(|pod| pod.number == number).expect("it began");
        pod.ended = Some((at, wait::now()));
    }

    /// Returns once every accelerator has been measured so long after this moment.
    #[track_caller]
    fn measured_more(&self, millis: i64) {
        let enough = wait::now().plus(millis);
        wait::until("time is measured", || {
            let fleet = self.site.collector.try_get("fleet")?;
            let list = fleet["accelerators"].as_array().ok_or("no accelerators")?;
            let mut behind = list.iter().filter(|one| time(&one["last_end"]).is_ok_and(|end| end < enough));
            behind.next().map_or(Ok(()), |one| Err(one.to_string()))
        });
    }

    /// What the agent said of each attempt: principal, accelerators and from when to when, without a hole.
    fn told(&self) -> BTreeMap<String, (String, BTreeSet<String>, Span)> {
        let mut told: BTreeMap<String, (String, BTreeSet<String>, Span)> = BTreeMap::new();
        for entry in ledgers::entries(&self.site.collector.data()) {
            let Body::Batch(received) = entry.body else { continue };
            let batch = Envelope::decode(&received.envelope).and_then(|envelope| envelope.read());
            for holding in batch.expect("the ledger holds batches").holdings {
                assert_eq!(holding.evidence, Evidence::PodResources);
                let ids: BTreeSet<String> = holding.accelerators.iter().map(ToString::to_string).collect();
                let (principal, attempt) = (holding.principal.to_string(), holding.attempt.to_string());
                let span = match told.get(&attempt) {
                    Some((_, _, before)) => {
                        assert_eq!(before.end(), holding.span.start(), "a hole in {attempt}");
                        Span::new(before.start(), holding.span.end()).expect("it goes on")
                    }
                    None => holding.span,
                };
                let known = told.insert(attempt.clone(), (principal.clone(), ids.clone(), span));
                if let Some((before, same, _)) = known {
                    assert_eq!((before, same), (principal, ids), "{attempt} changed");
                }
            }
        }
        told
    }
}

#[test]
fn each_namespace_is_charged_what_its_pods_held_to_the_integer() {
    let mut weighed = Weighed::start();
    weighed.begin(1, "team-a", &[0, 1], Some(("Job", 101, 0)));
    weighed.begin(2, "team-b", &[2], None);
    weighed.measured_more(1_500);
    // It is over, and the kubelet lists it as those before 1.34 do; its accelerator goes to another.
    weighed.end(1, &[1]);
    weighed.begin(3, "team-c", &[0], Some(("JobSet", 103, 2)));
    // Neither an API server that is away nor a kubelet that starts again ends anything.
    weighed.api.trouble(Trouble::Silent);
    weighed.measured_more(1_000);
    weighed.api.trouble(Trouble::None);
    weighed.begin(4, "team-a", &[1, 3], Some(("Job", 104, 0)));
    weighed.measured_more(1_000);
    weighed.end(2, &[]);
    weighed.begin(5, "team-a", &[2], None);
    weighed.measured_more(1_000);
    for number in [3, 4, 5] {
        weighed.end(number, &[]);
    }
    weighed.measured_more(1_000);
    let metrics = weighed.agent().metrics().expect("metrics");
    for namespace in ["team-a", "team-b", "team-c"] {
        assert!(!metrics.contains(namespace), "a namespace is no label");
    }
    let doctor = weighed.agent().run(&["doctor"]);
    assert!(doctor.stdout.contains("kubelet"), "{}", doctor.stdout);
    weighed.site.stop_agents();

    // What the agent said lies where the script put it.
    let told = weighed.told();
    assert_eq!(told.len(), weighed.script.len(), "{told:?}");
    for pod in &weighed.script {
        let (principal, ids, span) = &told[&pod.attempt];
        assert_eq!(*principal, format!("k8s:cluster/{}", pod.namespace));
        let given = pod.devices.iter().map(|at| weighed.agent().devices()[*at].uuid.clone());
        assert_eq!(*ids, given.collect(), "{}", pod.attempt);
        let ended = pod.ended.expect("all ended");
        // The agent's clock is the host's, to a millisecond or two.
        let within = |moment: UtcMillis, (from, to): (UtcMillis, UtcMillis)| {
            moment.since(from) >= -5 && to.since(moment) >= -5
        };
        assert!(
            within(span.start(), pod.begun),
            "{} began {} and not in {:?}",
            pod.attempt,
            span.start(),
            pod.begun
        );
        // As far as it was confirmed: before it was over, but not long before.
        assert!(within(span.end(), (ended.0.plus(-1_000), ended.1)), "{} ended {}", pod.attempt, span.end());
    }
    // And so does what the collector charges, accelerator by accelerator.
    let mut totals: BTreeMap<String, Charged> = BTreeMap::new();
    for device in weighed.agent().devices() {
        let of_device = told.iter().filter(|(_, (_, ids, _))| ids.contains(&device.uuid));
        let held: Vec<(Span, (String, String))> = of_device
            .map(|(attempt, (principal, _, span))| (*span, (principal.clone(), attempt.clone())))
            .collect();
        let expected = audit::charged(&weighed.site.collector, device, &held);
        let mut found: BTreeMap<Option<(String, String)>, Charged> = BTreeMap::new();
        let usage = weighed.site.collector.get(&format!("usage?accelerator={}", device.uuid));
        for row in usage["rows"].as_array().expect("a list of sums") {
            let text = |key: &str| row[key].as_str().map(str::to_owned);
            let total = found.entry(text("principal").zip(text("attempt"))).or_default();
            total.0 += audit::amount(row).best;
            total.1 += row["measured_ms"].as_u64().expect("milliseconds");
        }
        assert_eq!(found, expected, "{}", device.uuid);
        for (holder, charged) in found {
            let total = totals.entry(holder.map_or("nobody".into(), |(principal, _)| principal)).or_default();
            *total = (total.0 + charged.0, total.1 + charged.1);
        }
    }
    for namespace in ["team-a", "team-b", "team-c"] {
        let (best, millis) = totals[&format!("k8s:cluster/{namespace}")];
        assert!(best > 0 && millis > 1_000, "{namespace}: {best} tera in {millis} ms");
    }
    eprintln!("{totals:#?}");

    // Nothing of a tenant's is in what the agent wrote and sent.
    let spooled = ledgers::plain_spooled(weighed.agent());
    assert!(spooled.iter().any(|bytes| holds(bytes, "k8s:cluster/team-b")), "the search finds what is there");
    let sent = ledgers::plain_batches(&weighed.site.collector.data());
    let kept = files_below(&weighed.site.collector.data());
    let files = files_below(&weighed.agent().spool());
    for bytes in spooled.iter().chain(&files).chain(&sent).chain(&kept) {
        for planted in PLANTED.iter().chain(&["secret-token"]) {
            assert!(!holds(bytes, planted), "{planted} was written");
        }
    }
    assert!(!weighed.agent().log().contains("planted"), "{}", weighed.agent().log());
}
