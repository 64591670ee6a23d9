//! What the kubelet and the API server told, on its way from the tasks that ask to the look that takes it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use weighbridge_meter::UtcMillis;

use super::{
    ApiState, KubeletState,
    api::Known,
    devices::Slices,
    http::ApiError,
    kubelet::{Given, KubeletError},
};

/// Answers that wait for a look. There is one every few seconds and a look each second.
const MOST_ANSWERS: usize = 64;

/// What every pod was given, as of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When it was asked: what it says was so then or later.
    pub asked: UtcMillis,
    /// When the answer was there: what it says was so by then.
    pub heard: UtcMillis,
    /// Every pod.
    pub pods: Vec<Given>,
}

/// What the API server told so far.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    /// Whether everything was told once.
    pub listed: bool,
    /// By their identifiers.
    pub by_uid: Arc<BTreeMap<String, Known>>,
    /// What drivers of claims call their devices.
    pub slices: Arc<Slices>,
    /// Counts what changed.
    pub version: u64,
}

/// Between tasks and looks.
#[derive(Debug, Default)]
pub struct Inbox {
    held: Mutex<Held>,
    ask_now: Notify,
    slices: Notify,
}

#[derive(Debug, Default)]
struct Held {
    kubelet: KubeletState,
    api: ApiState,
    answers: VecDeque<Answer>,
    pods: Pods,
}

impl Inbox {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a kubelet answered.
    pub fn answered(&self, answer: Result<Answer, &KubeletError>) {
        let mut held = self.held();
        held.kubelet = match answer {
            Ok(answer) => {
                if held.answers.len() >= MOST_ANSWERS {
                    held.answers.pop_front();
                }
                held.answers.push_back(answer);
                KubeletState::Ok
            }
            Err(error) => KubeletState::of(error),
        };
    }

    pub(super) fn api_begins(&self) {
        self.held().api = ApiState::Connecting;
    }

    pub(super) fn api_is(&self, error: Option<&ApiError>) {
        self.held().api = match error {
            None => ApiState::Ok,
            Some(error) => ApiState::of(error),
        };
    }

    /// What the API server told.
    pub fn pods_are(&self, pods: &BTreeMap<String, Known>, slices: &Slices) {
        let mut held = self.held();
        let known = &mut held.pods;
        known.listed = true;
        if *known.by_uid != *pods {
            known.by_uid = Arc::new(pods.clone());
            known.version += 1;
        }
        if *known.slices != *slices {
            known.slices = Arc::new(slices.clone());
            known.version += 1;
        }
        drop(held);
        // What became of pods, the kubelet knows more of.
        self.ask_now.notify_one();
    }

    /// What came since the last call, and how both are.
    pub(super) fn take(&self) -> (Vec<Answer>, Pods, KubeletState, ApiState) {
        let mut held = self.held();
        let answers = held.answers.drain(..).collect();
        (answers, held.pods.clone(), held.kubelet, held.api)
    }

    /// Something happened that the kubelet should be asked about now.
    pub(super) fn ask_now(&self) {
        self.ask_now.notify_one();
    }

    pub(super) async fn asked_for(&self) {
        self.ask_now.notified().await;
    }

    /// There is a device of a claim that no slice explains.
    pub(super) fn want_slices(&self) {
        self.slices.notify_one();
    }

    pub(super) async fn slices_wanted(&self) {
        self.slices.notified().await;
    }
}
