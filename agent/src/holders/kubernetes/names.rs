//! What pods and their attempts are called.
//!
//! Pure. The principal is the namespace, or what a label of the namespace says that the operator named: a pod's own
//! labels are the tenant's. The attempt is the object at the top of those that made the pod, with the number of its
//! restarts where a controller counts them.

use sha2::{Digest as _, Sha256};
use weighbridge_meter::{AttemptId, Principal, identity::BadName};

use super::{
    Labelled,
    pods::{Owner, Pod},
};

/// Names in one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    cluster: String,
    unknown: Principal,
    /// `k8s:<cluster>/`
    prefix: String,
    /// A secret, so that nobody can try names of pods.
    key: [u8; 32],
}

impl Names {
    /// In this cluster; `key` is a secret of this agent.
    pub fn new(cluster: &str, key: [u8; 32]) -> Result<Self, BadName> {
        let unknown = Principal::unknown("k8s", cluster)?;
        let prefix = unknown.as_str().trim_end_matches("%3F").to_owned();
        let names = Self { cluster: cluster.to_owned(), unknown, prefix, key };
        // Whether there is room does not depend on the pod.
        let uid = "01234567-89ab-cdef-0123-456789abcdef";
        names.attempt(&format!("{uid}.{}+{}", u32::MAX, u32::MAX))?;
        Ok(names)
    }

    /// Somebody in this cluster.
    pub fn unknown(&self) -> Principal {
        self.unknown.clone()
    }

    /// Whose the pods of a namespace are.
    pub fn principal(&self, namespace: &str, label: &Labelled) -> Principal {
        let name = match label {
            Labelled::NotAsked => Some(namespace),
            Labelled::As(value) => Some(value.as_str()),
            Labelled::Without | Labelled::Unknown => None,
        };
        let named = name.and_then(|name| Principal::new("k8s", &self.cluster, name).ok());
        named.unwrap_or_else(|| self.unknown())
    }

    fn attempt(&self, name: &str) -> Result<AttemptId, BadName> {
        format!("{}{name}", self.prefix).parse()
    }

    /// In which attempt a pod is. `chain` is who made it, who made that, and so on.
    pub fn attempt_of(&self, pod: &Pod, chain: &[Owner]) -> Option<AttemptId> {
        let Some(top) = chain.last() else { return self.attempt(&format!("pod/{}", pod.uid)).ok() };
        let is = |kind: &str| chain.iter().any(|owner| owner.kind == kind);
        let mut name = top.uid.clone();
        if let Some(group) = pod.marks.group.filter(|_| is("LeaderWorkerSet")) {
            name.push_str(&format!(".{group}"));
        }
        if let Some(restart) = pod.marks.restart.filter(|restart| *restart > 0 && is("JobSet")) {
            name.push_str(&format!("+{restart}"));
        }
        self.attempt(&name).ok()
    }

    /// What stands for the attempt of a pod of which only the kubelet has told: what makes its name known again on
    /// this host, and nowhere else.
    pub fn attempt_by_name(&self, namespace: &str, name: &str) -> Option<AttemptId> {
        let mut digest = Sha256::new();
        digest.update(b"weighbridge-pod-name-v1\0");
        digest.update(self.key);
        for part in [namespace, name] {
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(part);
        }
        let digest: [u8; 32] = digest.finalize().into();
        self.attempt(&format!("pod-name/{}", weighbridge_meter::identity::hex(&digest[..16]))).ok()
    }
}

/// Whether a climb ends below an object of this kind: each of what it makes is an attempt of its own.
pub(super) fn is_schedule(kind: &str) -> bool {
    kind.starts_with("Cron") || kind.starts_with("Scheduled")
}

/// Where an object is asked for.
pub(super) fn path_of(namespace: &str, owner: &Owner) -> String {
    let root = if owner.api.contains('/') { "apis" } else { "api" };
    format!("/{root}/{}/namespaces/{namespace}/{}/{}", owner.api, plural(&owner.kind), owner.name)
}

fn plural(kind: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    match kind.as_bytes() {
        [.., b's' | b'x' | b'z'] | [.., b'c' | b's', b'h'] => format!("{kind}es"),
        [.., before, b'y'] if !b"aeiou".contains(before) => format!("{}ies", &kind[..kind.len() - 1]),
        _ => format!("{kind}s"),
    }
}
