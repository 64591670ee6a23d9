//! What pods are called, by lists as an API server writes them.

use std::{fmt::Write, fs};

use expect_test::expect_file;
use weighbridge_agent::holders::kubernetes::{
    Labelled,
    names::Names,
    pods::{Event, Page},
};

fn fixture(name: &str) -> Vec<u8> {
    fs::read(format!("{}/tests/kubernetes/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a fixture")
}

#[test]
fn a_list_of_pods_gives_identifiers_and_moments_and_nothing_that_a_tenant_wrote() {
    let page = Page::parse(&fixture("pods.json")).expect("a list");
    let names = Names::new("eu-1", [7; 32]).expect("a name");
    let mut table = String::new();
    writeln!(table, "version {}, rest {:?}, {} unreadable", page.version, page.rest, page.unreadable)
        .unwrap();
    for pod in &page.pods {
        let chain: Vec<_> = pod.owner.clone().into_iter().collect();
        let attempt = names.attempt_of(pod, &chain).expect("an attempt");
        let kind = pod.owner.as_ref().map_or("nobody", |owner| owner.kind.as_str());
        writeln!(table, "{}: by {kind}, {attempt}", pod.name).unwrap();
        if pod.over || pod.mirror_of.is_some() {
            let ended = pod.ended.map(|moment| moment.to_string());
            writeln!(table, "    over: {}, ended {ended:?}, mirror of {:?}", pod.over, pod.mirror_of)
                .unwrap();
        }
        assert!(!attempt.as_str().contains("planted"), "{attempt}");
    }
    expect_file!["pods.expected"].assert_eq(&table);
}

#[test]
fn only_a_namespace_or_its_label_is_a_principal() {
    let names = Names::new("eu-1", [7; 32]).expect("a name");
    let of = |label| names.principal("team-a", &label).to_string();
    assert_eq!(of(Labelled::NotAsked), "k8s:eu-1/team-a");
    assert_eq!(of(Labelled::As("customer 7".into())), "k8s:eu-1/customer%207");
    assert_eq!(of(Labelled::Without), "k8s:eu-1/%3F");
    assert_eq!(of(Labelled::Unknown), "k8s:eu-1/%3F");
}

#[test]
fn lines_of_a_watch_are_what_happened_or_nothing() {
    let event =
        |line: &str| format!("{:?}", Event::parse(line.as_bytes())).chars().take(20).collect::<String>();
    let status = |rest: &str| event(&format!(r#"{{"type":"ERROR","object":{{"kind":"Status",{rest}}}}}"#));
    assert_eq!(status(r#""code":410,"reason":"Expired""#), "Some(Expired)");
    assert_eq!(status(r#""reason":"Gone""#), "Some(Expired)");
    assert_eq!(status(r#""code":500"#), "Some(Failed(500))");
    let of = |kind: &str, object: &str| event(&format!(r#"{{"type":"{kind}","object":{object}}}"#));
    assert_eq!(of("BOOKMARK", r#"{"metadata":{"resourceVersion":"7"}}"#), r#"Some(Reached("7"))"#);
    assert_eq!(of("ADDED", r#"{"metadata":{"resourceVersion":"7"}}"#), r#"Some(Unreadable("7")"#);
    assert_eq!(of("MODIFIED", r#"{"metadata":{"uid":7}}"#), "None");
    assert_eq!(of("SOMETHING", r#"{"metadata":{}}"#), "None");
    for line in ["", "{", "[]", "7", r#"{"type":"ADDED"}"#, r#"{"object":{}}"#] {
        assert_eq!(event(line), "None", "{line}");
    }
}
