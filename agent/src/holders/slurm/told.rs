//! What Slurm's prolog and epilog told, as it lies in the folder between them and the agent.
//!
//! One file for each start of a job on a node, `slurm-<cluster>-<job>-<restart>-<began>-<node>.open.json` from the
//! prolog on and `.ended.json` in its place from the epilog on, put there by rename. `<began>` is in milliseconds
//! since boot: numbers of jobs and of restarts come back. Names are cut down to letters, digits and `_`, so a name is
//! a key and nothing that is believed. No name of a job or a person and no path is in it.
//!
//! Where the disk is full, the file of an end is that of the beginning under another name: then it ended when the
//! file was last changed. An epilog that finds no beginning leaves `.over.json`, for a prolog that comes late.

use serde::{Deserialize, Serialize};
use weighbridge_meter::{AttemptId, BootId, Principal, UtcMillis, identity::BadName, meter::Now};

/// How a file of a start that goes on ends.
pub const OPEN: &str = ".open.json";
/// How one of a start that is over ends.
pub const ENDED: &str = ".ended.json";
/// How what an epilog leaves ends that found no start.
pub const OVER: &str = ".over.json";

/// A longer file is none of ours.
pub const LONGEST: u64 = 16 << 10;

/// The only form there is yet.
pub const VERSION: u32 = 1;

/// Longest text that is taken over from Slurm's environment.
const LONGEST_TEXT: usize = 200;
/// The same of the list of accelerators.
const LONGEST_LIST: usize = 8 << 10;

/// One start of a job on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// [`VERSION`].
    pub version: u32,
    /// Which cluster.
    pub cluster: String,
    /// Its own number, also of a task of an array.
    pub job: u64,
    /// Slurm 26.05 and later: a name that is new at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sluid: Option<String>,
    /// How often it was started before.
    pub restart: u32,
    /// Whose it is, if the cluster keeps accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The number of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Which node.
    pub node: String,
    /// `SLURM_JOB_GPUS`: numbers in Slurm's own order, or UUIDs. An epilog need not know them.
    pub gpus: String,
    /// In which boot.
    pub boot: BootId,
    /// When the prolog ran; of what an epilog says, the same as its end.
    pub began: Moment,
    /// When the epilog began; nothing where the disk had no room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Moment>,
}

/// A moment by both clocks of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// Milliseconds since boot: what counts.
    pub boot_ms: u64,
    /// Wall clock: for an agent that came after the boot.
    pub wall: UtcMillis,
}

impl From<Now> for Moment {
    fn from(now: Now) -> Self {
        Self { boot_ms: now.boot_ms, wall: now.wall }
    }
}

/// Which of the two scripts speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The job is about to begin.
    Prolog,
    /// It is over.
    Epilog,
}

/// Slurm's environment is not that of an epilog, or of a prolog with accelerators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTold {
    /// A job without accelerators, which is no matter of ours.
    #[error("the job has no accelerators")]
    NoAccelerators,
    /// Called from somewhere else.
    #[error("{variable} is {value:?}, expected {expected}: is this Slurm's prolog or epilog?")]
    Variable {
        /// Which variable.
        variable: &'static str,
        /// What it says; nothing where it is not set.
        value: String,
        /// What it may say.
        expected: &'static str,
    },
}

impl Told {
    /// What the environment of a prolog or epilog says, at this moment.
    pub fn read(
        variable: &dyn Fn(&str) -> Option<String>,
        boot: BootId,
        now: Now,
    ) -> Result<(Event, Self), NotTold> {
        let wrong = |name: &'static str, expected| NotTold::Variable {
            variable: name,
            value: variable(name).unwrap_or_default().chars().take(80).collect(),
            expected,
        };
        let text = |name: &str| {
            let text = variable(name).filter(|text| !text.is_empty() && text != "(null)")?;
            let fits = text.len() <= LONGEST_TEXT && text.bytes().all(|byte| byte.is_ascii_graphic());
            fits.then_some(text)
        };
        const CONTEXT: &str = "SLURM_SCRIPT_CONTEXT";
        let event = match text(CONTEXT).as_deref() {
            Some("prolog_slurmd") => Event::Prolog,
            Some("epilog_slurmd") => Event::Epilog,
            _ => return Err(wrong(CONTEXT, "prolog_slurmd or epilog_slurmd")),
        };
        let cluster =
            text("SLURM_CLUSTER_NAME").ok_or_else(|| wrong("SLURM_CLUSTER_NAME", "the name of a cluster"))?;
        let job = text("SLURM_JOB_ID").and_then(|text| text.parse().ok());
        let job = job.ok_or_else(|| wrong("SLURM_JOB_ID", "a number"))?;
        let node = text("SLURMD_NODENAME").ok_or_else(|| wrong("SLURMD_NODENAME", "the name of a node"))?;
        // Where no accelerator is a number, as of shares, the visible ones are the next best.
        let list = ["SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES"].into_iter().find_map(|name| {
            variable(name)
                .filter(|list| !list.is_empty() && list.len() <= LONGEST_LIST && list != "NoDevFiles")
        });
        let gpus = match (list, event) {
            (Some(list), _) => list,
            // Which they were, the prolog told.
            (None, Event::Epilog) => String::new(),
            (None, Event::Prolog) => return Err(NotTold::NoAccelerators),
        };
        let told = Self {
            version: VERSION,
            cluster,
            job,
            sluid: text("SLURM_JOB_SLUID"),
            restart: text("SLURM_JOB_RESTART_COUNT").and_then(|text| text.parse().ok()).unwrap_or(0),
            account: text("SLURM_JOB_ACCOUNT"),
            uid: text("SLURM_JOB_UID").and_then(|text| text.parse().ok()),
            node,
            gpus,
            boot,
            began: now.into(),
            ended: matches!(event, Event::Epilog).then(|| now.into()),
        };
        Ok((event, told))
    }

    /// What a file says; `None` if it is not one of these, or of what cannot be.
    pub fn parse(text: &[u8]) -> Option<Self> {
        /// No host is up for longer, and no time is before 1970 or after the year 9000.
        const LONGEST_MS: u64 = 100 * 366 * 86_400_000;
        const LAST: UtcMillis = UtcMillis(222_000_000_000_000);
        let told: Self = serde_json::from_slice(text).ok()?;
        let is = |moment: &Moment| moment.boot_ms < LONGEST_MS && (UtcMillis(0)..LAST).contains(&moment.wall);
        let can_be = told.version == VERSION
            && told.principal().is_ok()
            && told.attempt().is_ok()
            && is(&told.began)
            && told.ended.as_ref().is_none_or(|ended| is(ended) && ended.boot_ms >= told.began.boot_ms);
        can_be.then_some(told)
    }

    /// The name of the file of this start, without its ending.
    pub fn name(&self) -> String {
        let (begin, end) = self.around();
        format!("{begin}{}-{}{end}", self.restart, self.began.boot_ms)
    }

    /// Which start of this job on this node a name is of, the later the greater: how often it was started before,
    /// and when it began. Names without that are of an older agent's.
    pub fn start(&self, name: &str) -> Option<(u32, u64)> {
        let (begin, end) = self.around();
        let start = name.strip_prefix(&begin)?.strip_suffix(&end)?;
        let (restart, began) = start.split_once('-').unwrap_or((start, "0"));
        Some((restart.parse().ok()?, began.parse().ok()?))
    }

    /// Whether both are of the same start, whenever each was told.
    pub fn is_same(&self, other: &Self) -> bool {
        *self == Self { began: self.began, ended: self.ended, ..other.clone() }
    }

    /// What the names of all files of this job on this node begin and end with.
    fn around(&self) -> (String, String) {
        (format!("slurm-{}-{}-", plain(&self.cluster), self.job), format!("-{}", plain(&self.node)))
    }

    /// Whose it is.
    pub fn principal(&self) -> Result<Principal, BadName> {
        match &self.account {
            Some(account) => Principal::new("slurm", &self.cluster, account),
            None => Principal::unknown("slurm", &self.cluster),
        }
    }

    /// Which attempt it is.
    pub fn attempt(&self) -> Result<AttemptId, BadName> {
        let job = match (&self.sluid, self.restart) {
            (Some(sluid), _) => sluid.clone(),
            (None, 0) => self.job.to_string(),
            (None, restart) => format!("{}+{restart}", self.job),
        };
        // As a principal's scope is written.
        let of = Principal::new("slurm", &self.cluster, "x")?;
        let scope = of.as_str().strip_suffix("/x").unwrap_or_default();
        format!("{scope}/{job}").parse()
    }
}

fn plain(text: &str) -> String {
    text.chars().take(60).map(|char| if char.is_ascii_alphanumeric() { char } else { '_' }).collect()
}
