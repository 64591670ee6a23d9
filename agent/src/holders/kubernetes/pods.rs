//! What the API server says of a pod, as far as it tells whose it is and in which attempt.
//!
//! Pure: JSON in, [`Pod`] out. Of all that a tenant may have written (names, labels, annotations, owners) only
//! identifiers of the API server's own shape are kept, and the two names by which a pod is found here.

use serde::Deserialize;
use weighbridge_meter::UtcMillis;

use super::super::cgroup::uuid;

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// As the API server made it.
    pub uid: String,
    /// Where it is.
    pub namespace: String,
    /// For finding it in the kubelet's answers; it goes nowhere.
    pub name: String,
    /// What cgroups call a static pod: the digest that the kubelet made of its file.
    pub mirror_of: Option<String>,
    /// Who made it.
    pub owner: Option<Owner>,
    /// What JobSet and LeaderWorkerSet say of it.
    pub marks: Marks,
    /// When the kubelet took it on.
    pub began: Option<UtcMillis>,
    /// It is over.
    pub over: bool,
    /// When the last of its containers ended, of one that is over.
    pub ended: Option<UtcMillis>,
}

/// The object that controls another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// As `batch/v1`.
    pub api: String,
    /// As `Job`.
    pub kind: String,
    /// For finding it at the API server; it goes nowhere.
    pub name: String,
    /// What it is known by.
    pub uid: String,
}

/// Labels that controllers put on pods: they say which of several attempts of its owner it is, never whose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// How often that JobSet was started again.
    pub restart: Option<u32>,
    /// Which group of a LeaderWorkerSet.
    pub group: Option<u32>,
}

/// The longest name that Kubernetes takes.
const LONGEST_NAME: usize = 253;

/// The longest kind of an object.
const LONGEST_KIND: usize = 63;

impl Pod {
    /// Reads a pod. `None`: it is none, or lacks what a pod has.
    pub fn parse(json: &[u8]) -> Option<Self> {
        Self::of(serde_json::from_slice(json).ok()?)
    }

    pub(super) fn of(raw: RawPod) -> Option<Self> {
        let RawPod { metadata, status } = raw;
        let uid = uuid(&metadata.uid)?;
        let (namespace, name) = (named(metadata.namespace)?, named(metadata.name)?);
        let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key)?.as_str());
        let number = |key: &str| label(key).and_then(|text| text.parse().ok());
        let mirror =
            metadata.annotations.as_ref().and_then(|all| all.get("kubernetes.io/config.mirror")?.as_str());
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let containers = status.init_containers.into_iter().chain(status.containers);
        // Of one that is over and does not say since when, nobody knows.
        let ends: Option<Vec<UtcMillis>> = containers.filter_map(RawContainer::ended).collect();
        Some(Self {
            uid,
            namespace,
            name,
            mirror_of: mirror.and_then(digest),
            owner: metadata.owners.into_iter().flatten().find_map(RawOwner::controller),
            marks: Marks {
                restart: number("jobset.sigs.k8s.io/restart-attempt"),
                group: number("leaderworkerset.sigs.k8s.io/group-index"),
            },
            began: status.began.as_deref().and_then(|text| text.parse().ok()),
            over,
            ended: ends.unwrap_or_default().into_iter().max().filter(|_| over),
        })
    }
}

/// Only what can be a part of an address.
fn named(name: String) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let good =
        !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(fits) && !name.contains("..");
    good.then_some(name)
}

fn digest(text: &str) -> Option<String> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == 32 && text.bytes().all(hex)).then(|| text.to_owned())
}

/// A pod as written.
#[derive(Debug, Deserialize)]
pub(super) struct RawPod {
    metadata: RawMetadata,
    #[serde(default)]
    status: RawStatus,
}

/// `metadata` of any object.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RawMetadata {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default, rename = "resourceVersion")]
    pub(super) version: String,
    pub(super) labels: Option<serde_json::Map<String, serde_json::Value>>,
    annotations: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default, rename = "ownerReferences")]
    pub(super) owners: Option<Vec<RawOwner>>,
}

/// One of `ownerReferences`.
#[derive(Debug, Deserialize)]
pub(super) struct RawOwner {
    #[serde(default, rename = "apiVersion")]
    api: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    controller: Option<bool>,
}

impl RawOwner {
    /// If it is the one that controls; a node controls static pods and is no attempt.
    pub(super) fn controller(self) -> Option<Owner> {
        let part = |text: &str| {
            (1..=LONGEST_KIND).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let group = |text: &str| {
            text.split('/').count() <= 2 && text.split('/').all(|part| named(part.into()).is_some())
        };
        let right =
            self.controller == Some(true) && part(&self.kind) && self.kind != "Node" && group(&self.api);
        let (uid, name) = (uuid(&self.uid)?, named(self.name)?);
        right.then_some(Owner { api: self.api, kind: self.kind, name, uid })
    }
}

#[derive(Debug, Default, Deserialize)]
struct RawStatus {
    phase: Option<String>,
    #[serde(rename = "startTime")]
    began: Option<String>,
    #[serde(default, rename = "containerStatuses", deserialize_with = "list")]
    containers: Vec<RawContainer>,
    #[serde(default, rename = "initContainerStatuses", deserialize_with = "list")]
    init_containers: Vec<RawContainer>,
}

/// A list that may be `null`.
pub(super) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<Vec<T>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Debug, Deserialize)]
struct RawContainer {
    #[serde(default)]
    state: Option<RawState>,
}

impl RawContainer {
    /// When it ended, if it did; `Some(None)`: it did, and it is not known when.
    fn ended(self) -> Option<Option<UtcMillis>> {
        Some(self.state?.terminated?.ended.and_then(|text| text.parse().ok()))
    }
}

#[derive(Debug, Deserialize)]
struct RawState {
    terminated: Option<RawTerminated>,
}

#[derive(Debug, Deserialize)]
struct RawTerminated {
    #[serde(rename = "finishedAt")]
    ended: Option<String>,
}

/// A line of a watch.
#[derive(Debug)]
pub enum Event {
    /// A pod is there, or is otherwise than before.
    Changed(Box<Pod>, String),
    /// A pod was taken away; as it last was.
    Gone(Box<Pod>, String),
    /// Up to which version everything was told.
    Reached(String),
    /// The version to go on from is no longer known: everything has to be listed anew.
    Expired,
    /// The server gave up for another reason.
    Failed(u16),
    /// An object that cannot be read, of which only the version counts.
    Unreadable(String),
}

impl Event {
    /// Reads a line. `None`: it is none.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let raw: RawEvent<'_> = serde_json::from_slice(line).ok()?;
        let object = raw.object.get();
        if raw.kind == "ERROR" {
            let status: RawFailure = serde_json::from_str(object).unwrap_or_default();
            return Some(match status.code {
                410 => Self::Expired,
                _ if status.reason == "Expired" || status.reason == "Gone" => Self::Expired,
                code => Self::Failed(code),
            });
        }
        let version = serde_json::from_str::<Versioned>(object).ok()?.metadata.version;
        let pod = || serde_json::from_str(object).ok().and_then(Pod::of).map(Box::new);
        Some(match &*raw.kind {
            "BOOKMARK" => Self::Reached(version),
            "ADDED" | "MODIFIED" => match pod() {
                Some(pod) => Self::Changed(pod, version),
                None => Self::Unreadable(version),
            },
            "DELETED" => match pod() {
                Some(pod) => Self::Gone(pod, version),
                None => Self::Unreadable(version),
            },
            _ => return None,
        })
    }
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
struct Versioned {
    metadata: RawMetadata,
}

#[derive(Default, Deserialize)]
struct RawFailure {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    reason: String,
}

/// A page of a list of pods.
#[derive(Debug)]
pub struct Page {
    /// Those that could be read.
    pub pods: Vec<Pod>,
    /// How many could not.
    pub unreadable: usize,
    /// From which version a watch goes on.
    pub version: String,
    /// How to ask for the rest; `None`: this was all.
    pub rest: Option<String>,
}

impl Page {
    /// Reads an answer. `None`: it is none.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let raw: RawList = serde_json::from_slice(body).ok()?;
        let all = raw.items.len();
        let pods: Vec<Pod> = raw.items.iter().filter_map(|item| Pod::parse(item.get().as_bytes())).collect();
        Some(Self {
            unreadable: all - pods.len(),
            pods,
            version: raw.metadata.version,
            rest: raw.metadata.rest.filter(|rest| !rest.is_empty()),
        })
    }
}

#[derive(Deserialize)]
struct RawList {
    metadata: RawListMetadata,
    #[serde(default, deserialize_with = "list")]
    items: Vec<Box<serde_json::value::RawValue>>,
}

#[derive(Deserialize)]
struct RawListMetadata {
    #[serde(rename = "resourceVersion")]
    version: String,
    #[serde(rename = "continue")]
    rest: Option<String>,
}
