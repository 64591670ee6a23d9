//! What libvirt's files come to: every shape of one on the same host, machines that come, change and go, and text
//! that tenants wrote.

mod forged;
mod host;
mod over_time;

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use expect_test::expect_file;
use host::{Host, shown};
use weighbridge_agent::holders::libvirt::domain::{Domain, Given, Project};

fn shapes() -> Vec<(String, String)> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libvirt/shapes");
    let mut shapes: Vec<(String, String)> = fs::read_dir(folder)
        .expect("listed")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(path).expect("text"))
        })
        .collect();
    shapes.sort();
    shapes
}

/// What a file says, in one line.
fn line(domain: &Domain) -> String {
    let mut line = format!("{} number {:?} pid {:?}", domain.uuid, domain.number, domain.pid);
    line = line.replace("Some(", "").replace(')', "");
    match &domain.project {
        Project::Known(project) => write!(line, " of {project}"),
        Project::Untold => write!(line, " of nobody told"),
        Project::Unclear => write!(line, " of nobody clear"),
    }
    .expect("string");
    for given in &domain.given {
        match given {
            Given::Function(address) => write!(line, " {address}"),
            Given::Mediated(uuid) => write!(line, " mdev {uuid}"),
        }
        .expect("string");
    }
    line
}

#[test]
fn every_shape_gives_its_holder() {
    let mut all = String::new();
    for (shape, text) in shapes() {
        let said = Domain::parse(text.as_bytes()).map_or("nothing".to_owned(), |domain| line(&domain));
        writeln!(all, "{shape}\n    says {said}").expect("string");
        let host = Host::new();
        host.put("instance-00000007", &text, 5);
        let mut holders = host.holders();
        host.look(&mut holders, 10);
        host.look(&mut holders, 20);
        let state = holders.states().libvirt;
        let words: Vec<String> = state
            .machines
            .keys()
            .map(|machine| machine.as_str().to_owned())
            .chain(state.refused.keys().map(|refusal| format!("refused as {}", refusal.as_str())))
            .chain((state.split > 0).then(|| format!("{} unplaced", state.split)))
            .collect();
        writeln!(all, "    is {}", words.join(", ")).expect("string");
        for holding in holders.confirm() {
            writeln!(all, "    {}", shown(&holding)).expect("string");
        }
    }
    expect_file!["shapes.expected"].assert_eq(&all);
}

/// Names, titles, flavours, images and command lines are in the files, and in nothing that comes of them.
#[test]
fn no_text_that_a_tenant_chose_is_in_what_is_said() {
    for (shape, text) in shapes() {
        let Some(domain) = Domain::parse(text.as_bytes()) else { continue };
        let said = format!("{domain:?}");
        assert!(!said.contains("secret") && !said.contains("bad"), "{shape}: {said}");
    }
}

#[test]
fn no_forgery_among_the_shapes_is_believed() {
    for (shape, text) in shapes().iter().filter(|(shape, _)| shape.starts_with("forged")) {
        assert!(text.contains("deadbeef") || shape.contains("device"), "{shape} forges something");
        let domain = Domain::parse(text.as_bytes()).unwrap_or_else(|| panic!("{shape} is broken"));
        if let Project::Known(project) = &domain.project {
            assert_eq!(project, "9a1b0c2d3e4f50617283940aabbccdde", "{shape}");
        }
        assert_eq!(domain.given, [Given::Function("0000:1a:00.0".into())].into(), "{shape}");
    }
}

/// Neither the stack nor the memory of the agent is a tenant's to fill.
#[test]
fn a_file_that_is_too_deep_or_too_long_is_refused_or_read_and_nothing_else() {
    let deep = |levels: usize| format!("{}{}", "<a>".repeat(levels), "</a>".repeat(levels));
    let (_, good) = shapes().into_iter().find(|(shape, _)| shape == "nova-1.1-whole-devices").expect("there");
    let with = |middle: &str| good.replace("  <taint flag='custom-argv'/>\n", middle);
    assert_eq!(Domain::parse(with(&deep(40_000)).as_bytes()), Domain::parse(good.as_bytes()));
    assert_eq!(Domain::parse(with(&deep(120_000)).as_bytes()), None);
    assert_eq!(Domain::parse(with(&"<a>".repeat(300_000)).as_bytes()), None);
    assert_eq!(Domain::parse(with(&"<a/>".repeat(100_000)).as_bytes()), None, "too many elements");
    assert_eq!(Domain::parse(with(&" ".repeat(1 << 20)).as_bytes()), None, "too many bytes");
    assert_eq!(Domain::parse(b"\xff\xfe<"), None);
}
