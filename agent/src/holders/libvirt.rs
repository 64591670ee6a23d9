//! Which machine a domain of libvirt is: its UUID, from the state that libvirt keeps of machines that run.

use std::{fs::File, io::Read, path::Path};

/// The UUID stands near the beginning; devices and metadata follow.
const ENOUGH: u64 = 64 << 10;

/// `None` where there is no such state, or it is not for our eyes.
pub(super) fn uuid(folder: &Path, domain: &str) -> Option<String> {
    // A group's name can hold any escaped byte.
    if domain.starts_with('.') || domain.contains(['/', '\0']) {
        return None;
    }
    let mut text = Vec::new();
    File::open(folder.join(format!("{domain}.xml"))).ok()?.take(ENOUGH).read_to_end(&mut text).ok()?;
    uuid_of(&String::from_utf8_lossy(&text))
}

/// What a tenant may have written, as a title, comes later.
pub(super) fn uuid_of(xml: &str) -> Option<String> {
    let domain = &xml[xml.find("<domain ")?..];
    let rest = &domain[domain.find("<uuid>")? + "<uuid>".len()..];
    super::cgroup::uuid(&rest[..rest.find("</uuid>")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_of_a_domain_is_read_and_nothing_outside_the_folder() {
        let uuid_text = "01234567-89ab-cdef-0123-456789abcdef";
        let dir = tempfile::tempdir().unwrap();
        let xml = format!(
            "<domstatus state='running'>\n  <domain type='kvm' id='3'>\n    <name>a</name>\n    \
             <uuid>{uuid_text}</uuid>\n    <title>&lt;uuid&gt;</title>\n  </domain>\n</domstatus>\n"
        );
        std::fs::write(dir.path().join("a.xml"), &xml).unwrap();
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        assert_eq!(uuid(dir.path(), "a").as_deref(), Some(uuid_text));
        assert_eq!(uuid(dir.path(), "b"), None);
        assert_eq!(uuid(&dir.path().join("empty"), "../a"), None);
        for bad in ["", "<domain ", "<domain ><uuid>", "<domain ><uuid>x</uuid>", "<uuid>01</uuid>"] {
            assert_eq!(uuid_of(bad), None, "{bad}");
        }
    }
}
