//! What `sacct` keeps of jobs: `sacct -D --json`, or `sacct -D -P -X` with times in seconds.
//!
//! `-D` matters: without it a job that was put back shows its last start alone. A start that has no accelerators, or
//! has not begun, is counted and left out. The shape of the JSON changes with each release of Slurm; read here are
//! 22.05 and what later ones made of the same keys: numbers as `{"set": true, "number": 7}`, states as lists.
//! Values are never repeated in a message: a name could be in any.

use serde::Deserialize;
use weighbridge_meter::{AttemptId, Principal, UtcMillis};

use super::{Faults, ImportErrors};

/// One start of a job with accelerators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlurmRow {
    /// `slurm:<cluster>/<job>`
    pub job: AttemptId,
    /// `slurm:<cluster>/<sluid>`, from 26.05 on.
    pub name: Option<AttemptId>,
    /// `slurm:<cluster>/<account>`
    pub principal: Principal,
    /// When this start was submitted or put back.
    pub submitted: UtcMillis,
    /// From.
    pub started: UtcMillis,
    /// To, if it is over.
    pub ended: Option<UtcMillis>,
    /// As `COMPLETED`.
    pub state: String,
    /// As `gpu[1-2]`.
    pub nodes: String,
    /// Accelerators on all nodes; 0 where only shares of them were given.
    pub accelerators: u64,
    /// Shares of an accelerator, where it has no whole ones and is on one node: `mps` or `shard`.
    pub shares: Option<u64>,
    /// How often it was started before, where it is said.
    pub restart: Option<u32>,
    /// `DBIndex`, where it is said.
    pub record: Option<u64>,
    /// The user's number, where it is said.
    pub uid: Option<u32>,
    /// Job and task of an array.
    pub array: Option<(u64, u64)>,
    /// The user's name: not to be kept.
    pub user: Option<String>,
    /// The job's name: not to be kept.
    pub job_name: Option<String>,
    /// Where it ran: not to be kept.
    pub work_directory: Option<String>,
}

/// A number as any release writes it; 0 and what is not set are none where nothing is 0.
#[derive(Clone, Copy, Debug, Default)]
struct Number(Option<u64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Plain(u64),
            Fraction(f64),
            Marked {
                #[serde(default)]
                set: bool,
                #[serde(default)]
                infinite: bool,
                #[serde(default)]
                number: f64,
            },
            Text(String),
            None(()),
        }
        let whole = |number: f64| (0.0..=9e15).contains(&number).then_some(number as u64);
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Plain(number) => Some(number),
            Written::Fraction(number) => whole(number),
            Written::Marked { set: true, infinite: false, number } => whole(number),
            Written::Text(text) => text.parse().ok(),
            Written::Marked { .. } | Written::None(()) => None,
        }))
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    jobs: Option<Vec<Job>>,
}

#[derive(Deserialize)]
struct Job {
    job_id: Number,
    #[serde(default)]
    account: Option<String>,
    #[serde(default)]
    cluster: Option<String>,
    #[serde(default)]
    sluid: Option<String>,
    #[serde(default)]
    restart_cnt: Number,
    #[serde(default)]
    db_index: Number,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    working_directory: Option<String>,
    #[serde(default)]
    nodes: Option<String>,
    #[serde(default)]
    array: Array,
    state: State,
    time: Time,
    tres: Tres,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Array {
    job_id: Number,
    task_id: Number,
}

#[derive(Deserialize)]
struct State {
    current: Names,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Time {
    start: Number,
    end: Number,
    submission: Number,
}

#[derive(Deserialize)]
struct Tres {
    #[serde(default)]
    allocated: Vec<Allocated>,
}

#[derive(Deserialize)]
struct Allocated {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    count: Number,
}

/// Words of Slurm that are kept as they are are no longer than this.
const LONGEST: usize = 4096;

/// Reads a whole file: the rows that begun and have accelerators, and how many others there are.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_slurm(file_name: &str, text: &[u8]) -> Result<(Vec<SlurmRow>, usize), ImportErrors> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut faults = Faults::default();
    let found = if text.trim_ascii_start().first() == Some(&b'{') {
        of_json(text, &mut faults)
    } else {
        of_columns(text, &mut faults)
    };
    if faults.total > 0 {
        return Err(faults.refused(file_name));
    }
    let all = found.len();
    let rows: Vec<SlurmRow> = found.into_iter().flatten().collect();
    let others = all - rows.len();
    Ok((rows, others))
}

fn of_json(text: &[u8], faults: &mut Faults) -> Vec<Option<SlurmRow>> {
    // A name may hold any bytes: no tenant stops an import with one.
    let answer: Answer = match serde_json::from_str(&String::from_utf8_lossy(text)) {
        Ok(answer) => answer,
        Err(error) => {
            let line = u64::try_from(error.line()).unwrap_or(0);
            let expected = "expected an object with a list jobs, as sacct -D --json prints it";
            faults.add(line, None, format!("not the JSON of sacct: {expected}"));
            return Vec::new();
        }
    };
    let Some(jobs) = answer.jobs else {
        // As when it cannot read a time of its own: that is told in its list of errors.
        let problem =
            "there is no list jobs: if sacct tells an error instead, call it without SLURM_TIME_FORMAT";
        faults.add(1, None, problem.into());
        return Vec::new();
    };
    let mut rows = Vec::with_capacity(jobs.len());
    // What is wrong in one is told with its place among the jobs.
    for (job, number) in jobs.into_iter().zip(1..) {
        let mut accelerators = Accelerators::default();
        for Allocated { kind, name, count } in &job.tres.allocated {
            if kind == "gres" {
                accelerators.add(name.as_deref().unwrap_or_default(), count.0.unwrap_or(0));
            }
        }
        let state = match job.state.current {
            Names::One(state) => state,
            Names::Several(states) => states.join(","),
        };
        let read = Read {
            job: job.job_id.0,
            cluster: job.cluster,
            account: job.account,
            sluid: job.sluid,
            submitted: job.time.submission.0,
            started: job.time.start.0,
            ended: job.time.end.0,
            state,
            nodes: job.nodes.unwrap_or_default(),
            accelerators,
            restart: job.restart_cnt.0.and_then(|count| u32::try_from(count).ok()),
            record: job.db_index.0.filter(|index| *index > 0),
            uid: None,
            array: job.array.job_id.0.filter(|job| *job > 0).zip(job.array.task_id.0),
            user: job.user,
            job_name: job.name,
            work_directory: job.working_directory,
        };
        rows.push(read.row(number, faults));
    }
    rows
}

fn of_columns(text: &[u8], faults: &mut Faults) -> Vec<Option<SlurmRow>> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(b'|')
        .quoting(false)
        .flexible(true)
        .has_headers(false)
        .from_reader(text);
    let mut records = reader.byte_records().map_while(Result::ok);
    let header = records.next().unwrap_or_default();
    let place = |column: &str| header.iter().position(|name| name.eq_ignore_ascii_case(column.as_bytes()));
    const NEEDED: [&str; 9] =
        ["JobIDRaw", "Account", "Cluster", "Submit", "Start", "End", "State", "NodeList", "AllocTRES"];
    for column in NEEDED {
        if place(column).is_none() {
            faults.add(
                1,
                Some(column),
                format!("the header lacks this column: expected sacct -D -P -X -o {}", NEEDED.join(",")),
            );
        }
    }
    for column in ["JobName", "WorkDir", "Comment", "SubmitLine"] {
        if place(column).is_some() {
            let why = "tenants write what they like into it, separators and line ends too: leave it out, or use --json";
            faults.add(1, Some(column), why.to_owned());
        }
    }
    if faults.total > 0 {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for (record, line) in records.zip(2..) {
        if record.len() != header.len() {
            // A name may hold what separates columns: which of them is which is not known.
            faults.add(line, None, format!("{} values, expected {}", record.len(), header.len()));
            continue;
        }
        let value = |column: &str| {
            let bytes = place(column).and_then(|place| record.get(place)).unwrap_or_default();
            Some(String::from_utf8_lossy(bytes).trim().to_owned()).filter(|text| !text.is_empty())
        };
        // Steps are lines of their own, `7.batch`.
        let Some(job) = value("JobIDRaw").filter(|job| !job.contains('.')) else { continue };
        let mut wrong = false;
        let mut time = |column: &'static str| match value(column).as_deref() {
            None | Some("Unknown" | "None") => None,
            Some(text) => {
                let parsed = text.parse::<u64>().ok().or_else(|| {
                    let time: UtcMillis = text.parse().ok()?;
                    u64::try_from(time.0 / 1000).ok()
                });
                if parsed.is_none() {
                    wrong = true;
                    let expected = "expected seconds since 1970: set SLURM_TIME_FORMAT=%s when calling sacct";
                    faults.add(line, Some(column), format!("a time without its zone, {expected}"));
                }
                parsed
            }
        };
        let (submitted, started, ended) = (time("Submit"), time("Start"), time("End"));
        if wrong {
            continue;
        }
        let mut accelerators = Accelerators::default();
        for part in value("AllocTRES").unwrap_or_default().split(',') {
            if let Some((name, count)) = part.strip_prefix("gres/").and_then(|part| part.split_once('=')) {
                accelerators.add(name, count.parse().unwrap_or(0));
            }
        }
        // `3_2` is task 2 of array 3.
        let array = value("JobID").and_then(|shown| {
            let (array, task) = shown.split_once('_')?;
            Some((array.parse().ok()?, task.parse().ok()?))
        });
        let number = |column: &str| value(column).and_then(|text| text.parse::<u64>().ok());
        let read = Read {
            job: job.parse().ok(),
            cluster: value("Cluster"),
            account: value("Account"),
            sluid: value("SLUID"),
            submitted,
            started,
            ended,
            // `CANCELLED by 1000`
            state: value("State").unwrap_or_default().split(' ').next().unwrap_or_default().to_owned(),
            nodes: value("NodeList").unwrap_or_default(),
            accelerators,
            restart: number("Restarts").and_then(|count| u32::try_from(count).ok()),
            record: number("DBIndex"),
            uid: number("UID").and_then(|uid| u32::try_from(uid).ok()),
            array,
            user: value("User"),
            job_name: None,
            work_directory: None,
        };
        rows.push(read.row(line, faults));
    }
    rows
}

/// Generic resources that are accelerators or shares of them.
#[derive(Clone, Copy, Debug, Default)]
struct Accelerators {
    /// `gpu`, of all types.
    all: Option<u64>,
    /// `gpu:<type>`: of each type again.
    typed: u64,
    /// `mps` or `shard`, of all types: shares of a device.
    shares: Option<u64>,
    /// `mps:<type>` or `shard:<type>`: of each type again.
    typed_shares: u64,
}

impl Accelerators {
    fn add(&mut self, name: &str, count: u64) {
        match name.split_once(':').unwrap_or((name, "")) {
            ("gpu", "") => self.all = Some(count),
            ("gpu", _) => self.typed = self.typed.saturating_add(count),
            ("mps" | "shard", "") => self.shares = Some(count),
            ("mps" | "shard", _) => self.typed_shares = self.typed_shares.saturating_add(count),
            _ => {}
        }
    }

    /// How many, if any, and how many shares of devices.
    fn count(self) -> Option<(u64, Option<u64>)> {
        let count = self.all.unwrap_or(self.typed);
        let shares = Some(self.shares.unwrap_or(self.typed_shares)).filter(|shares| *shares > 0);
        (count > 0 || shares.is_some()).then_some((count, shares))
    }
}

/// A start as read, before it is believed.
struct Read {
    job: Option<u64>,
    cluster: Option<String>,
    account: Option<String>,
    sluid: Option<String>,
    submitted: Option<u64>,
    started: Option<u64>,
    ended: Option<u64>,
    state: String,
    nodes: String,
    accelerators: Accelerators,
    restart: Option<u32>,
    record: Option<u64>,
    uid: Option<u32>,
    array: Option<(u64, u64)>,
    user: Option<String>,
    job_name: Option<String>,
    work_directory: Option<String>,
}

impl Read {
    fn row(self, place: u64, faults: &mut Faults) -> Option<SlurmRow> {
        let (accelerators, shares) = self.accelerators.count()?;
        // One that waits, or never began.
        let started = self.started.filter(|seconds| *seconds > 0)?;
        let mut fault = |column, problem: &str| faults.add(place, Some(column), problem.into());
        let named = |text: Option<String>| text.filter(|text| !text.is_empty());
        let Some(cluster) = named(self.cluster) else {
            fault("cluster", "blank, expected the cluster's name");
            return None;
        };
        let Some(job) = self.job.filter(|job| *job > 0) else {
            fault("job", "expected a number");
            return None;
        };
        let Some(submitted) = self.submitted.filter(|seconds| *seconds > 0) else {
            fault("submit", "blank, expected when it was submitted");
            return None;
        };
        let principal = match named(self.account) {
            Some(account) => Principal::new("slurm", &cluster, &account),
            None => Principal::unknown("slurm", &cluster),
        };
        let scope = Principal::new("slurm", &cluster, "x").ok();
        let scope = scope.as_ref().and_then(|scope| scope.as_str().strip_suffix("/x"));
        let attempt =
            |name: &str| scope.and_then(|scope| format!("{scope}/{name}").parse::<AttemptId>().ok());
        let (Ok(principal), Some(id)) = (principal, attempt(&job.to_string())) else {
            fault("account", "cluster and account are too long for a name");
            return None;
        };
        let Some([submitted, started]) = moments([submitted, started]) else {
            fault("start", "a time that is none");
            return None;
        };
        // Of a start that was put back at once the end may be the second before.
        let ended = self.ended.filter(|seconds| *seconds > 0).and_then(|ended| moments([ended]));
        let ended = ended.map(|[ended]| ended.max(started));
        if self.nodes.len() > LONGEST || self.state.len() > LONGEST {
            fault("nodes", "longer than 4096 characters");
            return None;
        }
        // Of several nodes or devices it is not known how many of its shares are of which.
        let one_node = !self.nodes.contains(['[', ',']);
        let shares = shares.filter(|_| accelerators == 0 && one_node);
        Some(SlurmRow {
            job: id,
            name: named(self.sluid).and_then(|sluid| attempt(&sluid)),
            principal,
            submitted,
            started,
            ended,
            state: self.state,
            nodes: self.nodes,
            accelerators,
            shares,
            restart: self.restart,
            record: self.record,
            uid: self.uid,
            array: self.array,
            user: named(self.user),
            job_name: named(self.job_name),
            work_directory: named(self.work_directory),
        })
    }
}

/// Seconds since 1970, before the year 10000.
fn moments<const N: usize>(seconds: [u64; N]) -> Option<[UtcMillis; N]> {
    const LAST: u64 = 253_402_300_800;
    let fits = seconds.iter().all(|seconds| *seconds < LAST);
    fits.then(|| seconds.map(|seconds| UtcMillis((seconds * 1000).cast_signed())))
}
