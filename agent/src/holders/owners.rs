//! The users whose processes have a device open.
//!
//! A process that a driver names and the system does not know holds nothing: drivers report such. A user's
//! holding runs from the first look that showed a process of theirs to the last; in between it is confirmed
//! once a batch. When looks failed for longer than a minute, the time in between is not claimed.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};
use weighbridge_meter::{
    AcceleratorId, AttemptId, BootId, Evidence, Holding, Principal, Span, UtcMillis, identity::BadName,
    meter::Now,
};

use crate::{engine::HolderNews, source::Look};

/// Two sightings further apart than this do not make one holding.
const LONGEST_MS: i64 = 60_000;

/// Who owns a process.
pub trait OwnerLookup: Send {
    /// The user's number, or `None` if there is no such process.
    fn uid(&mut self, pid: u32) -> Option<u32>;
}

/// The system's own table of processes; looks only at those it is asked for.
pub struct ProcessTable(System);

impl ProcessTable {
    /// An error means that the system has no such table.
    pub fn new() -> Result<Self, sysinfo::Error> {
        System::new().map(Self)
    }
}

impl OwnerLookup for ProcessTable {
    fn uid(&mut self, pid: u32) -> Option<u32> {
        let pid = Pid::from_u32(pid);
        let kind = ProcessRefreshKind::nothing().with_user(UpdateKind::Always).without_tasks();
        self.0.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
        self.0.process(pid)?.user_id().map(|uid| **uid)
    }
}

/// Users as holders.
pub struct ProcessOwners {
    class: String,
    boot: BootId,
    lookup: Box<dyn OwnerLookup>,
    held: Vec<Held>,
    ended: Vec<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    accelerator: AcceleratorId,
    uid: u32,
    from: UtcMillis,
    to: UtcMillis,
}

impl std::fmt::Debug for ProcessOwners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessOwners")
            .field("class", &self.class)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl ProcessOwners {
    /// `class` names a set of hosts on which a user number means the same person.
    pub fn new(class: &str, boot: BootId, lookup: Box<dyn OwnerLookup>) -> Result<Self, BadName> {
        // Whether a class makes a name does not depend on the number, at most ten digits.
        Principal::new("uid", class, &u32::MAX.to_string())?;
        Ok(Self { class: class.to_owned(), boot, lookup, held: Vec::new(), ended: Vec::new() })
    }

    pub(super) fn look(&mut self, now: Now, look: &Look, news: &mut HolderNews) {
        for device in &look.devices {
            let Some(pids) = &device.pids else { continue };
            let mut uids: Vec<u32> = pids.iter().filter_map(|&pid| self.lookup.uid(pid)).collect();
            uids.sort_unstable();
            uids.dedup();
            if self.see(&device.id, &uids, now.wall) {
                news.changed.push(device.id.clone());
            }
        }
    }

    /// Whether other users hold the device than at the last sighting.
    fn see(&mut self, id: &AcceleratorId, uids: &[u32], wall: UtcMillis) -> bool {
        let mut changed = false;
        for uid in uids {
            match self.held.iter_mut().find(|held| held.accelerator == *id && held.uid == *uid) {
                Some(held) if wall.since(held.to) <= LONGEST_MS => held.to = wall,
                Some(held) => {
                    self.ended.push(held.clone());
                    (held.from, held.to) = (wall, wall);
                }
                None => {
                    self.held.push(Held { accelerator: id.clone(), uid: *uid, from: wall, to: wall });
                    changed = true;
                }
            }
        }
        let ended = &mut self.ended;
        self.held.retain(|held| {
            let stays = held.accelerator != *id || uids.contains(&held.uid);
            if !stays {
                ended.push(held.clone());
                changed = true;
            }
            stays
        });
        changed
    }

    /// What was held since the last call; accelerators of one user and span in one record.
    pub(super) fn confirm(&mut self) -> Vec<Holding> {
        let mut spans: Vec<Held> = std::mem::take(&mut self.ended);
        for held in &mut self.held {
            spans.push(held.clone());
            held.from = held.to;
        }
        let mut holdings: Vec<Holding> = Vec::new();
        for Held { accelerator, uid, from, to } in spans {
            let Some(span) = Span::new(from, to) else { continue };
            let Some((principal, attempt)) = self.names(uid) else { continue };
            let same = holdings.iter_mut().find(|other| other.span == span && other.principal == principal);
            match same {
                Some(other) => other.accelerators.push(accelerator),
                None => holdings.push(Holding {
                    principal,
                    attempt,
                    accelerators: vec![accelerator],
                    span,
                    evidence: Evidence::ProcessOwner,
                }),
            }
        }
        holdings
    }

    fn names(&self, uid: u32) -> Option<(Principal, AttemptId)> {
        let principal = Principal::new("uid", &self.class, &uid.to_string()).ok()?;
        let attempt = format!("{principal}@{}", self.boot).parse().ok()?;
        Some((principal, attempt))
    }
}
