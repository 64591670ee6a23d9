//! Kubernetes as a witness, against a kubelet on a real socket and an API server that watches.

mod support;

use expect_test::expect;
use serde_json::json;
use support::{Node, OWNERS, UID, pod};
use weighbridge_agent::holders::kubernetes::{ApiState, KubeletState};
use weighbridge_fake_kubernetes::{Answering, Expiry, Given, Trouble};

#[test]
fn a_pod_holds_what_the_kubelet_gave_it_from_its_first_answer_to_its_last() {
    let mut node = Node::new();
    node.api.apply(pod(0, "team-a", "train-0", "Running"));
    node.kubelet.give(&[Given::gpus("team-a", "train-0", &["GPU-a", "GPU-b::3"])]);
    node.until_state("it is named", |state| state.named == 1);
    node.answers(2);
    node.kubelet.give(&[]);
    node.until_state("it is gone", |state| state.named == 0);
    expect![[r#"
        k8s:eu-1/team-a as k8s:eu-1/pod/00000000-aaaa-bbbb-cccc-000000000000 holds GPU-a+GPU-b by pod_resources
    "#]]
    .assert_eq(&node.held());
}
