//! What a scheduler keeps of jobs, with what agents saw of them.

use expect_test::expect;
use weighbridge_meter::{Evidence, Holding, UtcMillis};
use weighbridge_store::{Fact, closed, entry::JobFact, holders::changed_by};

use crate::{
    fold::state,
    support::{Book, ONE_SEGMENT, at, batch, device, gpu, minutes, usage, window},
};

/// From and to in minutes.
fn job(number: u32, account: &str, from: i64, to: Option<i64>) -> JobFact {
    let span = minutes(from, to.unwrap_or(from + 1));
    JobFact {
        job: format!("slurm:c/{number}").parse().unwrap(),
        submitted: span.start(),
        name: None,
        principal: format!("slurm:c/{account}").parse().unwrap(),
        started: span.start(),
        ended: to.map(|_| span.end()),
        state: "COMPLETED".into(),
        nodes: "n1".into(),
        accelerators: 1,
        shares: None,
        restart: None,
        record: None,
        uid: None,
        array: None,
        hints: Default::default(),
    }
}

fn seen(attempt: &str, account: &str, evidence: Evidence, from: i64, to: i64) -> Holding {
    Holding {
        principal: format!("slurm:c/{account}").parse().unwrap(),
        attempt: format!("slurm:c/{attempt}").parse().unwrap(),
        accelerators: vec![gpu(0)],
        span: minutes(from, to),
        evidence,
    }
}

const HOOK: Evidence = Evidence::SchedulerHook;
const CGROUP: Evidence = Evidence::AllocatorProcess;

/// An accelerator that works for two hours, a window in each half of both, and what was seen of its holders.
fn measured(holdings: Vec<Holding>) -> Book {
    let mut book = Book::enrolled(ONE_SEGMENT);
    let mut first = batch(0, 1);
    first.inventory.push(device(0, 0, at(0)));
    first.windows.extend((0..4).map(|half| window(0, minutes(half * 30, half * 30 + 30), 500)));
    first.holdings = holdings;
    book.batch(&first);
    book
}

/// Accounts with the minutes that they held.
async fn held(book: &mut Book) -> String {
    let usage = usage(&*book.folded().await).await;
    let mut lines = String::new();
    for line in usage.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let seconds: f64 = words[6].trim_end_matches('s').parse().unwrap();
        lines += &format!("{} {} {} {} min\n", &words[0][11..13], words[2], words[3], seconds / 60.0);
    }
    lines
}

#[tokio::test]
async fn a_record_names_whose_a_job_is_where_the_host_does_not_know() {
    let mut book = measured(vec![seen("7", "%3F", CGROUP, 10, 20), seen("8", "%3F", CGROUP, 20, 30)]);
    expect![[r#"
        08 - unattributed 60 min
        09 - unattributed 60 min
    "#]]
    .assert_eq(&held(&mut book).await);
    book.fact(Fact::Job(job(7, "physics", 9, Some(20))));
    expect![[r#"
        08 - unattributed 50 min
        08 slurm:c/physics attributed 10 min
        09 - unattributed 60 min
    "#]]
    .assert_eq(&held(&mut book).await);
}

#[tokio::test]
async fn a_job_of_which_a_cgroup_and_a_hook_speak_is_one() {
    let hook = seen("7+2", "physics", HOOK, 10, 30);
    let mut book = measured(vec![hook, seen("7", "%3F", CGROUP, 12, 28)]);
    book.fact(Fact::Job(job(7, "physics", 9, Some(30))));
    expect![[r#"
        08 - unattributed 40 min
        08 slurm:c/physics attributed 20 min
        09 - unattributed 60 min
    "#]]
    .assert_eq(&held(&mut book).await);
}

#[tokio::test]
async fn starts_of_a_job_under_two_accounts_are_told_apart_by_time() {
    let mut book = measured(vec![seen("7", "%3F", CGROUP, 10, 50)]);
    book.fact(Fact::Job(job(7, "biology", 30, Some(50))));
    book.fact(Fact::Job(job(7, "physics", 10, Some(29))));
    expect![[r#"
        08 - unattributed 20 min
        08 slurm:c/biology attributed 20 min
        08 slurm:c/physics attributed 20 min
        09 - unattributed 60 min
    "#]]
    .assert_eq(&held(&mut book).await);
}

#[tokio::test]
async fn what_no_epilog_ended_goes_on_until_the_record_says_or_another_job_is_there() {
    let mut book = measured(vec![
        seen("7", "physics", HOOK, 10, 20),
        seen("8", "physics", HOOK, 60, 70),
        seen("9", "biology", HOOK, 75, 80),
    ]);
    book.fact(Fact::Job(job(7, "physics", 10, Some(40))));
    book.fact(Fact::Job(job(8, "physics", 60, Some(90))));
    expect![[r#"
        08 - unattributed 30 min
        08 slurm:c/physics attributed 30 min
        09 - unattributed 30 min
        09 slurm:c/biology attributed 5 min
        09 slurm:c/physics attributed 25 min
    "#]]
    .assert_eq(&held(&mut book).await);
}

#[tokio::test]
async fn a_host_and_a_scheduler_that_say_two_accounts_are_in_dispute() {
    let mut book = measured(vec![seen("7", "physics", HOOK, 10, 20)]);
    book.fact(Fact::Job(job(7, "biology", 10, Some(20))));
    let held = held(&mut book).await;
    assert!(held.contains("08 slurm:c/biology disputed 5 min\n08 slurm:c/physics disputed 5 min"), "{held}");
}

#[tokio::test]
async fn a_corrected_record_changes_what_it_says_otherwise_and_nothing_else() {
    let mut book = measured(vec![seen("7", "%3F", CGROUP, 10, 90), seen("8", "%3F", CGROUP, 90, 100)]);
    book.fact(Fact::Job(job(7, "physics", 10, Some(90))));
    book.fact(Fact::Job(job(8, "physics", 90, Some(95))));
    let before = state(&*book.folded().await).await;
    let changed = |job: &JobFact| -> Vec<(i64, i64)> {
        let minute = |moment: UtcMillis| moment.since(at(0)) / UtcMillis::MINUTE;
        let spans = changed_by(&before, job).into_iter();
        spans.map(|(_, span)| (minute(span.start()), minute(span.end()))).collect()
    };
    assert_eq!(changed(&job(7, "physics", 10, Some(90))), [], "the same again");
    assert_eq!(changed(&job(7, "physics", 10, Some(85))), [], "it was seen until 90 all the same");
    assert_eq!(changed(&job(7, "physics", 10, Some(99))), [], "another was there by then");
    assert_eq!(changed(&job(8, "physics", 90, Some(110))), [(100, 110)], "it went on after it was seen");
    assert_eq!(changed(&job(7, "biology", 10, Some(90))), [(10, 90)], "another account");
    assert_eq!(changed(&job(9, "physics", 10, Some(90))), [], "nobody saw it");
    book.fact(Fact::Job(job(7, "biology", 10, Some(90))));
    expect![[r#"
        08 - unattributed 10 min
        08 slurm:c/biology attributed 50 min
        09 - unattributed 20 min
        09 slurm:c/biology attributed 30 min
        09 slurm:c/physics attributed 10 min
    "#]]
    .assert_eq(&held(&mut book).await);
}

#[tokio::test]
async fn a_record_that_would_change_a_closed_hour_is_known() {
    let mut book = measured(vec![seen("7", "%3F", CGROUP, 10, 20), seen("8", "physics", HOOK, 20, 30)]);
    book.fact(closed::fact(at(UtcMillis::HOUR)));
    let state = state(&*book.folded().await).await;
    assert!(closed::job_changes_closed(&state, &job(7, "physics", 10, Some(20))));
    assert!(!closed::job_changes_closed(&state, &job(8, "physics", 20, Some(30))), "it says what is known");
    assert!(!closed::job_changes_closed(&state, &job(9, "physics", 10, Some(20))), "nobody saw it");
}
