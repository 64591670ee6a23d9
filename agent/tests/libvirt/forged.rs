//! Whatever a tenant writes where tenants may write: it changes nothing.

use proptest::prelude::*;
use weighbridge_agent::holders::libvirt::domain::{Domain, Project};

const PROJECT: &str = "9a1b0c2d3e4f50617283940aabbccdde";

/// Elements of the trees that are forged, with what binds their prefixes.
const NAMES: [&str; 12] = [
    "nova:instance",
    "nova:owner",
    "nova:project",
    "n:instance",
    "n:owner",
    "n:project",
    "metadata",
    "domain",
    "domstatus",
    "uuid",
    "hostdev",
    "source",
];

/// A tree that is well-formed where `nova` and `n` are bound, and says to be of another project.
fn tree() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("<nova:project uuid='deadbeef'/>".to_owned()),
        Just("<n:project uuid='deadbeef'>deadbeef</n:project>".to_owned()),
        Just("<uuid>deadbeef-0000-0000-0000-000000000000</uuid>".to_owned()),
        Just("<address domain='0' bus='0x1b' slot='0' function='0' uuid='deadbeef'/>".to_owned()),
        Just("<!-- <nova:project uuid='deadbeef'/> -->".to_owned()),
        Just("<![CDATA[</title></metadata><nova:project uuid='deadbeef'/>]]>".to_owned()),
        Just("<?nova project='deadbeef'?>".to_owned()),
        Just("&lt;/title&gt;&#60;nova:project uuid='deadbeef'/&#62;".to_owned()),
        "[ a-z]{0,8}",
    ];
    leaf.prop_recursive(6, 40, 4, |inner| {
        let names = prop::sample::select(&NAMES[..]);
        (names, prop::collection::vec(inner, 0..4)).prop_map(|(name, children)| {
            let inside = children.concat();
            format!("<{name} type='pci' id='9' pid='9' uuid='deadbeef'>{inside}</{name}>")
        })
    })
}

fn file(title: &str, foreign: &str, device: &str) -> String {
    let nova = "xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'";
    format!(
        "<domstatus state='running' pid='4242'><domain type='kvm' id='3'><name>x</name>\
         <uuid>0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0</uuid>{title}<metadata>{foreign}<nova:instance {nova}>\
         <nova:name>x</nova:name><nova:owner><nova:project uuid='{PROJECT}'>x</nova:project></nova:owner>\
         </nova:instance></metadata><devices><hostdev mode='subsystem' type='pci'><source><address domain='0x0000' \
         bus='0x1a' slot='0x00' function='0x0'/></source></hostdev>{device}</devices></domain></domstatus>"
    )
}

proptest! {
    /// In a title or description, whole trees in place of text included; below an element of another namespace in
    /// the metadata; below one among the devices.
    #[test]
    fn what_stands_elsewhere_is_not_metadata(inside in tree(), bound in any::<bool>(), place in 0..4) {
        // Both of nova's namespaces, or others under the same prefixes.
        let (nova, n) = if bound {
            ("http://openstack.org/xmlns/libvirt/nova/1.1", "http://openstack.org/xmlns/libvirt/nova/1.0")
        } else {
            ("http://example.com/nova/1.1", "http://openstack.org/xmlns/libvirt/nova/1.1/")
        };
        let within = |name: &str| format!("<{name} xmlns:x='urn:x' xmlns:nova='{nova}' xmlns:n='{n}'>{inside}</{name}>");
        let forged = match place {
            0 => file(&within("title"), "", ""),
            1 => file(&within("description"), "", ""),
            2 => file("", &within("x:instance"), ""),
            _ => file("", "", &within("x:hostdev")),
        };
        let plain = Domain::parse(file("", "", "").as_bytes());
        prop_assert_eq!(plain.as_ref().map(|domain| &domain.project), Some(&Project::Known(PROJECT.into())));
        prop_assert_eq!(Domain::parse(forged.as_bytes()), plain, "{}", forged);
    }

    /// As libvirt writes what it was given: escaped.
    #[test]
    fn text_stays_text(inside in tree()) {
        let escaped = inside.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let forged = file(&format!("<title>{escaped}</title>"), "", "");
        prop_assert_eq!(Domain::parse(forged.as_bytes()), Domain::parse(file("", "", "").as_bytes()));
    }

    /// Whatever the prefix.
    #[test]
    fn the_namespace_decides_and_not_the_prefix(prefix in "[a-wyz][a-z0-9]{0,6}", other in "[a-z:/.]{0,20}") {
        let text = file("", "", "").replace("nova:", &format!("{prefix}:")).replace("xmlns:nova", &format!("xmlns:{prefix}"));
        let domain = Domain::parse(text.as_bytes());
        prop_assert_eq!(domain.map(|domain| domain.project), Some(Project::Known(PROJECT.into())));
        let text = text.replace("http://openstack.org/xmlns/libvirt/nova/1.1", &format!("urn:{other}"));
        let domain = Domain::parse(text.as_bytes());
        prop_assert_eq!(domain.map(|domain| domain.project), Some(Project::Untold));
    }
}
