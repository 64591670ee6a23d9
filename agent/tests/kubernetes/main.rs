//! Kubernetes as a witness, against a kubelet on a real socket and an API server that watches.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod devices;
mod pods;
mod support;
mod tls;

use expect_test::expect;
use serde_json::json;
use support::{Node, OWNERS, UID, pod};
use weighbridge_agent::holders::kubernetes::{ApiState, KubeletState, kubelet};
use weighbridge_fake_kubernetes::{Answering, Expiry, Given, Trouble};

#[test]
fn a_pod_holds_what_the_kubelet_gave_it_from_its_first_answer_to_its_last() {
    let mut node = Node::new();
    node.api.apply(pod(0, "team-a", "train-0", "Running"));
    node.kubelet.give(&[Given::gpus("team-a", "train-0", &["GPU-a", "GPU-b::3"])]);
    node.until_state("it is named", |state| state.named == 1);
    node.answers(2);
    node.api.delete(&UID(0));
    node.kubelet.give(&[]);
    node.until_state("it is gone", |state| state.named == 0);
    expect![[r#"
        k8s:eu-1/team-a as k8s:eu-1/pod/00000000-aaaa-bbbb-cccc-000000000000 holds GPU-a+GPU-b by pod_resources
    "#]]
    .assert_eq(&node.held());
}

/// An object as its metadata alone.
fn object(uid: &str, above: Option<(&str, &str, &str, &str)>) -> serde_json::Value {
    let owners = above.map(|(api, kind, name, uid)| {
        json!([{"apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": true}])
    });
    json!({"kind": "PartialObjectMetadata", "metadata": {"name": "x", "uid": uid, "ownerReferences": owners}})
}

fn owned(mut pod: serde_json::Value, api: &str, kind: &str, name: &str, uid: &str) -> serde_json::Value {
    pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": true}]);
    pod
}

#[test]
fn an_attempt_is_the_object_at_the_top_of_those_that_made_the_pod() {
    let mut node = Node::new();
    let at = |path: &str| format!("/apis/{path}");
    // A TrainJob made a JobSet, which made a Job, which made the pod.
    let jobs = "batch/v1/namespaces/team-a/jobs";
    node.api.put(
        &at(&format!("{jobs}/j")),
        object(&OWNERS(1), Some(("jobset.x-k8s.io/v1alpha2", "JobSet", "s", &OWNERS(2)))),
    );
    node.api.put(
        &at("jobset.x-k8s.io/v1alpha2/namespaces/team-a/jobsets/s"),
        object(&OWNERS(2), Some(("trainer.kubeflow.org/v1alpha1", "TrainJob", "t", &OWNERS(3)))),
    );
    node.api
        .put(&at("trainer.kubeflow.org/v1alpha1/namespaces/team-a/trainjobs/t"), object(&OWNERS(3), None));
    let mut train = owned(pod(1, "team-a", "train", "Running"), "batch/v1", "Job", "j", &OWNERS(1));
    train["metadata"]["labels"]["jobset.sigs.k8s.io/restart-attempt"] = json!("3");
    // Each job of a CronJob is an attempt.
    node.api
        .put(&at(&format!("{jobs}/c-1")), object(&OWNERS(4), Some(("batch/v1", "CronJob", "c", &OWNERS(5)))));
    let cron = owned(pod(2, "team-a", "cron", "Running"), "batch/v1", "Job", "c-1", &OWNERS(4));
    // A worker of a LeaderWorkerSet: its StatefulSet is the leader's, which is a StatefulSet's.
    let sets = "apps/v1/namespaces/team-a/statefulsets";
    node.api.put(&at(&format!("{sets}/l-1")), object(&OWNERS(6), Some(("v1", "Pod", "l-1", &UID(7)))));
    node.api.put(
        "/api/v1/namespaces/team-a/pods/l-1",
        object(&UID(7), Some(("apps/v1", "StatefulSet", "l", &OWNERS(8)))),
    );
    let lws = ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "l", &*OWNERS(9));
    node.api.put(&at(&format!("{sets}/l")), object(&OWNERS(8), Some(lws)));
    node.api.put(
        &at("leaderworkerset.x-k8s.io/v1/namespaces/team-a/leaderworkersets/l"),
        object(&OWNERS(9), None),
    );
    let mut worker = owned(pod(3, "team-a", "l-1-1", "Running"), "apps/v1", "StatefulSet", "l-1", &OWNERS(6));
    worker["metadata"]["labels"]["leaderworkerset.sigs.k8s.io/group-index"] = json!("1");
    // Who says to be of a job that is another's, is of none.
    let forged = owned(pod(4, "team-a", "forged", "Running"), "batch/v1", "Job", "j", &OWNERS(99));
    for one in [train, cron, worker, forged] {
        node.api.apply(one);
    }
    let given = |name: &str, id: &str| Given::gpus("team-a", name, &[id]);
    node.kubelet.give(&[
        given("train", "GPU-a"),
        given("cron", "GPU-b"),
        given("l-1-1", "GPU-c"),
        given("forged", "GPU-c"),
    ]);
    node.until_state("all are named", |state| state.named == 4);
    node.answers(2);
    node.look();
    expect![[r#"
        k8s:eu-1/team-a as k8s:eu-1/00000003-dddd-eeee-ffff-000000000000+3 holds GPU-a by pod_resources
        k8s:eu-1/team-a as k8s:eu-1/00000004-dddd-eeee-ffff-000000000000 holds GPU-b by pod_resources
        k8s:eu-1/team-a as k8s:eu-1/00000009-dddd-eeee-ffff-000000000000.1 holds GPU-c by pod_resources
        k8s:eu-1/team-a as k8s:eu-1/pod/00000004-aaaa-bbbb-cccc-000000000000 holds GPU-c by pod_resources
    "#]]
    .assert_eq(&node.held());
    let asked = node.api.requests().iter().filter(|path| path.contains("/jobs/j")).count();
    assert_eq!(asked, 2, "each is asked once, and who is said to be called so too");
}

#[test]
fn a_label_of_the_namespace_decides_where_the_operator_says_so_and_never_one_of_the_pod() {
    let mut node = Node::with(|options| options.tenant_label = Some("example.com/customer".into()));
    let namespace = |label: Option<&str>| {
        let labels = label.map(|label| json!({"example.com/customer": label}));
        json!({"metadata": {"name": "x", "labels": labels}})
    };
    node.api.put("/api/v1/namespaces/team-a", namespace(Some("acme")));
    node.api.put("/api/v1/namespaces/team-b", namespace(None));
    for (number, name) in [(1, "team-a"), (2, "team-b"), (3, "team-c")] {
        let mut pod = pod(number, name, "x", "Running");
        pod["metadata"]["labels"]["example.com/customer"] = json!("planted");
        node.api.apply(pod);
    }
    let given = |namespace: &str, id: &str| Given::gpus(namespace, "x", &[id]);
    node.kubelet.give(&[given("team-a", "GPU-a"), given("team-b", "GPU-b"), given("team-c", "GPU-c")]);
    node.until_state("all are named", |state| state.named == 3);
    node.answers(2);
    node.look();
    expect![[r#"
        k8s:eu-1/acme as k8s:eu-1/pod/00000001-aaaa-bbbb-cccc-000000000000 holds GPU-a by pod_resources
        k8s:eu-1/%3F as k8s:eu-1/pod/00000002-aaaa-bbbb-cccc-000000000000 holds GPU-b by pod_resources
        k8s:eu-1/%3F as k8s:eu-1/pod/00000003-aaaa-bbbb-cccc-000000000000 holds GPU-c by pod_resources
    "#]]
    .assert_eq(&node.held());
}

#[test]
fn a_pod_that_is_over_holds_nothing_although_the_kubelet_lists_it() {
    let mut node = Node::new();
    node.api.apply(pod(1, "team-a", "over", "Succeeded"));
    node.api.apply(pod(2, "team-a", "runs", "Running"));
    node.kubelet
        .give(&[Given::gpus("team-a", "over", &["GPU-a"]), Given::gpus("team-a", "runs", &["GPU-b"])]);
    node.until_state("one is named", |state| state.named == 1 && state.unnamed == 0);
    node.answers(2);
    // And then the other is over too.
    node.api.apply(pod(2, "team-a", "runs", "Failed"));
    node.until_state("none is", |state| state.named == 0);
    expect![[r#"
        k8s:eu-1/team-a as k8s:eu-1/pod/00000002-aaaa-bbbb-cccc-000000000000 holds GPU-b by pod_resources
    "#]]
    .assert_eq(&node.held());
}

#[test]
fn everything_is_listed_anew_when_the_version_is_too_old_however_that_is_said() {
    let mut node = Node::new();
    for number in 1..=5 {
        node.api.apply(pod(number, "team-a", &format!("p{number}"), "Running"));
    }
    let given: Vec<Given> =
        (1..=5).map(|number| Given::gpus("team-a", &format!("p{number}"), &["GPU-a"])).collect();
    node.kubelet.give(&given);
    node.until_state("all pages are read", |state| state.named == 5);
    let lists = |node: &Node| {
        let first = |path: &&String| path.contains("limit=") && !path.contains("continue=");
        node.api.requests().iter().filter(first).count()
    };
    for (number, how) in [(6, Expiry::Status), (7, Expiry::Event)] {
        let before = lists(&node);
        // While nobody watches, one pod goes and another comes.
        node.api.delete_untold(&UID(number - 5));
        node.api.apply(pod(number, "team-a", &format!("p{number}"), "Running"));
        node.api.expire(how);
        let mut now: Vec<Given> = given.clone();
        now.push(Given::gpus("team-a", &format!("p{number}"), &["GPU-b"]));
        now.retain(|given| given.name != format!("p{}", number - 5));
        node.kubelet.give(&now);
        node.until("it is listed anew", |node| {
            let state = node.look().kubernetes;
            let held = node.held();
            // The list is over, pages and all, once it is followed by a watch.
            let watches = node.api.requests().last().is_some_and(|path| path.contains("watch=true"));
            let done = held.contains(&UID(number)) && lists(node) > before && watches;
            if done { Ok(()) } else { Err(format!("{state:?} {held}")) }
        });
    }
    // A bookmark moves the version on: no list is needed after a watch that just ends.
    node.api.bookmark();
    node.api.apply(pod(8, "team-a", "p8", "Running"));
    let before = lists(&node);
    node.api.end_watches();
    node.api.apply(pod(9, "team-a", "p9", "Running"));
    node.kubelet.give(&[Given::gpus("team-a", "p9", &["GPU-c"])]);
    node.until("the watch goes on", |node| {
        node.look();
        if node.held().contains(&UID(9)) { Ok(()) } else { Err(node.held()) }
    });
    assert_eq!(lists(&node), before);
}

#[test]
fn an_api_server_that_fails_costs_nothing_that_was_told_and_is_asked_again() {
    let mut node = Node::new();
    node.api.apply(pod(1, "team-a", "one", "Running"));
    node.kubelet.give(&[Given::gpus("team-a", "one", &["GPU-a"])]);
    node.until_state("it is named", |state| state.named == 1);
    for (trouble, expected) in [
        (Trouble::Status(403), ApiState::Refused),
        (Trouble::Status(500), ApiState::Bad),
        (Trouble::Silent, ApiState::Unreachable),
    ] {
        node.api.trouble(trouble);
        node.until_state("it is seen to fail", |state| state.api == expected && state.named == 1);
    }
    node.api.trouble(Trouble::None);
    node.until_state("it answers again", |state| state.api == ApiState::Ok);
    // Garbage in the middle of a watch; what comes after it counts.
    for garbage in
        [&b"{\"type\":\"ADDED\",\"object\":{\"metadata\":7}}\n"[..], b"nonsense\n", b"\n\n", b"[]\n"]
    {
        node.api.write_raw(garbage);
    }
    node.api.apply(pod(2, "team-a", "two", "Running"));
    node.kubelet.give(&[Given::gpus("team-a", "one", &["GPU-a"]), Given::gpus("team-a", "two", &["GPU-b"])]);
    node.until_state("the next one is known too", |state| state.named == 2);
}

#[test]
fn a_token_is_read_again_for_each_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    let named = token.clone();
    let mut node = Node::with(move |options| {
        options.api.as_mut().expect("it is asked").token_file = Some(named);
    });
    node.api.require_token("secret-2");
    node.until_state("there is no token", |state| state.api == ApiState::Unreachable);
    std::fs::write(&token, "secret-1\n").expect("written");
    node.until_state("the token is wrong", |state| state.api == ApiState::Refused);
    std::fs::write(&token, "secret-2\n").expect("written");
    node.until_state("it is right", |state| state.api == ApiState::Ok);
}

#[test]
fn a_kubelet_that_answers_garbage_or_not_at_all_ends_nothing_and_one_that_starts_again_is_found() {
    let mut node = Node::new();
    node.api.apply(pod(1, "team-a", "one", "Running"));
    node.kubelet.give(&[Given::gpus("team-a", "one", &["GPU-a"])]);
    node.until_state("it is named", |state| state.named == 1);
    node.answers(2);
    let cuts = node.cuts.len();
    for (how, expected) in [
        (Answering::With(b"nonsense".to_vec()), KubeletState::Bad),
        (Answering::With(vec![0, 0, 0, 0, 3, 10, 200, 1]), KubeletState::Bad),
        (Answering::With(vec![1, 0, 0, 0, 0]), KubeletState::Bad),
        (Answering::With(Vec::new()), KubeletState::Bad),
        (Answering::CutOff, KubeletState::Bad),
        (Answering::Status(12), KubeletState::Bad),
        (Answering::Status(7), KubeletState::Refused),
    ] {
        node.kubelet.answer(Answering::Well);
        node.until_state("it answers", |state| state.kubelet == KubeletState::Ok);
        node.kubelet.answer(how.clone());
        node.until_state(&format!("{how:?}"), |state| state.kubelet == expected && state.named == 1);
    }
    node.kubelet.answer(Answering::Never);
    node.until_state("it is waited for in vain", |state| state.kubelet == KubeletState::Unreachable);
    node.restart_kubelet();
    node.kubelet.give(&[Given::gpus("team-a", "one", &["GPU-a"])]);
    node.until_state("another one answers", |state| state.kubelet == KubeletState::Ok && state.named == 1);
    assert_eq!(node.cuts.len(), cuts, "nobody else held anything");
    node.kubelet.give(&[]);
    node.api.delete(&UID(1));
    node.until_state("it is gone", |state| state.named == 0);
    // As far as it went on, without a hole.
    let spans: Vec<_> = node.holdings.iter().map(|holding| holding.span).collect();
    assert!(spans.windows(2).all(|pair| pair[0].end() == pair[1].start()), "{spans:?}");
}

#[test]
fn a_claim_is_what_its_resource_slice_says() {
    let mut node = Node::new();
    let slices = json!({"metadata": {}, "items": [{"spec": {"driver": "gpu.nvidia.com", "pool": {"name": "node-1"},
        "devices": [{"name": "gpu-1", "attributes": {"uuid": {"string": "GPU-b"}}}]}}]});
    node.api.put("/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName%3Dnode-1", slices);
    node.api.apply(pod(1, "team-a", "claims", "Running"));
    let claim = ("gpu.nvidia.com".to_owned(), "node-1".to_owned(), "gpu-1".to_owned());
    let given =
        Given { namespace: "team-a".into(), name: "claims".into(), claims: vec![claim], ..Given::default() };
    node.kubelet.give(&[given]);
    node.until_state("it is named", |state| state.named == 1 && state.unmapped.is_empty());
    node.answers(2);
    node.look();
    expect![[r#"
        k8s:eu-1/team-a as k8s:eu-1/pod/00000001-aaaa-bbbb-cccc-000000000000 holds GPU-b by pod_resources
    "#]]
    .assert_eq(&node.held());
}

#[test]
fn without_either_there_is_nothing_and_no_trouble() {
    let mut node = Node::with(|options| {
        options.socket = Some("/nonexistent/kubelet.sock".into());
        options.api = None;
    });
    let state = node.look().kubernetes;
    assert_eq!(
        (state.kubelet, state.api, state.named + state.unnamed),
        (KubeletState::Unused, ApiState::Unused, 0)
    );
}

#[test]
fn the_numbers_of_a_kubelets_message_are_those_that_kubernetes_gave_them() {
    // A pod "p" in "n" with one container, which has one device "d" of "r" and one "x" of a claim: as bytes.
    let claim_device = [&[0x12, 1, b'v'][..], &[0x1a, 1, b'o'], &[0x22, 1, b'x'], &[0x2a, 1, b's']].concat();
    let claim = [&[0x12, 1, b'c'][..], &[0x1a, 1, b'n'], &[0x22, 12], &claim_device].concat();
    let device = [0x0a, 1, b'r', 0x12, 1, b'd'];
    let container = [&[0x0a, 1, b'm'][..], &[0x12, 6], &device, &[0x2a, 20], &claim].concat();
    let pod = [&[0x0a, 1, b'p'][..], &[0x12, 1, b'n'], &[0x1a, 33], &container].concat();
    let list = [&[0x0a, 41][..], &pod].concat();
    let given = kubelet::given(&list).expect("a list");
    expect![[r#"[Given { namespace: "n", name: "p", devices: [("r", "d")], claims: [ClaimDevice { driver: "v", pool: "o", device: "x" }] }]"#]].assert_eq(&format!("{given:?}"));
}
