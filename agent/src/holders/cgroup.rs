//! What `/proc/<pid>/cgroup` says of who made the groups that a process lies in.
//!
//! Pure: text in, [`Placed`] out. A path is read from its top, and only as far as root made it. What lies below a
//! user's manager, a container, a pod's container, a job, a machine or a service belongs to whoever runs there, who
//! may call directories there what they like: `job_1` and `kubepods` included. So the outermost decides, and
//! nothing below it is looked at. A group of the operator's own that holds others, as the container of a `kind` node
//! does, has to be configured ([`Roots`]).
//!
//! With cgroup v1 and in hybrid there is a line for each hierarchy; the one that says most decides. Where two name
//! different jobs, pods, machines or containers, none of them is believed.
//!
//! A shape that is not known is [`Placed::Unknown`], also below directories of a known allocator: a Slurm of the
//! future is not to be taken for a service.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// More bytes than this are no such file: a path has at most 4,096, and there are at most some twenty lines.
pub const LONGEST_FILE: u64 = 128 << 10;

/// Where a process lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// In a group that somebody made, who is known by its shape.
    In(Group),
    /// In no group at all, in any hierarchy.
    Nowhere,
    /// In a group of a shape that is not known; somebody's all the same, by what another hierarchy says or by whose
    /// process it is.
    Unknown(PathDigest, Person),
    /// In groups of two makers that exclude each other.
    Contradictory(PathDigest),
}

/// A group, as far as root made it. It carries names of the system, numbers and identifiers, and no text that a
/// tenant chose but the domain's name, which is for finding the machine here and goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// A job of Slurm: its number, or its 14-character SLUID.
    SlurmJob(String),
    /// A pod of Kubernetes.
    Pod {
        /// As the API server writes it; of a static pod, 32 hexadecimal digits.
        uid: String,
        /// The container in it, if the path goes on to it.
        container: Option<String>,
    },
    /// A virtual machine of libvirt.
    Machine {
        /// libvirt's number of this run of it, unique until libvirt's host boots.
        number: u32,
        /// What the domain is called, as far as the name of a group can hold it.
        domain: String,
    },
    /// A container that no pod holds, by its 64 hexadecimal digits.
    Container(String),
    /// A unit of the system's service manager.
    Unit(String),
    /// Somebody's login or manager of services.
    Person(Person),
}

/// How the user is found of what is somebody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Person {
    /// Something that a daemon started for a user: whose process it is. A login that nobody set can be set by the
    /// process itself.
    Owner,
    /// Something that a login made: who logged in.
    Login,
    /// In the slice of this user, which the login manager made.
    Slice(u32),
}

/// The first half of what makes a path known again: SHA-256, eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathDigest([u8; 4]);

impl PathDigest {
    /// Of any bytes.
    pub(super) fn of(path: &[u8]) -> Self {
        let hash: [u8; 32] = Sha256::digest(path).into();
        Self([hash[0], hash[1], hash[2], hash[3]])
    }
}

impl fmt::Display for PathDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Groups of the operator's own below which allocators are looked for as if they were the top, as the container of
/// a `kind` node. Without them nothing in a container is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots(Vec<Vec<String>>);

impl Roots {
    /// From paths such as `/docker/*`, where `*` stands for any one directory. The first that is none is an error.
    pub fn new(paths: &[String]) -> Result<Self, String> {
        let root = |path: &String| {
            let parts: Vec<String> = parts(path).map(str::to_owned).collect();
            let good = path.starts_with('/') && !parts.is_empty() && !parts.iter().any(|part| is_dots(part));
            good.then_some(parts).ok_or_else(|| path.clone())
        };
        paths.iter().map(root).collect::<Result<_, _>>().map(Self)
    }

    /// What remains below the longest of them that `path` lies in.
    fn below<'a>(&self, path: &'a [&'a str]) -> Option<&'a [&'a str]> {
        let fits = |root: &&Vec<String>| {
            let matches = |(want, have): (&String, &&str)| want == "*" || want == have;
            root.len() < path.len() && root.iter().zip(path).all(matches)
        };
        let longest = self.0.iter().filter(fits).map(Vec::len).max()?;
        path.get(longest..)
    }
}

/// Reads a whole file.
pub fn read(file: &[u8], roots: &Roots) -> Placed {
    let mut groups: Vec<(Standing, Group, PathDigest)> = Vec::new();
    let mut unknown = None;
    for line in file.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        // Number, controllers, path; a path may hold colons.
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            unknown = unknown.or(Some(PathDigest::of(line)));
            continue;
        };
        match place(&String::from_utf8_lossy(path), roots) {
            Read::Top => {}
            Read::Unknown => unknown = unknown.or(Some(PathDigest::of(path))),
            Read::Group(group) => {
                groups.push((Standing::of(&group, controllers), group, PathDigest::of(path)));
            }
        }
    }
    // The same whatever the order of lines. Of a pod the one that goes on to a container is the greater.
    groups.sort_unstable();
    let best = groups.pop();
    let contradicts = best.as_ref().and_then(|(standing, group, _)| {
        let others = groups.iter().filter(|(other, ..)| other == standing);
        others.filter(|(_, other, _)| !other.is_same(group)).map(|(.., digest)| *digest).next()
    });
    match (best, contradicts, unknown) {
        (Some((standing, ..)), Some(digest), _) if standing >= Standing::Container => {
            Placed::Contradictory(digest)
        }
        (Some((standing, group, _)), ..) if standing >= Standing::Container => Placed::In(group),
        (Some((_, Group::Person(person), _)), _, Some(digest)) => Placed::Unknown(digest, person),
        (_, _, Some(digest)) => Placed::Unknown(digest, Person::Owner),
        (Some((_, group, _)), ..) => Placed::In(group),
        (None, ..) => Placed::Nowhere,
    }
}

/// Which line decides, least first. A unit is what the service manager's own hierarchy says: the others follow it
/// only as far as they have to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Elsewhere,
    Managed,
    Unified,
    Container,
    Allocator,
}

impl Standing {
    fn of(group: &Group, controllers: &[u8]) -> Self {
        match group {
            Group::SlurmJob(_) | Group::Pod { .. } | Group::Machine { .. } => Self::Allocator,
            Group::Container(_) => Self::Container,
            Group::Unit(_) | Group::Person(_) => match controllers {
                b"" => Self::Unified,
                b"name=systemd" => Self::Managed,
                _ => Self::Elsewhere,
            },
        }
    }
}

impl Group {
    /// Whether both are one, whichever goes on to the container.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pod { uid, container }, Self::Pod { uid: with, container: and }) => {
                uid == with && (container.is_none() || and.is_none() || container == and)
            }
            _ => self == other,
        }
    }
}

/// What one path says.
enum Read {
    Top,
    Group(Group),
    Unknown,
}

fn place(path: &str, roots: &Roots) -> Read {
    // Of a process that outlived its group.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    if !path.starts_with('/') {
        return Read::Unknown;
    }
    // As seen from another cgroup namespace: up to an ancestor of the agent's own group, which root made.
    let from_inside = parts(path).next() == Some("..");
    let path: Vec<&str> = parts(path).skip_while(|part| *part == "..").collect();
    if path.iter().any(|part| is_dots(part)) {
        return Read::Unknown;
    }
    if let (true, Some(group)) = (from_inside, beside(&path)) {
        return Read::Group(group);
    }
    match roots.below(&path).map(walk) {
        Some(Read::Group(group)) if Standing::of(&group, b"") == Standing::Allocator => Read::Group(group),
        _ => walk(&path),
    }
}

/// What directories say without those above them.
fn beside(path: &[&str]) -> Option<Group> {
    match (pod_in_directories(path), path.first()?) {
        (Read::Group(pod), _) => Some(pod),
        (_, name) => hex(name, 64).map(Group::Container),
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

fn is_dots(part: &str) -> bool {
    matches!(part, "." | "..")
}

/// From the top down, through what root made, to the first that says who.
fn walk(path: &[&str]) -> Read {
    let mut slice = None;
    let mut rest = path;
    while let Some((&part, below)) = rest.split_first() {
        rest = below;
        if let Some(name) = part.strip_suffix(".slice") {
            if let Some(person) = person_of_slice(name, below) {
                return Read::Group(person);
            }
            if is_kubepods_slice(name) {
                return pod_in_slices(part, below);
            }
            slice = Some(part);
            continue;
        }
        if let Some(group) = notation(part) {
            return Read::Group(group);
        }
        if let Some(name) = part.strip_suffix(".scope") {
            return scope(part, name, below);
        }
        if let Some(name) = part.strip_suffix(".service") {
            return service(part, name, below);
        }
        return match part {
            // The kubelet's own top, `--cgroup-root`; Podman's.
            "kubelet" | "libpod_parent" if !below.is_empty() => continue,
            "kubepods" => pod_in_directories(below),
            "docker" => container_directory(below),
            "machine" => {
                below.first().and_then(|name| machine_directory(name)).map_or(Read::Unknown, Read::Group)
            }
            _ if part == "slurm" || part.starts_with("slurm_") => slurm_v1(below),
            _ => podman(part).map_or(Read::Unknown, |id| Read::Group(Group::Container(id))),
        };
    }
    slice.map_or(Read::Top, |slice| Read::Group(Group::Unit(slice.to_owned())))
}

/// `user.slice`, `user-1000.slice`.
fn person_of_slice(name: &str, below: &[&str]) -> Option<Group> {
    let of = |name: &str| name.strip_prefix("user-").and_then(number);
    if name == "user" {
        let uid = below.first().and_then(|part| part.strip_suffix(".slice")).and_then(of);
        return Some(Group::Person(uid.map_or(Person::Login, Person::Slice)));
    }
    of(name).map(|uid| Group::Person(Person::Slice(uid)))
}

/// `kubepods`, its classes and its pods, below whatever the kubelet was told to put them in: `kubelet-kubepods-...`.
fn is_kubepods_slice(name: &str) -> bool {
    name.split('-').any(|word| word == "kubepods")
}

fn pod_in_slices(first: &str, below: &[&str]) -> Read {
    // `kubepods.slice`, as a rule a class, the pod: at most three, each with the name of the one before in front.
    let slices = std::iter::once(&first).chain(below).take(4).enumerate();
    let mut before: Option<&str> = None;
    for (index, part) in slices {
        let Some(name) = part.strip_suffix(".slice") else { break };
        let inside =
            before.is_none_or(|before| name.strip_prefix(before).is_some_and(|rest| rest.starts_with('-')));
        if !inside {
            break;
        }
        if let Some(uid) = pod_slice(name) {
            let container = below.get(index).and_then(|part| container_scope(part)).map(|(_, id)| id);
            return Read::Group(Group::Pod { uid, container });
        }
        before = Some(name);
    }
    Read::Unknown
}

/// `kubepods-burstable-pod01234567_89ab_cdef_0123_456789abcdef`, without the class where quality is guaranteed.
fn pod_slice(name: &str) -> Option<String> {
    let (above, uid) = name.rsplit_once("-pod")?;
    let above =
        above.strip_suffix("-burstable").or_else(|| above.strip_suffix("-besteffort")).unwrap_or(above);
    let top = above == "kubepods" || above.ends_with("-kubepods");
    // The service manager takes a dash for a level.
    pod_uid(&uid.replace('_', "-")).filter(|_| top)
}

fn pod_in_directories(below: &[&str]) -> Read {
    let below = match below.split_first() {
        Some((&("burstable" | "besteffort" | "guaranteed"), below)) => below,
        _ => below,
    };
    let uid = below.first().and_then(|part| part.strip_prefix("pod")).and_then(pod_uid);
    let container = below.get(1).and_then(|part| hex(part, 64));
    uid.map_or(Read::Unknown, |uid| Read::Group(Group::Pod { uid, container }))
}

/// A UUID, or the 32 digits of a pod that no API server knows.
fn pod_uid(text: &str) -> Option<String> {
    hex(text, 32).or_else(|| uuid(text))
}

/// `kubepods-burstable-pod<uid>.slice:cri-containerd:<id>`, `system.slice:docker:<id>`: a runtime that makes
/// directories, told the names of units.
fn notation(part: &str) -> Option<Group> {
    let mut fields = part.split(':');
    let (slice, _, id) = (fields.next()?.strip_suffix(".slice")?, fields.next()?, fields.next()?);
    let id = hex(id, 64).filter(|_| fields.next().is_none())?;
    match pod_slice(slice) {
        Some(uid) => Some(Group::Pod { uid, container: Some(id) }),
        None => Some(Group::Container(id)).filter(|_| !is_kubepods_slice(slice)),
    }
}

fn scope(part: &str, name: &str, below: &[&str]) -> Read {
    if name == "slurmstepd" || name.ends_with("_slurmstepd") {
        return match below.first() {
            // The step manager that waits in no job.
            None | Some(&"system") => Read::Group(Group::Unit(part.to_owned())),
            Some(job) => slurm_job(job).map_or(Read::Unknown, |job| Read::Group(Group::SlurmJob(job))),
        };
    }
    if let Some(machine) = name.strip_prefix(r"machine-qemu\x2d") {
        return machine_scope(machine).map_or(Read::Unknown, Read::Group);
    }
    if let Some((maker, id)) = container_scope(part) {
        // What a kubelet asked for lies in its pod.
        return if MAKERS.contains(&maker) { Read::Group(Group::Container(id)) } else { Read::Unknown };
    }
    Read::Group(match name.strip_prefix("session-") {
        Some(_) => Group::Person(Person::Login),
        None => Group::Unit(part.to_owned()),
    })
}

/// Daemons that start processes for persons, in their own group where nothing makes others.
const LOGINS: [&str; 6] = ["ssh", "sshd", "cron", "crond", "atd", "xrdp-sesman"];
/// Runtimes that make groups below their own where they are not told to ask the service manager.
const RUNTIMES: [&str; 9] =
    ["containerd", "crio", "docker", "kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent", "podman"];

fn service(part: &str, name: &str, below: &[&str]) -> Read {
    if let Some(user) = name.strip_prefix("user@").or_else(|| name.strip_prefix("user-runtime-dir@")) {
        return Read::Group(Group::Person(number(user).map_or(Person::Login, Person::Slice)));
    }
    if LOGINS.contains(&name) || name.starts_with("sshd@") || name.starts_with("ssh@") {
        return Read::Group(Group::Person(Person::Login));
    }
    if name == "slurmd" || name.ends_with("_slurmd") {
        // Jobs of a Slurm that makes no groups.
        return Read::Group(Group::Person(Person::Owner));
    }
    if let (true, Some((&first, further))) = (RUNTIMES.contains(&name), below.split_first()) {
        let made = match first {
            "kubepods" => Some(pod_in_directories(further)),
            "docker" => Some(container_directory(further)),
            _ => notation(first).map(Read::Group),
        };
        if let Some(made) = made {
            return made;
        }
    }
    Read::Group(Group::Unit(part.to_owned()))
}

/// `uid_1000/job_7/...`
fn slurm_v1(below: &[&str]) -> Read {
    let user = below.first().and_then(|part| part.strip_prefix("uid_")).and_then(number);
    let job = below.get(1).and_then(|part| slurm_job(part));
    job.filter(|_| user.is_some()).map_or(Read::Unknown, |job| Read::Group(Group::SlurmJob(job)))
}

/// `job_7`, or `s5K1KKYAYG5D00`: `s` and 13 digits of Crockford's base 32, with or without the prefix.
fn slurm_job(part: &str) -> Option<String> {
    let bare = part.strip_prefix("job_");
    if let Some(number) = bare.and_then(number) {
        return Some(number.to_string());
    }
    let sluid = bare.unwrap_or(part);
    let digits = sluid.strip_prefix('s').filter(|digits| digits.len() == 13)?;
    let crockford = |b: u8| b.is_ascii_digit() || (b.is_ascii_uppercase() && !b"ILOU".contains(&b));
    digits.bytes().all(crockford).then(|| sluid.to_owned())
}

/// `3\x2dinstance\x2d00000007`: libvirt's number and the domain, in the service manager's writing.
fn machine_scope(text: &str) -> Option<Group> {
    let (number_of, domain) = text.split_once(r"\x2d")?;
    Some(Group::Machine { number: number(number_of)?, domain: unescaped(domain)? })
}

/// `qemu-3-instance-00000007.libvirt-qemu`, where libvirt makes directories.
fn machine_directory(part: &str) -> Option<Group> {
    let (number_of, domain) = part.strip_prefix("qemu-")?.strip_suffix(".libvirt-qemu")?.split_once('-')?;
    Some(Group::Machine { number: number(number_of)?, domain: domain.to_owned() })
        .filter(|_| !domain.is_empty())
}

/// The service manager's `\x2d` for a dash.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(r"\x") {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok())?);
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

fn container_directory(below: &[&str]) -> Read {
    let id = below.first().and_then(|part| hex(part, 64));
    id.map_or(Read::Unknown, |id| Read::Group(Group::Container(id)))
}

/// Runtimes that make containers without pods.
const MAKERS: [&str; 5] = ["docker", "libpod", "libpod-payload", "libpod-conmon", "nerdctl"];

/// `docker-<id>.scope`: the maker and the id.
fn container_scope(part: &str) -> Option<(&str, String)> {
    let (maker, id) = part.strip_suffix(".scope")?.rsplit_once('-')?;
    Some((maker, hex(id, 64)?))
}

/// `libpod-<id>`, `libpod-payload-<id>`, `libpod-conmon-<id>`, where Podman makes directories.
fn podman(part: &str) -> Option<String> {
    let id = part.strip_prefix("libpod-")?;
    hex(id.strip_prefix("payload-").or_else(|| id.strip_prefix("conmon-")).unwrap_or(id), 64)
}

/// A whole number as it would be written, nothing else.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// So many hexadecimal digits, in small letters.
fn hex(text: &str, digits: usize) -> Option<String> {
    let good = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (text.len() == digits && text.bytes().all(good)).then(|| text.to_owned())
}

pub(super) fn uuid(text: &str) -> Option<String> {
    let groups: Vec<&str> = text.split('-').collect();
    let right = |(group, digits): (&&str, usize)| hex(group, digits).is_some();
    let good = groups.len() == 5 && groups.iter().zip([8, 4, 4, 4, 12]).all(right);
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
