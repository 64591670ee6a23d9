use std::fmt::Write;

use expect_test::{Expect, expect};
use weighbridge_meter::{Source, Tier};

use super::{pods::Marks, pods::Pod, *};

/// 2026-01-31T08:00:00Z.
const START: i64 = 1_769_846_400_000;

fn wall(seconds: i64) -> UtcMillis {
    UtcMillis(START + seconds * 1000)
}

fn at(seconds: i64) -> Now {
    Now { boot_ms: 1_000_000 + u64::try_from(seconds * 1000).expect("positive"), wall: wall(seconds) }
}

fn uid(number: u32) -> String {
    format!("{number:08x}-aaaa-bbbb-cccc-000000000000")
}

/// One node, and what its book said.
struct Story {
    book: Book,
    pods: Pods,
    shown: String,
}

impl Story {
    fn new(api: bool) -> Self {
        Self::on(api, true)
    }

    fn on(api: bool, host_clock: bool) -> Self {
        let api = api.then(|| ApiOptions {
            url: "http://127.0.0.1:1".parse().expect("an address"),
            token_file: None,
            ca_file: None,
            deadline: Duration::from_secs(1),
        });
        let options = KubernetesOptions {
            socket: None,
            poll: Duration::from_secs(5),
            api,
            host: "h".into(),
            node: "n".into(),
            cluster: "c".into(),
            tenant_label: None,
            proc: "/nonexistent".into(),
        };
        let mut book = Book::new(&options, Names::new("c", [1; 32]).expect("a name"), host_clock);
        let device = |id: &str| Device::new(id.parse().expect("a name"), "x", Source::Nvml, Tier::B);
        book.learn(&["GPU-a", "GPU-b"].map(device));
        Self { book, pods: Pods::default(), shown: String::new() }
    }

    /// The API server tells of a pod.
    fn pod(&mut self, number: u32, name: &str, change: impl FnOnce(&mut Known)) {
        let uid = uid(number);
        let pod = Pod {
            uid: uid.clone(),
            namespace: "ns".into(),
            name: name.into(),
            mirror_of: None,
            owner: None,
            marks: Marks::default(),
            began: None,
            over: false,
            ended: None,
        };
        let mut known = Known {
            pod: Arc::new(pod),
            principal: "k8s:c/ns".parse().expect("a principal"),
            attempt: format!("k8s:c/{number}").parse().expect("an attempt"),
            gone: None,
        };
        change(&mut known);
        let mut all = (*self.pods.by_uid).clone();
        all.insert(uid, known);
        self.pods =
            Pods { listed: true, by_uid: Arc::new(all), version: self.pods.version + 1, ..self.pods.clone() };
    }

    /// A look at which the kubelet has answered: pods and their devices.
    fn answer(&mut self, seconds: i64, pods: &[(&str, &str)]) {
        let given = pods.iter().map(|(name, ids)| Given {
            namespace: "ns".into(),
            name: (*name).into(),
            devices: ids.split('+').map(|id| ("nvidia.com/gpu".to_owned(), id.to_owned())).collect(),
            claims: Vec::new(),
        });
        let answer = Answer { asked: wall(seconds), heard: wall(seconds), pods: given.collect() };
        self.hear(seconds, &[answer]);
    }

    /// A look at which it has not.
    fn look(&mut self, seconds: i64) {
        self.hear(seconds, &[]);
    }

    fn hear(&mut self, seconds: i64, answers: &[Answer]) {
        let mut news = HolderNews::default();
        self.book.hear(at(seconds), answers, self.pods.clone(), &mut news);
        assert_eq!(news.holdings, []);
        if !news.changed.is_empty() {
            let mut ids: Vec<&str> = news.changed.iter().map(AcceleratorId::as_str).collect();
            ids.sort_unstable();
            ids.dedup();
            writeln!(self.shown, "{seconds}: cut {}", ids.join("+")).expect("a string");
        }
    }

    /// What is to be recorded now.
    fn batch(&mut self) {
        for holding in self.book.recorded() {
            let seconds = |moment: UtcMillis| (moment.0 - START) as f64 / 1000.0;
            let ids: Vec<&str> = holding.accelerators.iter().map(AcceleratorId::as_str).collect();
            writeln!(
                self.shown,
                "  {} as {} holds {} {}..{}",
                holding.principal,
                holding.attempt,
                ids.join("+"),
                seconds(holding.span.start()),
                seconds(holding.span.end())
            )
            .expect("a string");
        }
    }

    fn check(mut self, expected: &Expect) {
        self.batch();
        expected.assert_eq(&self.shown);
    }
}

fn change_pod(known: &mut Known, change: impl FnOnce(&mut Pod)) {
    change(Arc::make_mut(&mut known.pod));
}

#[test]
fn a_pod_holds_up_to_the_last_answer_and_windows_are_cut_when_it_begins_and_ends() {
    let mut story = Story::new(true);
    story.pod(1, "one", |_| {});
    story.answer(0, &[]);
    story.answer(5, &[("one", "GPU-a")]);
    story.answer(10, &[("one", "GPU-a")]);
    story.look(12);
    story.batch();
    story.batch();
    story.answer(15, &[("one", "GPU-a")]);
    story.pod(1, "one", |known| known.gone = Some(wall(18)));
    story.answer(20, &[]);
    story.check(&expect![[r#"
        5: cut GPU-a
          k8s:c/ns as k8s:c/1 holds GPU-a 5..10
        20: cut GPU-a
          k8s:c/ns as k8s:c/1 holds GPU-a 10..15
    "#]]);
}

#[test]
fn it_begins_when_the_kubelet_took_it_on_but_not_before_the_answer_before() {
    let mut story = Story::new(true);
    story.answer(5, &[]);
    story.pod(1, "inside", |known| change_pod(known, |pod| pod.began = Some(wall(7))));
    story.pod(2, "earlier", |known| change_pod(known, |pod| pod.began = Some(wall(1))));
    story.answer(10, &[("inside", "GPU-a"), ("earlier", "GPU-b")]);
    story.check(&expect![[r#"
        10: cut GPU-a+GPU-b
          k8s:c/ns as k8s:c/1 holds GPU-a 8..10
          k8s:c/ns as k8s:c/2 holds GPU-b 5..10
    "#]]);

    let mut story = Story::on(true, false);
    story.answer(5, &[]);
    story.pod(1, "inside", |known| change_pod(known, |pod| pod.began = Some(wall(7))));
    story.answer(10, &[("inside", "GPU-a")]);
    story.answer(15, &[("inside", "GPU-a")]);
    story.check(&expect![[r#"
        10: cut GPU-a
          k8s:c/ns as k8s:c/1 holds GPU-a 10..15
    "#]]);
}

#[test]
fn it_ends_when_its_containers_did_also_while_an_old_kubelet_still_lists_it() {
    let over = |seconds| {
        move |known: &mut Known| change_pod(known, |pod| (pod.over, pod.ended) = (true, Some(wall(seconds))))
    };
    let mut story = Story::new(true);
    story.pod(1, "one", |_| {});
    story.pod(2, "two", |_| {});
    story.answer(0, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.answer(5, &[("one", "GPU-a"), ("two", "GPU-b")]);
    // Between answers the API server alone tells it; and one ended before it was last listed.
    story.pod(1, "one", over(8));
    story.pod(2, "two", over(3));
    story.look(9);
    story.answer(10, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.answer(15, &[("one", "GPU-a")]);
    story.check(&expect![[r#"
        0: cut GPU-a+GPU-b
        9: cut GPU-a+GPU-b
          k8s:c/ns as k8s:c/1 holds GPU-a 0..8
          k8s:c/ns as k8s:c/2 holds GPU-b 0..3
    "#]]);

    // What is in a record already stays there.
    let mut story = Story::new(true);
    story.pod(1, "one", |_| {});
    story.answer(0, &[("one", "GPU-a")]);
    story.answer(5, &[("one", "GPU-a")]);
    story.batch();
    story.pod(1, "one", over(3));
    story.answer(10, &[]);
    story.check(&expect![[r#"
        0: cut GPU-a
          k8s:c/ns as k8s:c/1 holds GPU-a 0..5
        10: cut GPU-a
    "#]]);
}

#[test]
fn a_pod_that_is_listed_no_longer_ends_when_the_api_server_tells_soon_after() {
    let mut story = Story::new(true);
    story.pod(1, "one", |_| {});
    story.pod(2, "two", |_| {});
    story.answer(0, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.answer(5, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.answer(10, &[]);
    story.batch();
    story.answer(15, &[]);
    story.pod(1, "one", |known| change_pod(known, |pod| (pod.over, pod.ended) = (true, Some(wall(8)))));
    story.look(16);
    // Of the other nothing is ever told.
    story.answer(20, &[]);
    story.answer(25, &[]);
    story.check(&expect![[r#"
        0: cut GPU-a+GPU-b
          k8s:c/ns as k8s:c/1 holds GPU-a 0..5
          k8s:c/ns as k8s:c/2 holds GPU-b 0..5
        16: cut GPU-a
        25: cut GPU-b
          k8s:c/ns as k8s:c/1 holds GPU-a 5..8
    "#]]);
}

#[test]
fn a_kubelet_that_does_not_answer_ends_nothing_and_confirms_nothing() {
    let mut story = Story::new(true);
    story.pod(1, "one", |_| {});
    story.answer(0, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.answer(5, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.look(60);
    story.batch();
    story.look(240);
    story.batch();
    // The very same pod had it all the time; of one that is known by name alone nobody knows.
    story.answer(300, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.answer(305, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.check(&expect![[r#"
        0: cut GPU-a+GPU-b
          k8s:c/ns as k8s:c/1 holds GPU-a 0..5
          k8s:c/ns as k8s:c/pod-name/e46493397f9f634cef6fba5e4441ed99 holds GPU-b 0..5
        300: cut GPU-b
        305: cut GPU-b
          k8s:c/ns as k8s:c/1 holds GPU-a 5..305
          k8s:c/ns as k8s:c/pod-name/e46493397f9f634cef6fba5e4441ed99 holds GPU-b 300..305
    "#]]);
}

#[test]
fn a_pod_that_the_api_server_should_know_is_waited_for_and_then_known_by_its_name_alone() {
    let mut story = Story::new(true);
    story.answer(0, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.answer(5, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.batch();
    story.pod(1, "one", |_| {});
    story.answer(10, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.batch();
    story.answer(15, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.batch();
    story.pod(2, "two", |_| {});
    story.answer(20, &[("one", "GPU-a"), ("two", "GPU-b")]);
    story.answer(25, &[("one", "GPU-a"), ("two", "GPU-b")]);
    assert_eq!((story.book.state.named, story.book.state.unnamed), (2, 0));
    story.check(&expect![[r#"
        0: cut GPU-a+GPU-b
          k8s:c/ns as k8s:c/1 holds GPU-a 0..10
          k8s:c/ns as k8s:c/1 holds GPU-a 10..15
          k8s:c/ns as k8s:c/pod-name/e46493397f9f634cef6fba5e4441ed99 holds GPU-b 0..15
        20: cut GPU-b
          k8s:c/ns as k8s:c/1 holds GPU-a 15..25
          k8s:c/ns as k8s:c/pod-name/e46493397f9f634cef6fba5e4441ed99 holds GPU-b 15..20
          k8s:c/ns as k8s:c/2 holds GPU-b 20..25
    "#]]);
}

#[test]
fn without_an_api_server_the_namespace_is_known_and_the_attempt_is_a_digest() {
    let mut story = Story::new(false);
    story.answer(0, &[("one", "GPU-a")]);
    story.answer(5, &[("one", "GPU-a")]);
    assert_eq!((story.book.state.named, story.book.state.unnamed), (0, 1));
    assert!(story.book.is_given(&"GPU-a".parse().unwrap()));
    assert!(!story.book.is_given(&"GPU-b".parse().unwrap()));
    story.check(&expect![[r#"
        0: cut GPU-a
          k8s:c/ns as k8s:c/pod-name/e562fdca94c7a7bd85180a1d690b40e4 holds GPU-a 0..5
    "#]]);
    let names = |key| Names::new("c", key).unwrap();
    assert_ne!(names([1; 32]).attempt_by_name("ns", "one"), names([2; 32]).attempt_by_name("ns", "one"));
    assert_ne!(names([1; 32]).attempt_by_name("ns", "one"), names([1; 32]).attempt_by_name("n", "sone"));
}

#[test]
fn a_pod_of_the_same_name_is_another_and_a_new_name_of_one_pod_goes_on_where_the_old_one_ended() {
    let mut story = Story::new(true);
    story.pod(1, "one", |_| {});
    story.answer(0, &[("one", "GPU-a")]);
    story.answer(5, &[("one", "GPU-a")]);
    story.pod(1, "one", |known| {
        known.gone = Some(wall(7));
        change_pod(known, |pod| (pod.over, pod.ended) = (true, Some(wall(6))));
    });
    story.pod(2, "one", |known| change_pod(known, |pod| pod.began = Some(wall(7))));
    story.answer(10, &[("one", "GPU-a")]);
    story.batch();
    // Its namespace is somebody else's now.
    story.pod(2, "one", |known| known.principal = "k8s:c/other".parse().unwrap());
    story.look(12);
    story.answer(15, &[("one", "GPU-a")]);
    story.batch();
    // What was told once stays.
    story.pods.by_uid = Arc::default();
    story.pods.version += 1;
    story.answer(20, &[("one", "GPU-a")]);
    story.answer(60, &[("one", "GPU-a")]);
    story.check(&expect![[r#"
        0: cut GPU-a
        10: cut GPU-a
          k8s:c/ns as k8s:c/1 holds GPU-a 0..6
          k8s:c/ns as k8s:c/2 holds GPU-a 8..10
        12: cut GPU-a
          k8s:c/other as k8s:c/2 holds GPU-a 10..15
          k8s:c/other as k8s:c/2 holds GPU-a 15..60
    "#]]);
}

#[test]
fn several_pods_share_one_device_and_what_is_none_is_counted() {
    let mut story = Story::new(false);
    let pods = [("one", "GPU-a::0+GPU-a::1"), ("two", "GPU-a::2"), ("three", "nvidia9"), ("four", "x")];
    story.answer(0, &pods);
    story.answer(5, &pods);
    let unmapped: Vec<_> = story.book.state.unmapped.iter().collect();
    assert_eq!(unmapped, [(&Unmapped::Shape, &1), (&Unmapped::Node, &1)]);
    story.check(&expect![[r#"
        0: cut GPU-a
          k8s:c/ns as k8s:c/pod-name/e562fdca94c7a7bd85180a1d690b40e4 holds GPU-a 0..5
          k8s:c/ns as k8s:c/pod-name/e46493397f9f634cef6fba5e4441ed99 holds GPU-a 0..5
    "#]]);
}

#[test]
fn the_moments_of_several_answers_between_two_looks_all_count() {
    let mut story = Story::new(false);
    let answer = |seconds, pods: &[&str]| Answer {
        asked: wall(seconds),
        heard: wall(seconds),
        pods: pods
            .iter()
            .map(|name| Given {
                namespace: "ns".into(),
                name: (*name).into(),
                devices: vec![("nvidia.com/gpu".into(), "GPU-a".into())],
                claims: Vec::new(),
            })
            .collect(),
    };
    let answers =
        [answer(0, &["one"]), answer(1, &["one"]), answer(2, &["two"]), answer(3, &["two"]), answer(4, &[])];
    story.hear(4, &answers);
    story.check(&expect![[r#"
        4: cut GPU-a
          k8s:c/ns as k8s:c/pod-name/e562fdca94c7a7bd85180a1d690b40e4 holds GPU-a 0..1
          k8s:c/ns as k8s:c/pod-name/e46493397f9f634cef6fba5e4441ed99 holds GPU-a 2..3
    "#]]);
}

#[test]
fn an_accelerator_that_is_found_later_is_held_from_then_on() {
    let mut story = Story::new(true);
    story.book.learn(&[]);
    story.pod(1, "one", |_| {});
    story.answer(0, &[("one", "GPU-a")]);
    story.answer(5, &[("one", "GPU-a")]);
    assert!(story.book.state.unmapped.len() == 1);
    story.book.learn(&[Device::new("GPU-a".parse().unwrap(), "x", Source::Nvml, Tier::B)]);
    story.look(6);
    story.answer(10, &[("one", "GPU-a")]);
    story.check(&expect![[r#"
        10: cut GPU-a
    "#]]);
}

#[test]
fn what_an_answer_says_was_so_by_the_time_it_came_and_since_it_was_asked_for() {
    let mut story = Story::new(false);
    let answer = |asked, heard, pods: Vec<Given>| Answer { asked: wall(asked), heard: wall(heard), pods };
    let given = Given {
        namespace: "ns".into(),
        name: "one".into(),
        devices: vec![("nvidia.com/gpu".into(), "GPU-a".into())],
        claims: Vec::new(),
    };
    // It begins when the answer is there at the latest, and is seen to go on to when the last one was asked for.
    story.hear(3, &[answer(0, 3, vec![given.clone()])]);
    story.hear(13, &[answer(10, 13, vec![given])]);
    story.hear(23, &[answer(20, 23, Vec::new())]);
    story.check(&expect![[r#"
        3: cut GPU-a
        23: cut GPU-a
          k8s:c/ns as k8s:c/pod-name/e562fdca94c7a7bd85180a1d690b40e4 holds GPU-a 3..10
    "#]]);
}

#[test]
fn a_static_pod_is_known_by_the_digest_that_cgroups_call_it() {
    let mut story = Story::new(true);
    let digest = "0123456789abcdef0123456789abcdef";
    story.pod(1, "one", |known| change_pod(known, |pod| pod.mirror_of = Some(digest.into())));
    story.look(0);
    assert_eq!(story.book.pod(digest).map(|known| known.attempt.as_str()), Some("k8s:c/1"));
    assert_eq!(story.book.pod(&uid(1)).map(|known| known.attempt.as_str()), Some("k8s:c/1"));
    assert!(story.book.pod(&uid(2)).is_none());
}
