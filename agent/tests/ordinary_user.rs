//! The agent as an ordinary user: what it still knows of others' processes, and what it says that it does not.
//!
//! Started by root, it becomes `nobody` for the agent and hides processes in a mount of its own. Started by somebody
//! else, it is that user already and looks only at what an ordinary `/proc` shows.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command},
};

use weighbridge_fake_nvml::FakeDriver;

/// A process of somebody else that a driver says has a device open. Ends with the test.
struct Other(Child);

impl Other {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().expect("the system has sleep"))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It is ours and still runs; if not, nothing is left to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that `nobody` needs, in a folder that it may read.
struct Site {
    dir: tempfile::TempDir,
    _driver: FakeDriver,
}

impl Site {
    fn new(pids: &[u32]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let script = format!(
            "driver_version = \"580.95.05\"\n[[device]]\nuuid = \"GPU-1\"\nname = \"NVIDIA L4\"\npids = {pids:?}\n"
        );
        let driver = FakeDriver::install(&dir.path().join("driver"), &script).expect("installed");
        let text = format!(
            "agent.id = \"node1\"\nagent.host = \"node1\"\nagent.key_file = \"{0}/key\"\nspool.dir = \"{0}/spool\"\n\
             http.listen = \"\"\nsource.nvml.library = \"{1}\"\nsource.nvml.deadline = \"10s\"\n\
             source.nvml.sysfs = \"{0}/sys\"\nholders.libvirt = \"{0}/none\"\n",
            dir.path().display(),
            driver.library().display()
        );
        fs::write(dir.path().join("agent.toml"), text).expect("written");
        fs::copy(env!("CARGO_BIN_EXE_weighbridge-agent"), dir.path().join("agent")).expect("copied");
        fs::create_dir(dir.path().join("proc")).expect("made");
        let all = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(dir.path(), all(0o755)).expect("ours");
        Self { dir, _driver: driver }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `doctor` says, run by this command line in front of it.
    fn doctor(&self, before: &[&str], flags: &[&str]) -> String {
        let program = self.path("agent").display().to_string();
        let config = self.path("agent.toml").display().to_string();
        let mut line: Vec<&str> = before.to_vec();
        line.extend([program.as_str(), "--config", &config]);
        line.extend(flags.iter().flat_map(|flag| ["--set", flag]));
        line.push("doctor");
        let ended = Command::new(line[0]).args(&line[1..]).output().expect("the system has util-linux");
        format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr))
    }
}

const NOBODY: [&str; 5] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];

fn is_root() -> bool {
    let own = fs::metadata("/proc/self").expect("a process");
    std::os::unix::fs::MetadataExt::uid(&own) == 0
}

fn as_nobody() -> &'static [&'static str] {
    if is_root() { &NOBODY } else { &[] }
}

#[test]
fn an_ordinary_user_knows_whose_processes_others_are_and_says_what_it_may_not_see() {
    let other = Other::start();
    let site = Site::new(&[other.0.id(), u32::MAX >> 1]);
    let shown = site.doctor(as_nobody(), &[]);
    for said in [
        "  ok  cgroups: ",
        "  ok  processes of others can be read in /proc",
        " note open files of others cannot be read (no CAP_SYS_PTRACE): costs nothing where the driver",
        " note 1 of 2 processes with an accelerator open name a holder: ",
        " note 1 of them ended meanwhile, are hidden from this user, ",
        &format!("for example: process {} -> ", other.0.id()),
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
}

#[test]
fn where_processes_are_hidden_from_an_ordinary_user_that_is_a_failure_with_its_price() {
    if !is_root() {
        return eprintln!("only root can mount a /proc that hides processes: not tested");
    }
    let other = Other::start();
    let site = Site::new(&[other.0.id()]);
    let proc = site.path("proc").display().to_string();
    let mount = format!("mount -t proc -o hidepid=invisible proc {proc} && exec \"$@\"");
    let mut before = vec!["unshare", "--mount", "sh", "-c", &mount, "sh"];
    before.extend(NOBODY);
    let set = format!("holders.proc={proc}");
    let shown = site.doctor(&before, &[&set]);
    for said in [
        &format!(
            "FAIL  processes of others cannot be read in {proc}: it is mounted with hidepid=invisible, and this"
        ),
        "time is unattributed that no lease or scheduler's record covers",
        " note 0 of 1 processes with an accelerator open name a holder: 1 gone",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    // Root sees them there all the same.
    let before = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
    let shown = site.doctor(&before, &[&set]);
    assert!(shown.contains("  ok  1 of 1 processes with an accelerator open name a holder"), "{shown}");
}

/// libvirt writes its files for root alone.
#[test]
fn an_ordinary_user_says_that_it_may_not_read_of_machines_and_root_gives_an_example() {
    if !is_root() {
        return eprintln!("only root can write what another user may not read: not tested");
    }
    let other = Other::start();
    let site = Site::new(&[]);
    let folder = site.path("qemu");
    fs::create_dir(&folder).expect("made");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("ours");
    let text = format!(
        "<domstatus state='running' pid='{}'><domain type='kvm' id='3'><name>secret</name>\
         <uuid>0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0</uuid><devices><hostdev type='pci'><source><address \
         domain='0x0000' bus='0x1a' slot='0x00' function='0x0'/></source></hostdev></devices></domain></domstatus>",
        other.0.id()
    );
    let device = site.path("sys/bus/pci/devices/0000:1a:00.0");
    fs::create_dir_all(&device).expect("made");
    for (file, text) in [("vendor", "0x10de"), ("device", "0x2330"), ("class", "0x030200")] {
        fs::write(device.join(file), text).expect("written");
    }
    std::os::unix::fs::symlink("../vfio-pci", device.join("driver")).expect("linked");
    fs::write(folder.join("secret.xml"), text).expect("written");
    fs::set_permissions(folder.join("secret.xml"), fs::Permissions::from_mode(0o600)).expect("ours");
    let set = format!("holders.libvirt={}", folder.display());
    let shown = site.doctor(as_nobody(), &[&set]);
    for said in [
        &format!("  ok  libvirt {}: 0 machines", folder.display()),
        &format!("FAIL  libvirt {}: 1 files are for root alone to read", folder.display()),
        "so its time stays without a project",
        "Run the agent as root or with CAP_DAC_READ_SEARCH",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let shown = site.doctor(&[], &[&set]);
    for said in [
        &format!("  ok  libvirt {}: 1 machines, of which 1 have 1 accelerators or parts", folder.display()),
        " note 1 machines have no OpenStack project in their metadata",
        "for example: pci:node1/0000:1a:00.0 is held by vm:default/%3F in attempt vm:default/0b1c2d3e-4f50-6172-",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    assert!(!shown.contains("secret"), "{shown}");
}

/// With a `/proc` of its own a container sees none of the processes that a driver names.
#[test]
fn in_a_pid_namespace_of_its_own_the_agent_says_what_to_change() {
    if !is_root() {
        return eprintln!("only root can make a pid namespace here: not tested");
    }
    let other = Other::start();
    let site = Site::new(&[other.0.id()]);
    let before = ["unshare", "--pid", "--fork", "--mount-proc"];
    let shown = site.doctor(&before, &[]);
    assert!(
        shown.contains("FAIL  processes in /proc are those of a container and not of the host"),
        "{shown}"
    );
}
