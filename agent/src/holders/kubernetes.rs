//! Which pods hold the accelerators of this host, by what the kubelet gave them and the API server knows of them.
//!
//! The kubelet ([`kubelet`]) says which devices each pod was given, by namespace and name; it is asked every few
//! seconds, and at once when a pod begins or ends. The API server (`api`) says of each pod of this node who made
//! it, and when it began and ended. Both are asked on tasks of their own: a look takes what they heard, and waits for
//! neither.
//!
//! A pod holds what it was given from when the kubelet took it on, as far as that is between two answers, until its
//! containers ended or it was last listed. A kubelet that does not answer ends nothing and confirms nothing. Without
//! the API server the namespace is known all the same; the attempt is then a digest that means something on this host
//! only. Of a pod that the API server should know, that is waited for a while.

mod api;
pub mod devices;
mod http;
mod inbox;
pub mod kubelet;
pub mod names;
pub mod pods;

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::sleep};
use weighbridge_meter::{
    AcceleratorId, AttemptId, Evidence, Holding, Principal, Span, UtcMillis, meter::Now,
};

use self::{
    api::{Kept, Watcher},
    devices::{Accelerators, Unmapped},
    kubelet::{Given, KubeletError},
    names::Names,
};
pub use self::{
    api::{Known, slices},
    http::{ApiError, ApiOptions},
    inbox::{Answer, Inbox, Pods},
};
use super::{HolderStates, Knows, Seen, Witness, cgroup::Group};
use crate::{clock::Clock, engine::HolderNews, source::Device, uplink::chain};

/// For an answer of the kubelet.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// However much happens, a kubelet is left alone for so long.
const LEAST_PAUSE: Duration = Duration::from_millis(200);

/// A pod that the API server should know and does not is called by its digest after so long.
const GRACE_MS: i64 = 15_000;

/// Pods that were met before anything was told of them: how many are remembered, and for how long.
const MOST_MET: usize = 4_096;
const MET_MS: i64 = 60 * 60_000;

/// Two answers further apart than this say nothing of the time between them, unless they show the very same pod.
const LONGEST_MS: i64 = 60_000;

/// As many accelerators as one record can name.
const MOST_ACCELERATORS: usize = 1024;

/// Resource slices are asked for again this often while a device is not explained by any.
const SLICES_EVERY_MS: u64 = 10_000;

/// Which kubelet and API server to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesOptions {
    /// The kubelet's socket; `None`: it is not asked.
    pub socket: Option<PathBuf>,
    /// Between two questions.
    pub poll: Duration,
    /// The API server; `None`: it is not asked.
    pub api: Option<ApiOptions>,
    /// What this host is called.
    pub host: String,
    /// What the cluster calls it.
    pub node: String,
    /// What the cluster is called.
    pub cluster: String,
    /// The label of a namespace that says whose it is; `None`: it is itself.
    pub tenant_label: Option<String>,
    /// Where the kernel shows drivers.
    pub proc: PathBuf,
}

/// What a namespace's label says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labelled {
    /// It does not matter.
    NotAsked,
    /// Whose the namespace is.
    As(String),
    /// It has none.
    Without,
    /// It could not be asked.
    Unknown,
}

/// How the kubelet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KubeletState {
    /// There is no socket, or it is not to be asked.
    #[default]
    Unused,
    /// It answers.
    Ok,
    /// This user may not ask it.
    Refused,
    /// It does not answer.
    Unreachable,
    /// It answers something else.
    Bad,
}

impl KubeletState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Unused, Self::Ok, Self::Refused, Self::Unreachable, Self::Bad];

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Bad => "bad_answer",
        }
    }

    fn of(error: &KubeletError) -> Self {
        match error {
            _ if error.is_absent() => Self::Unused,
            _ if error.is_refused() => Self::Refused,
            KubeletError::Status(_) | KubeletError::Answer(_) => Self::Bad,
            _ => Self::Unreachable,
        }
    }
}

/// How the API server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApiState {
    /// It is not to be asked.
    #[default]
    Unused,
    /// It was asked and has not answered yet.
    Connecting,
    /// It tells what happens.
    Ok,
    /// This account may not ask it.
    Refused,
    /// It does not answer.
    Unreachable,
    /// It answers something else.
    Bad,
}

impl ApiState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Unused, Self::Connecting, Self::Ok, Self::Refused, Self::Unreachable, Self::Bad];

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Connecting => "connecting",
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Bad => "bad_answer",
        }
    }

    fn of(error: &ApiError) -> Self {
        match error {
            ApiError::Unreachable(_) => Self::Unreachable,
            ApiError::Refused(_) => Self::Refused,
            ApiError::Absent
            | ApiError::Expired
            | ApiError::Busy(_)
            | ApiError::TooLong
            | ApiError::Bad(_) => Self::Bad,
        }
    }
}

/// What there is to say of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubernetesState {
    /// How the kubelet is.
    pub kubelet: KubeletState,
    /// How the API server is.
    pub api: ApiState,
    /// Pods that hold accelerators and are named by the API server.
    pub named: usize,
    /// Pods that do and are known by the kubelet alone.
    pub unnamed: usize,
    /// Devices that the kubelet gave away and that are no accelerators of this host, as far as it is known here.
    pub unmapped: BTreeMap<Unmapped, usize>,
}

/// What Kubernetes says, as a witness.
#[derive(Debug)]
pub struct KubernetesHolders {
    book: Book,
    /// Pods of which a process was met and nothing told, since when.
    met: RefCell<BTreeMap<String, UtcMillis>>,
    now: UtcMillis,
    inbox: Arc<Inbox>,
    /// They end with this.
    _tasks: JoinSet<()>,
}

impl KubernetesHolders {
    /// Begins to ask. `clock` is the agent's; `host_clock` says whether that is the host's too.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn start(
        options: &KubernetesOptions,
        names: Names,
        clock: &Arc<dyn Clock>,
        host_clock: bool,
    ) -> Self {
        let inbox = Arc::new(Inbox::default());
        let mut tasks = JoinSet::new();
        if let Some(socket) = options.socket.clone() {
            tasks.spawn(keep_asking(socket, options.poll, Arc::clone(&inbox), Arc::clone(clock)));
        }
        if let Some(api) = options.api.clone() {
            let watcher = Watcher {
                options: api,
                node: options.node.clone(),
                tenant_label: options.tenant_label.clone(),
                names: names.clone(),
                inbox: Arc::clone(&inbox),
                clock: Arc::clone(clock),
                kept: Kept::default(),
            };
            inbox.api_begins();
            tasks.spawn(watcher.run());
        }
        let book = Book::new(options, names, host_clock);
        Self { book, met: RefCell::default(), now: UtcMillis(0), inbox, _tasks: tasks }
    }
}

impl Witness for KubernetesHolders {
    fn look(&mut self, seen: &Seen<'_>, news: &mut HolderNews) {
        self.now = seen.now.wall;
        let now = self.now;
        self.met.get_mut().retain(|_, met| now.since(*met) < MET_MS);
        if let Some(devices) = &seen.look.inventory_changed {
            self.book.learn(devices);
        }
        let (answers, pods, kubelet, api) = self.inbox.take();
        self.book.hear(seen.now, &answers, pods, news);
        (self.book.state.kubelet, self.book.state.api) = (kubelet, api);
        if self.book.wants_slices(seen.now) {
            self.inbox.want_slices();
        }
    }

    fn confirm(&mut self) -> Vec<Holding> {
        self.book.recorded()
    }

    fn knows(&self, group: &Group, accelerator: &AcceleratorId) -> Option<Knows> {
        let Group::Pod { uid, .. } = group else { return None };
        if let Some(known) = self.book.pod(uid) {
            return Some(Knows::As(known.principal.clone(), known.attempt.clone()));
        }
        // A pod that nobody has told of yet may hold something by now.
        self.inbox.ask_now();
        let is_new = || {
            let mut met = self.met.borrow_mut();
            if met.len() >= MOST_MET && !met.contains_key(uid) {
                return false;
            }
            let since = *met.entry(uid.clone()).or_insert(self.now);
            self.now.since(since) < GRACE_MS
        };
        // Who knows of all pods and not of this one is not asked whether it is one of those that were given it.
        let covered = self.book.is_given(accelerator) && (!self.book.pods.listed || is_new());
        covered.then_some(Knows::Covered)
    }

    fn report(&self, states: &mut HolderStates) {
        states.kubernetes = self.book.state.clone();
    }
}

/// Asks the API server once; the answer whole.
pub async fn ask(options: &ApiOptions, target: &str) -> Result<Vec<u8>, ApiError> {
    http::get(options, target, "application/json").await
}

/// Asks the kubelet until it is dropped.
async fn keep_asking(socket: PathBuf, poll: Duration, inbox: Arc<Inbox>, clock: Arc<dyn Clock>) {
    let mut said = KubeletState::Unused;
    loop {
        let asked = clock.now().wall;
        let answer = kubelet::list(&socket, DEADLINE).await;
        let heard = clock.now().wall;
        let state = answer.as_ref().map_or_else(KubeletState::of, |_| KubeletState::Ok);
        if state != said {
            match &answer {
                Ok(_) => tracing::info!("the kubelet tells which devices pods were given"),
                Err(error) if error.is_absent() => tracing::info!("there is no socket of a kubelet any more"),
                Err(error) => {
                    tracing::warn!(
                        error = chain(error),
                        "the kubelet does not tell which devices pods were given"
                    );
                }
            }
            said = state;
        }
        inbox.answered(answer.as_ref().map(|pods| Answer { asked, heard, pods: pods.clone() }));
        sleep(LEAST_PAUSE.min(poll)).await;
        tokio::select! {
            () = sleep(poll.saturating_sub(LEAST_PAUSE)) => {}
            () = inbox.asked_for() => {}
        }
    }
}

/// Who holds what, by what was heard. Without input or output.
#[derive(Debug)]
pub struct Book {
    names: Names,
    hosts: [String; 2],
    proc: PathBuf,
    tenant_label: bool,
    /// Whether an API server is asked at all.
    api: bool,
    host_clock: bool,
    accelerators: Accelerators,
    last: Option<Answer>,
    pods: Pods,
    held: Vec<Held>,
    slices_ms: Option<u64>,
    state: KubernetesState,
}

/// What one pod was given.
#[derive(Clone, Debug)]
struct Held {
    namespace: String,
    name: String,
    /// If the API server told it.
    uid: Option<String>,
    /// `None`: not known yet.
    who: Option<(Principal, AttemptId)>,
    accelerators: Vec<AcceleratorId>,
    /// When it was first heard of.
    heard: UtcMillis,
    /// Up to when it is known to go on.
    confirmed: UtcMillis,
    /// Up to when it is in the records that were made.
    recorded: UtcMillis,
    /// When an answer first did not list it any more.
    missed: Option<UtcMillis>,
    open: bool,
}

/// What the API server told of the end of a pod.
enum Told {
    At(UtcMillis),
    /// It still is there.
    NotYet,
    Nothing,
}

impl Held {
    fn is_of(&self, given: &Given) -> bool {
        self.namespace == given.namespace && self.name == given.name
    }
}

impl Book {
    /// Nothing was heard yet.
    pub fn new(options: &KubernetesOptions, names: Names, host_clock: bool) -> Self {
        Self {
            names,
            hosts: [options.host.clone(), options.node.clone()],
            proc: options.proc.clone(),
            tenant_label: options.tenant_label.is_some(),
            api: options.api.is_some(),
            host_clock,
            accelerators: Accelerators::default(),
            last: None,
            pods: Pods::default(),
            held: Vec::new(),
            slices_ms: None,
            state: KubernetesState::default(),
        }
    }

    /// How things are.
    pub fn state(&self) -> &KubernetesState {
        &self.state
    }

    /// Accelerators were found.
    pub fn learn(&mut self, devices: &[Device]) {
        self.accelerators = Accelerators::of(devices, &self.hosts, &self.proc);
        // What was given away may be found now.
        self.pods.version = u64::MAX;
    }

    /// Takes what was heard since the last look.
    pub fn hear(&mut self, now: Now, answers: &[Answer], pods: Pods, news: &mut HolderNews) {
        let changed = self.pods.version != pods.version;
        self.pods = pods;
        for answer in answers {
            let before = self.last.replace(answer.clone()).map(|last| last.asked);
            self.settle(now, Some(before), news);
        }
        let waits = |held: &Held| held.open && (held.who.is_none() || held.missed.is_some());
        let waiting = self.held.iter().any(waits);
        if answers.is_empty() && (changed || waiting) {
            self.settle(now, None, news);
        }
    }

    /// Compares the last answer with what is held. `fresh`: it is new, and when the one before it was.
    fn settle(&mut self, now: Now, fresh: Option<Option<UtcMillis>>, news: &mut HolderNews) {
        let Some(answer) = self.last.take() else { return };
        let mut unmapped = BTreeMap::new();
        let mut listed = vec![false; self.held.len()];
        for given in &answer.pods {
            let accelerators = self.found(given, &mut unmapped);
            if accelerators.is_empty() {
                continue;
            }
            let known = self.known(given);
            // Before Kubernetes 1.34 a kubelet lists what is over too.
            if known.as_ref().is_some_and(|known| known.pod.over) {
                continue;
            }
            let at = answer.asked;
            let place = self.held.iter().position(|held| held.open && held.is_of(given));
            let since = place.map_or(at, |place| self.held[place].heard);
            let mut who = self.who(given, known.as_ref(), now.wall.since(since));
            let mut uid = known.as_ref().map(|known| known.pod.uid.clone());
            // What was told once of a pod that is still there stays.
            if let Some(held) = place.map(|place| &self.held[place]).filter(|_| known.is_none())
                && held.uid.is_some()
            {
                (who, uid) = (held.who.clone(), held.uid.clone());
            }
            let held = place.map(|place| &mut self.held[place]);
            let seen_through = |held: &Held| held.uid.is_some() || at.since(held.confirmed) <= LONGEST_MS;
            let same = |held: &&mut Held| (held.uid.is_none() || held.uid == uid) && seen_through(held);
            let held = held.filter(same);
            // What is heard of a pod now says nothing of whom an answer of before meant by its name.
            let meant = |known: &Known| known.pod.began.is_some_and(|began| began.plus(1000) <= answer.asked);
            if fresh.is_none() && held.is_none() && !known.as_ref().map_or(place.is_none(), meant) {
                continue;
            }
            let (from, heard) = match held {
                Some(held) => {
                    if let Some(listed) = place.and_then(|place| listed.get_mut(place)) {
                        *listed = true;
                    }
                    if fresh.is_some() {
                        held.confirmed = held.confirmed.max(at);
                        held.missed = None;
                    }
                    if held.accelerators == accelerators && (held.who.is_none() || held.who == who) {
                        (held.who, held.uid) = (who, uid);
                        continue;
                    }
                    // The same pod by another name, or with an accelerator that was not known before.
                    held.open = false;
                    news.changed.extend(held.accelerators.iter().cloned());
                    (held.confirmed, held.heard)
                }
                None => (self.began(known.as_ref(), fresh.flatten(), answer.heard), at),
            };
            news.changed.extend(accelerators.iter().cloned());
            self.held.push(Held {
                namespace: given.namespace.clone(),
                name: given.name.clone(),
                uid,
                who,
                accelerators,
                heard,
                confirmed: from.max(at),
                recorded: from,
                missed: None,
                open: true,
            });
        }
        let gone = listed.into_iter().enumerate().filter(|(_, listed)| !listed).map(|(place, _)| place);
        for place in gone {
            if !self.held[place].open {
                continue;
            }
            let missed = self.held[place].missed.or(fresh.map(|_| answer.heard));
            let told = self.end_of(&self.held[place]);
            let by_name = self.by_name(&self.held[place].namespace, &self.held[place].name);
            let held = &mut self.held[place];
            held.missed = missed;
            match told {
                // The kubelet takes back what a pod had before it tells the API server how that ended.
                Told::NotYet if missed.is_none_or(|missed| now.wall.since(missed) < GRACE_MS) => continue,
                Told::At(ended) => {
                    held.confirmed = ended.min(missed.unwrap_or(now.wall)).max(held.recorded);
                }
                Told::NotYet | Told::Nothing => {}
            }
            held.open = false;
            // Nobody will tell any more: it was somebody's all the same.
            held.who = held.who.take().or(by_name);
            news.changed.extend(held.accelerators.iter().cloned());
        }
        self.held.retain(|held| held.open || (held.who.is_some() && held.recorded < held.confirmed));
        let open = || self.held.iter().filter(|held| held.open);
        self.state.named = open().filter(|held| held.uid.is_some()).count();
        self.state.unnamed = open().filter(|held| held.uid.is_none()).count();
        self.state.unmapped = unmapped;
        self.last = Some(answer);
    }

    /// The accelerators among what a pod was given.
    fn found(&self, given: &Given, unmapped: &mut BTreeMap<Unmapped, usize>) -> Vec<AcceleratorId> {
        let devices = given.devices.iter().map(|(resource, id)| self.accelerators.find(resource, id));
        let claims = given.claims.iter().map(|claim| self.accelerators.claimed(claim, &self.pods.slices));
        let mut found = Vec::new();
        for one in devices.chain(claims) {
            match one {
                Ok(ids) => found.extend(ids),
                Err(why) => *unmapped.entry(why).or_default() += 1,
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// What the API server told of a pod that the kubelet lists; of several of one name, the one that is there.
    fn known(&self, given: &Given) -> Option<Known> {
        let is = |known: &&Known| known.pod.namespace == given.namespace && known.pod.name == given.name;
        self.pods.by_uid.values().filter(is).max_by_key(|known| (known.gone.is_none(), known.gone)).cloned()
    }

    /// `waited_ms`: for so long it has been listed.
    fn who(&self, given: &Given, known: Option<&Known>, waited_ms: i64) -> Option<(Principal, AttemptId)> {
        if let Some(known) = known {
            return Some((known.principal.clone(), known.attempt.clone()));
        }
        if self.api && waited_ms < GRACE_MS {
            return None;
        }
        self.by_name(&given.namespace, &given.name)
    }

    /// Whose a pod is of which only the kubelet has told.
    fn by_name(&self, namespace: &str, name: &str) -> Option<(Principal, AttemptId)> {
        let label = if self.tenant_label { Labelled::Unknown } else { Labelled::NotAsked };
        let principal = self.names.principal(namespace, &label);
        Some((principal, self.names.attempt_by_name(namespace, name)?))
    }

    /// When a pod began that an answer shows for the first time which was there at `at`: not before the answer before.
    fn began(&self, known: Option<&Known>, before: Option<UtcMillis>, at: UtcMillis) -> UtcMillis {
        let told = known.and_then(|known| known.pod.began).filter(|_| self.host_clock);
        match (told, before) {
            // Within this second: it is over where that is not known better.
            (Some(told), Some(before)) => told.plus(1000).max(before).min(at),
            _ => at,
        }
    }

    /// When a pod ended that is listed no longer.
    fn end_of(&self, held: &Held) -> Told {
        let known = held.uid.as_ref().and_then(|uid| self.pods.by_uid.get(uid));
        match known {
            Some(Known { pod, .. }) if pod.over => match pod.ended.filter(|_| self.host_clock) {
                Some(ended) => Told::At(ended),
                None => Told::Nothing,
            },
            Some(Known { gone: None, .. }) => Told::NotYet,
            _ => Told::Nothing,
        }
    }

    /// What is told of a pod by what cgroups call it.
    fn pod(&self, uid: &str) -> Option<&Known> {
        let mirrored = || self.pods.by_uid.values().find(|known| known.pod.mirror_of.as_deref() == Some(uid));
        self.pods.by_uid.get(uid).or_else(mirrored)
    }

    /// Whether a pod was given it.
    fn is_given(&self, accelerator: &AcceleratorId) -> bool {
        self.held.iter().any(|held| held.open && held.accelerators.contains(accelerator))
    }

    fn wants_slices(&mut self, now: Now) -> bool {
        let due = self.slices_ms.is_none_or(|last| now.boot_ms.saturating_sub(last) >= SLICES_EVERY_MS);
        let wanted = due && self.api && self.state.unmapped.contains_key(&Unmapped::Slice);
        if wanted {
            self.slices_ms = Some(now.boot_ms);
        }
        wanted
    }

    /// What was held since the last call.
    pub fn recorded(&mut self) -> Vec<Holding> {
        let mut holdings = Vec::new();
        for held in &mut self.held {
            let Some((principal, attempt)) = held.who.clone() else { continue };
            let Some(span) = Span::new(held.recorded, held.confirmed) else { continue };
            held.recorded = held.confirmed;
            let accelerators = held.accelerators.iter().take(MOST_ACCELERATORS).cloned().collect();
            let evidence = Evidence::PodResources;
            holdings.push(Holding { principal, attempt, accelerators, span, evidence });
        }
        self.held.retain(|held| held.open);
        holdings
    }
}

/// Reads whatever is given as each of the things that a kubelet and an API server say: for tests with bytes that nobody
/// wrote. The first byte says which. Must come back.
#[doc(hidden)]
pub fn read_anything(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let names = || Names::new("c", [0; 32]).ok();
    match kind % 5 {
        0 => drop(kubelet::given(bytes)),
        1 => drop(pods::Event::parse(bytes)),
        2 => {
            let Some(page) = pods::Page::parse(bytes) else { return };
            for pod in &page.pods {
                let chain: Vec<_> = pod.owner.clone().into_iter().collect();
                let attempt = names().and_then(|names| names.attempt_of(pod, &chain));
                assert!(attempt.is_some(), "a pod without an attempt");
            }
        }
        3 => drop(slices(bytes)),
        _ => {
            let device = |id: &str| {
                let id = id.parse().ok()?;
                Some(Device::new(id, "x", weighbridge_meter::Source::Nvml, weighbridge_meter::Tier::B))
            };
            let devices: Vec<Device> = ["GPU-a", "MIG-b"].into_iter().filter_map(device).collect();
            let accelerators = Accelerators::of(&devices, &[], "/nonexistent".as_ref());
            for line in String::from_utf8_lossy(bytes).lines().take(64) {
                let (resource, id) = line.split_once(' ').unwrap_or((line, ""));
                let _ = accelerators.find(resource, id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
