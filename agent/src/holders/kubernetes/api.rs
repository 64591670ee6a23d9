//! The pods of this node, as the API server lists them and tells what becomes of them.
//!
//! One list, then a watch from its version on; where the version is no longer known, another list. A server that
//! cannot be reached costs nothing that was told before. Who made what made a pod is asked once. An owner counts as far
//! as the server has it under that name with that identifier: whoever makes a pod can write what it likes there.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use weighbridge_meter::{AttemptId, Principal, UtcMillis};

use super::{
    Inbox, Labelled,
    devices::{ClaimDevice, Slices},
    http::{ApiError, ApiOptions, Stream, get, open},
    names::{Names, is_schedule, path_of},
    pods::{Event, Owner, Page, Pod, RawMetadata, list},
};
use crate::clock::Clock;

/// Pods that are known of; no node runs as many. Further ones stay unknown.
const MOST_PODS: usize = 4_096;

/// Owners that are known of. One more, and all are asked anew.
const MOST_OWNERS: usize = 16_384;

/// No object is so long: it would not fit what the API server keeps its objects in.
const LONGEST_LINE: usize = 8 << 20;

/// Owners above each other; a climb ends there.
const HIGHEST: usize = 8;

/// The server ends a watch after so long, and it begins anew.
const WATCH_LASTS: Duration = Duration::from_secs(300);

/// A watch of which nothing is heard for so long is dead: there is a bookmark about every minute.
const WATCH_SILENT: Duration = Duration::from_secs(100);

/// Pods in one answer; fewer where they are too long.
const PAGE: usize = 100;

/// Pods that are looked at in one list, those that are over included.
const MOST_LISTED: usize = 4 * MOST_PODS;

/// A pod that was taken away is remembered for so long: its end may still be asked for.
const REMEMBERED_MS: i64 = 10 * 60_000;

/// Labels of namespaces, resource slices and what could not be asked are looked at again after so long.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// Between two attempts that fail: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

const JSON: &str = "application/json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// A pod with its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What was told.
    pub pod: Arc<Pod>,
    /// Whose it is.
    pub principal: Principal,
    /// In which attempt.
    pub attempt: AttemptId,
    /// When it was heard that it was taken away.
    pub gone: Option<UtcMillis>,
}

/// What keeps up with the API server.
pub(super) struct Watcher {
    pub(super) options: ApiOptions,
    pub(super) node: String,
    pub(super) tenant_label: Option<String>,
    pub(super) names: Names,
    pub(super) inbox: Arc<Inbox>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) kept: Kept,
}

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pods: BTreeMap<String, Known>,
    /// Who made what, by its identifier; `None`: nobody did.
    above: HashMap<String, Option<Owner>>,
    /// What is not there under its name, or may not be asked for; looked at again now and then.
    unverified: HashSet<String>,
    labels: HashMap<String, Labelled>,
    slices: Slices,
    /// Which version of resource slices the server has, if any.
    slices_path: Option<&'static str>,
    said: Option<ApiError>,
    unreachable: bool,
}

/// Why a watch ended.
enum Ended {
    /// Everything has to be listed anew.
    Expired,
    Failed(ApiError),
}

impl Watcher {
    /// Goes on until it is dropped.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSES.0;
        loop {
            let began = Instant::now();
            let error = match self.list().await {
                Ok(version) => {
                    self.say(None);
                    match self.watch(version).await {
                        Ended::Expired => None,
                        Ended::Failed(error) => Some(error),
                    }
                }
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                self.say(Some(error));
            }
            // A server that sends everybody back to the list at once is not to be asked at once again.
            if began.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn say(&mut self, error: Option<ApiError>) {
        if self.kept.said != error {
            match &error {
                Some(error) => tracing::warn!(%error, "the API server tells nothing of pods"),
                None => tracing::info!("the API server tells of this node's pods"),
            }
        }
        self.inbox.api_is(error.as_ref());
        self.kept.said = error;
    }

    fn pods_path(&self) -> String {
        format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.node)
    }

    /// Every pod; the version to go on from.
    async fn list(&mut self) -> Result<String, ApiError> {
        let (mut pods, mut rest, mut limit) = (Vec::new(), None::<String>, PAGE);
        let version = loop {
            let mut target = format!("{}&limit={limit}", self.pods_path());
            if let Some(rest) = &rest {
                target.push_str(&format!("&continue={}", encoded(rest)));
            }
            let answer = match get(&self.options, &target, JSON).await {
                Err(ApiError::TooLong) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                answer => answer?,
            };
            let page = Page::parse(&answer);
            let page = page.ok_or_else(|| ApiError::Bad("an answer that is no list of pods".into()))?;
            if page.unreadable > 0 {
                tracing::warn!(pods = page.unreadable, "pods that the API server lists cannot be read");
            }
            pods.extend(page.pods);
            rest = page.rest;
            if rest.is_none() || pods.len() > MOST_LISTED {
                break page.version;
            }
        };
        if version.is_empty() {
            return Err(ApiError::Bad("a list without a version".into()));
        }
        let now = self.clock.now().wall;
        let listed: HashSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
        // Of a list that was not read to its end nothing is missing.
        let missing = |uid: &String| rest.is_none() && !listed.contains(uid.as_str());
        for (uid, known) in &mut self.kept.pods {
            if missing(uid) {
                known.gone = known.gone.or(Some(now));
            }
        }
        // Those that are over come last: they hold nothing.
        pods.sort_by_key(|pod| pod.over);
        self.refresh().await;
        for pod in pods {
            self.take(pod, None).await;
        }
        self.publish();
        Ok(version)
    }

    async fn watch(&mut self, mut version: String) -> Ended {
        let mut pause = PAUSES.0;
        let inbox = Arc::clone(&self.inbox);
        let mut refresh = interval(REFRESH_EVERY);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        refresh.tick().await;
        loop {
            let seconds = WATCH_LASTS.as_secs();
            let target = format!(
                "{}&watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
                self.pods_path(),
                encoded(&version)
            );
            let mut lines =
                match open(&self.options, &target, JSON, WATCH_SILENT + self.options.deadline).await {
                    Ok(stream) => Lines { stream, rest: Vec::new() },
                    Err(ApiError::Expired) => return Ended::Expired,
                    // Who may list and not watch lists again and again.
                    Err(error @ ApiError::Refused(_)) => return Ended::Failed(error),
                    Err(error) => {
                        self.say(Some(error));
                        sleep(pause).await;
                        pause = (pause * 2).min(PAUSES.1);
                        continue;
                    }
                };
            self.say(None);
            let (began, mut heard) = (Instant::now(), false);
            loop {
                let line = tokio::select! {
                    line = lines.next() => line,
                    _ = refresh.tick() => {
                        self.refresh().await;
                        self.rename().await;
                        self.publish();
                        continue;
                    }
                    () = inbox.slices_wanted() => {
                        self.read_slices().await;
                        self.publish();
                        continue;
                    }
                };
                let event = match line {
                    Ok(Some(line)) => Event::parse(&line),
                    Ok(None) => break,
                    Err(error @ ApiError::Bad(_)) => return Ended::Failed(error),
                    Err(error) => {
                        self.say(Some(error));
                        break;
                    }
                };
                heard = true;
                match event {
                    Some(Event::Changed(pod, at)) => {
                        self.take(*pod, None).await;
                        version = newer(version, at);
                    }
                    Some(Event::Gone(pod, at)) => {
                        let now = self.clock.now().wall;
                        self.take(*pod, Some(now)).await;
                        version = newer(version, at);
                    }
                    Some(Event::Reached(at) | Event::Unreadable(at)) => {
                        version = newer(version, at);
                        continue;
                    }
                    Some(Event::Expired) => return Ended::Expired,
                    Some(Event::Failed(code)) => {
                        return Ended::Failed(ApiError::Bad(format!(
                            "a watch that failed with status {code}"
                        )));
                    }
                    None => return Ended::Failed(ApiError::Bad("a line that is no event".into())),
                }
                self.publish();
            }
            if heard || began.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn take(&mut self, pod: Pod, gone: Option<UtcMillis>) {
        if self.kept.pods.len() >= MOST_PODS && !self.kept.pods.contains_key(&pod.uid) {
            let idle = self.kept.pods.iter().find(|(_, known)| known.pod.over || known.gone.is_some());
            let idle = idle.map(|(uid, _)| uid.clone()).filter(|_| !pod.over);
            match idle {
                Some(uid) => drop(self.kept.pods.remove(&uid)),
                None if pod.over => return,
                None => {
                    tracing::warn!(most = MOST_PODS, "more pods on this node than are known of at most");
                    return;
                }
            }
        }
        let pod = Arc::new(pod);
        let Some((principal, attempt)) = self.name(&pod).await else { return };
        self.kept.pods.insert(pod.uid.clone(), Known { pod, principal, attempt, gone });
    }

    /// Names all pods anew: a label may say something else now.
    async fn rename(&mut self) {
        let pods: Vec<(Arc<Pod>, Option<UtcMillis>)> =
            self.kept.pods.values().map(|known| (Arc::clone(&known.pod), known.gone)).collect();
        for (pod, gone) in pods {
            if let Some((principal, attempt)) = self.name(&pod).await {
                self.kept.pods.insert(pod.uid.clone(), Known { pod, principal, attempt, gone });
            }
        }
    }

    async fn name(&mut self, pod: &Pod) -> Option<(Principal, AttemptId)> {
        let chain = self.chain(pod).await;
        let attempt = self.names.attempt_of(pod, &chain)?;
        let label = self.label(&pod.namespace).await;
        Some((self.names.principal(&pod.namespace, &label), attempt))
    }

    /// Who made a pod, who made that, and so on.
    async fn chain(&mut self, pod: &Pod) -> Vec<Owner> {
        let mut chain: Vec<Owner> = Vec::new();
        let mut next = pod.owner.clone().filter(|owner| !is_schedule(&owner.kind));
        while let Some(owner) = next.take() {
            if chain.len() >= HIGHEST || chain.iter().any(|below| below.uid == owner.uid) {
                break;
            }
            let Some(above) = self.above(&pod.namespace, &owner).await else { break };
            chain.push(owner);
            next = above.filter(|above| !is_schedule(&above.kind));
        }
        chain
    }

    /// Who made an owner, if anybody; `None`: it is not there as it is told to be, or that cannot be asked now.
    async fn above(&mut self, namespace: &str, owner: &Owner) -> Option<Option<Owner>> {
        if let Some(known) = self.kept.above.get(&owner.uid) {
            return Some(known.clone());
        }
        if self.kept.unreachable || self.kept.unverified.contains(&owner.uid) {
            return None;
        }
        let answer = get(&self.options, &path_of(namespace, owner), METADATA).await;
        let object = match answer.as_deref().map(serde_json::from_slice::<RawObject>) {
            Ok(Ok(object)) if object.metadata.uid == owner.uid => object,
            Err(error) if error.is_passing() => {
                // It is asked again, and pods are named anew, at the next refresh.
                self.kept.unreachable = true;
                return None;
            }
            // There is another of that name, or none, or it may not be asked for.
            Ok(_) | Err(_) => {
                if self.kept.unverified.len() < MOST_OWNERS {
                    self.kept.unverified.insert(owner.uid.clone());
                }
                return None;
            }
        };
        let above = object.metadata.owners.into_iter().flatten().find_map(super::pods::RawOwner::controller);
        if self.kept.above.len() >= MOST_OWNERS {
            self.kept.above.clear();
        }
        self.kept.above.insert(owner.uid.clone(), above.clone());
        Some(above)
    }

    async fn label(&mut self, namespace: &str) -> Labelled {
        let Some(key) = self.tenant_label.clone() else { return Labelled::NotAsked };
        if let Some(known) = self.kept.labels.get(namespace) {
            return known.clone();
        }
        let label = self.ask_label(namespace, &key).await.unwrap_or(Labelled::Unknown);
        if self.kept.labels.len() < MOST_PODS {
            self.kept.labels.insert(namespace.to_owned(), label.clone());
        }
        label
    }

    async fn ask_label(&self, namespace: &str, key: &str) -> Result<Labelled, ApiError> {
        let body = get(&self.options, &format!("/api/v1/namespaces/{namespace}"), METADATA).await?;
        let object = serde_json::from_slice::<RawObject>(&body);
        let object = object.map_err(|_| ApiError::Bad("an answer that is no namespace".into()))?;
        let labels = object.metadata.labels.unwrap_or_default();
        let value = labels.get(key).and_then(|value| value.as_str()).filter(|value| !value.is_empty());
        Ok(value.map_or(Labelled::Without, |value| Labelled::As(value.to_owned())))
    }

    /// Looks again at what no watch tells.
    async fn refresh(&mut self) {
        self.kept.unreachable = false;
        self.kept.unverified.clear();
        if let Some(key) = self.tenant_label.clone() {
            let used =
                |namespace: &String| self.kept.pods.values().any(|known| known.pod.namespace == *namespace);
            let namespaces: Vec<String> =
                self.kept.labels.keys().filter(|name| used(name)).cloned().collect();
            let mut labels = HashMap::new();
            for namespace in namespaces {
                // What cannot be asked now is as it was.
                let before = self.kept.labels.get(&namespace).cloned();
                let label =
                    self.ask_label(&namespace, &key).await.ok().or(before).unwrap_or(Labelled::Unknown);
                labels.insert(namespace, label);
            }
            self.kept.labels = labels;
        }
        let now = self.clock.now().wall;
        self.kept.pods.retain(|_, known| known.gone.is_none_or(|gone| now.since(gone) < REMEMBERED_MS));
        if self.kept.slices_path.is_some() {
            self.read_slices().await;
        }
    }

    /// What drivers of claims call their devices.
    async fn read_slices(&mut self) {
        let paths = ["v1", "v1beta2", "v1beta1"];
        let paths = match self.kept.slices_path {
            Some(path) => vec![path],
            None => paths.to_vec(),
        };
        for version in paths {
            let target = format!(
                "/apis/resource.k8s.io/{version}/resourceslices?fieldSelector=spec.nodeName%3D{}",
                self.node
            );
            match get(&self.options, &target, JSON).await {
                Ok(body) => {
                    if let Some(slices) = slices(&body) {
                        (self.kept.slices, self.kept.slices_path) = (slices, Some(version));
                    }
                    return;
                }
                Err(ApiError::Absent) => self.kept.slices_path = None,
                Err(error) => {
                    tracing::debug!(%error, "resource slices cannot be read");
                    return;
                }
            }
        }
    }

    fn publish(&mut self) {
        self.inbox.pods_are(&self.kept.pods, &self.kept.slices);
    }
}

#[derive(Deserialize)]
struct RawObject {
    metadata: RawMetadata,
}

/// Versions are only to be handed back; an event without one says nothing about them.
fn newer(before: String, at: String) -> String {
    if at.is_empty() { before } else { at }
}

/// Lines of an answer that is still coming.
struct Lines {
    stream: Stream,
    rest: Vec<u8>,
}

impl Lines {
    /// The next line. May be dropped and called again.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.rest[seen..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.rest.drain(..=seen + end).collect();
                line.pop();
                if line.iter().all(u8::is_ascii_whitespace) {
                    seen = 0;
                    continue;
                }
                return Ok(Some(line));
            }
            if self.rest.len() > LONGEST_LINE {
                return Err(ApiError::Bad(format!("an event of more than {LONGEST_LINE} bytes")));
            }
            seen = self.rest.len();
            match self.stream.next().await? {
                Some(data) => self.rest.extend_from_slice(&data),
                // What was cut off is no event.
                None => return Ok(None),
            }
        }
    }
}

/// As a value in an address.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Reads a list of resource slices. `None`: it is none.
pub fn slices(body: &[u8]) -> Option<Slices> {
    let raw: RawSlices = serde_json::from_slice(body).ok()?;
    let mut slices = Slices::new();
    for RawSlice { spec } in raw.items {
        for device in spec.devices {
            let attributes = device.basic.map_or(device.attributes, |basic| basic.attributes);
            let text = |keys: &[&str]| {
                let value = keys.iter().find_map(|key| attributes.get(*key))?;
                value.get("string")?.as_str().filter(|text| text.len() <= 96).map(str::to_owned)
            };
            // An instance that a driver makes when it is asked for has none of its own yet.
            let name = text(&["uuid", "gpu.nvidia.com/uuid"])
                .or_else(|| text(&["serial", "gaudi.intel.com/serial"]))
                .or_else(|| text(&["resource.kubernetes.io/pciBusID", "pciBusID", "pciAddr"]));
            let Some(name) = name else { continue };
            let claim = ClaimDevice {
                driver: spec.driver.clone(),
                pool: spec.pool.name.clone(),
                device: device.name,
            };
            if slices.len() < MOST_PODS {
                slices.insert(claim, name);
            }
        }
    }
    Some(slices)
}

#[derive(Deserialize)]
struct RawSlices {
    #[serde(default, deserialize_with = "list")]
    items: Vec<RawSlice>,
}

#[derive(Deserialize)]
struct RawSlice {
    spec: RawSliceSpec,
}

#[derive(Deserialize)]
struct RawSliceSpec {
    driver: String,
    pool: RawPool,
    #[serde(default, deserialize_with = "list")]
    devices: Vec<RawDevice>,
}

#[derive(Deserialize)]
struct RawPool {
    name: String,
}

#[derive(Deserialize)]
struct RawDevice {
    name: String,
    #[serde(default)]
    attributes: serde_json::Map<String, serde_json::Value>,
    basic: Option<RawBasic>,
}

#[derive(Deserialize)]
struct RawBasic {
    #[serde(default)]
    attributes: serde_json::Map<String, serde_json::Value>,
}
