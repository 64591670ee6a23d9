//! What libvirt's state of one machine that runs says of it: `<domstatus>` with the `<domain>` in it.
//!
//! Pure: bytes in, [`Domain`] out. Only identifiers are taken: what a tenant may have written (name, title,
//! description, the name of a flavour or an image) is never kept. Elements count where libvirt and nova put them and
//! nowhere else, by their namespace and not by their prefix; text is text, whatever it looks like.

use std::collections::BTreeSet;

use roxmltree::{Document, Node, ParsingOptions};

use crate::holders::cgroup::uuid;

/// Longer than any such file: one of a machine with hundreds of disks has some hundred kilobytes.
pub const LONGEST: u64 = 1 << 20;

/// More elements, texts and comments than the largest has. The parser goes through them in a loop, however deep they
/// lie, and takes no file with entities of its own.
const MOST_NODES: u32 = 100_000;

/// More devices than a machine can have.
const MOST_GIVEN: usize = 1024;

/// Namespaces of nova's metadata: of Juno to Victoria, and since.
const NOVA: [&str; 2] =
    ["http://openstack.org/xmlns/libvirt/nova/1.0", "http://openstack.org/xmlns/libvirt/nova/1.1"];

/// The longest identifier of a project that Keystone takes.
const LONGEST_PROJECT: usize = 64;

/// A machine that libvirt runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// libvirt's number of this run of it.
    pub number: Option<u32>,
    /// As in the cloud's records.
    pub uuid: String,
    /// Whose it is.
    pub project: Project,
    /// The process that runs it.
    pub pid: Option<u32>,
    /// Whether it holds anything: one that is paused, suspended or crashed still does, one that is shut off does not.
    pub on: bool,
    /// Devices of the host that it was given.
    pub given: BTreeSet<Given>,
}

/// Whose a machine is, by nova's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Project {
    /// By its identifier.
    Known(String),
    /// There is no such metadata: no OpenStack runs it.
    Untold,
    /// More than one is named, or something that is no identifier.
    Unclear,
}

/// A device of the host, given to a machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Given {
    /// A PCI function, by its address as the kernel writes it.
    Function(String),
    /// A mediated device, by its UUID.
    Mediated(String),
}

impl Domain {
    /// `None` if this is no such file, or one that is broken.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() as u64 > LONGEST {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        // Without a DTD nothing refers to anything.
        let options =
            ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..ParsingOptions::default() };
        let document = Document::parse_with_options(text, options).ok()?;
        let status = document.root_element();
        if !is(status, None, "domstatus") {
            return None;
        }
        let domain = one(status, "domain")?;
        Some(Self {
            number: attribute(domain, "id").and_then(|text| text.parse().ok()),
            uuid: uuid(plain_text(one(domain, "uuid")?)?)?,
            project: project(domain),
            pid: attribute(status, "pid").and_then(|text| text.parse().ok()).filter(|&pid| pid != 0),
            on: attribute(status, "state") != Some("shutoff"),
            given: given(domain)?,
        })
    }
}

/// Whether it is an element of this namespace and name.
fn is(node: Node<'_, '_>, namespace: Option<&str>, name: &str) -> bool {
    node.is_element() && node.tag_name().namespace() == namespace && node.tag_name().name() == name
}

/// Elements directly below another.
fn below<'a, 'input>(
    node: Node<'a, 'input>,
    namespace: Option<&'static str>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(move |child| is(*child, namespace, name))
}

/// The only one of libvirt's own elements of this name directly below another.
fn one<'a, 'input>(node: Node<'a, 'input>, name: &'static str) -> Option<Node<'a, 'input>> {
    let mut found = below(node, None, name);
    found.next().filter(|_| found.next().is_none())
}

fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes()
        .find(|attribute| attribute.namespace().is_none() && attribute.name() == name)
        .map(|attribute| attribute.value())
}

/// The text of an element in which there is nothing else.
fn plain_text<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    let mut children = node.children();
    let text = children.next().filter(|_| children.next().is_none())?;
    text.is_text().then(|| text.text().unwrap_or_default().trim())
}

/// `metadata/instance/owner/project`, the last three of one of nova's namespaces.
fn project(domain: Node<'_, '_>) -> Project {
    let mut named: BTreeSet<Option<&str>> = BTreeSet::new();
    for namespace in NOVA {
        let projects = below(domain, None, "metadata")
            .flat_map(|metadata| below(metadata, Some(namespace), "instance"))
            .flat_map(|instance| below(instance, Some(namespace), "owner"))
            .flat_map(|owner| below(owner, Some(namespace), "project"));
        named.extend(projects.map(|project| attribute(project, "uuid").filter(|id| is_project(id))));
    }
    match (named.len(), named.pop_first()) {
        (0, _) | (_, None) => Project::Untold,
        (1, Some(Some(id))) => Project::Known(id.to_owned()),
        _ => Project::Unclear,
    }
}

/// As a rule 32 hexadecimal digits; what came from a directory may be something else, and is no text either.
fn is_project(id: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    (1..=LONGEST_PROJECT).contains(&id.len()) && id.bytes().all(good)
}

/// `devices/hostdev/source/address`. `None` if one of them cannot be understood: then it is not known what the
/// machine has.
fn given(domain: Node<'_, '_>) -> Option<BTreeSet<Given>> {
    let mut given = BTreeSet::new();
    let devices = below(domain, None, "devices").flat_map(|devices| below(devices, None, "hostdev"));
    for device in devices {
        let kind = attribute(device, "type");
        if !matches!(kind, Some("pci" | "mdev")) {
            // USB, SCSI, storage and character devices compute nothing.
            continue;
        }
        let address = one(one(device, "source")?, "address")?;
        given.insert(match kind {
            Some("pci") => Given::Function(function(address)?),
            _ => Given::Mediated(uuid(attribute(address, "uuid")?)?),
        });
        if given.len() > MOST_GIVEN {
            return None;
        }
    }
    Some(given)
}

/// `domain='0x0000' bus='0x1a' slot='0x00' function='0x0'`; libvirt leaves out no part.
fn function(address: Node<'_, '_>) -> Option<String> {
    let part = |name: &str, most: u32| {
        let text = attribute(address, name)?;
        let number = match text.strip_prefix("0x") {
            Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16).ok()?,
            _ if !text.starts_with('+') => text.parse().ok()?,
            _ => return None,
        };
        (number <= most).then_some(number)
    };
    let domain = part("domain", u32::MAX)?;
    Some(format!(
        "{domain:04x}:{:02x}:{:02x}.{:x}",
        part("bus", 0xff)?,
        part("slot", 0x1f)?,
        part("function", 7)?
    ))
}
