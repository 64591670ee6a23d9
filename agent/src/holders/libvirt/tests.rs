use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn the_uuid_of_a_machine_is_read_by_its_name_and_nothing_outside_the_folder() {
    let uuid_text = "01234567-89ab-cdef-0123-456789abcdef";
    let dir = tempfile::tempdir().unwrap();
    let xml = format!(
        "<domstatus state='running'>\n  <domain type='kvm' id='3'>\n    <name>a</name>\n    \
         <uuid>{uuid_text}</uuid>\n    <title>&lt;uuid&gt;</title>\n  </domain>\n</domstatus>\n"
    );
    let write = |name: &str, text: &str, mode| {
        fs::write(dir.path().join(name), text).unwrap();
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    write("a.xml", &xml, 0o600);
    write("open.xml", &xml, 0o666);
    write("broken.xml", "<domain ><uuid>01</uuid>", 0o600);
    fs::create_dir(dir.path().join("empty")).unwrap();
    assert_eq!(uuid(dir.path(), "a").as_deref(), Some(uuid_text));
    for other in ["b", "open", "broken", "../a"] {
        assert_eq!(uuid(dir.path(), other), None, "{other}");
    }
    assert_eq!(uuid(&dir.path().join("empty"), "../a"), None);
    assert_eq!(uuid(Path::new(""), "a"), None);
}
