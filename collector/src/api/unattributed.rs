//! Time that nobody is known to have held: how much for which reason, where, and what would mend it.

use std::collections::BTreeMap;

use serde::Serialize;
use weighbridge_store::{account::TimeAccount, hour::Unattributed};

/// One reason, with the time that has no holder for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct UnattributedJson {
    pub(crate) reason: Unattributed,
    pub(crate) time_ms: u64,
    /// Where, those with most first.
    pub(crate) hosts: Vec<HostShare>,
    #[serde(flatten)]
    pub(crate) words: Words,
}

/// Of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct HostShare {
    pub(crate) host: String,
    pub(crate) time_ms: u64,
}

/// A reason in plain words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Words {
    /// What it is.
    pub(crate) means: &'static str,
    /// What somebody can do about it.
    pub(crate) to_do: &'static str,
}

impl From<Unattributed> for Words {
    fn from(reason: Unattributed) -> Self {
        let (means, to_do) = match reason {
            Unattributed::NoEvidence => (
                "nobody said who held it, while it was used or not seen",
                "run `weighbridge-agent doctor` on the host: it says what can be known of holders there and what is \
                 missing for it. Where it is Slurm's, a kubelet's or libvirt's, let the agent hear of it from them; \
                 where it is leased, import the lease",
            ),
            Unattributed::NotBelieved => (
                "only an agent said who held it whose word does not count there: it never reported the accelerator, or \
                 it is a tenant's where one of yours reports it too",
                "let the agent that reports the accelerator know its holders, and ask how the other comes to speak of it",
            ),
            Unattributed::Unnamed => (
                "somebody's job, pod or machine held it, and no record says whose that is",
                "import what the scheduler keeps (`weighbridge-collector import slurm jobs.json`), or let the agent \
                 learn it on the host: Slurm's hooks, the API server of Kubernetes. A record that comes late counts \
                 all the same",
            ),
            Unattributed::TooManyClaims => (
                "more is said of who held it than can be weighed",
                "look at the agents of the host: no scheduler gives one accelerator away so often",
            ),
        };
        Self { means, to_do }
    }
}

impl UnattributedJson {
    /// Every reason, of these hosts; also those for which nothing is.
    pub(crate) fn of(hosts: &BTreeMap<&str, TimeAccount>) -> Vec<Self> {
        let of_reason = |reason: Unattributed| {
            let of_host = |(host, time): (&&str, &TimeAccount)| HostShare {
                host: (*host).to_owned(),
                time_ms: time.unattributed_ms.get(&reason).copied().unwrap_or_default(),
            };
            let mut hosts: Vec<HostShare> =
                hosts.iter().map(of_host).filter(|share| share.time_ms > 0).collect();
            hosts.sort_by(|a, b| b.time_ms.cmp(&a.time_ms).then_with(|| a.host.cmp(&b.host)));
            let time_ms = hosts.iter().map(|share| share.time_ms).sum();
            Self { reason, time_ms, hosts, words: reason.into() }
        };
        Unattributed::ALL.into_iter().map(of_reason).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_told_and_hosts_with_most_come_first() {
        let time = |millis: &[(Unattributed, u64)]| TimeAccount {
            unattributed_ms: millis.iter().copied().collect(),
            ..TimeAccount::default()
        };
        let hosts = BTreeMap::from([
            ("a", time(&[(Unattributed::Unnamed, 1), (Unattributed::NoEvidence, 5)])),
            ("b", time(&[(Unattributed::Unnamed, 7)])),
            ("c", time(&[])),
        ]);
        let told = UnattributedJson::of(&hosts);
        assert_eq!(told.iter().map(|one| one.reason).collect::<Vec<_>>(), Unattributed::ALL);
        let unnamed = &told[2];
        let shares: Vec<_> = unnamed.hosts.iter().map(|one| (one.host.as_str(), one.time_ms)).collect();
        assert_eq!((unnamed.time_ms, shares), (8, vec![("b", 7), ("a", 1)]));
        assert_eq!((told[1].time_ms, told[1].hosts.len()), (0, 0));
    }
}
