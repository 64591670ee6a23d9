//! What may follow what in a case, and how its clocks run.

use crate::support::{at, small};
use expect_test::{Expect, expect};
use weighbridge_casework::{Case, CaseEvent, Decision, Step, Subject, case::FindingRef};
use weighbridge_meter::UtcMillis;

/// Days of February and March 2026, at noon UTC: 07:00 in New York, from 8 March on 08:00.
fn day(day: i64) -> UtcMillis {
    at("2026-02-01T12:00:00Z").plus((day - 1) * UtcMillis::DAY)
}

fn finding(name: &str, raised: i64) -> FindingRef {
    FindingRef { id: name.into(), raised_at: day(raised), own_clock: false }
}

fn step(word: &str) -> Step {
    let (name, rest) = word.split_once('=').unwrap_or((word, ""));
    let version = || rest.parse().unwrap();
    let reason = || "a reason".to_owned();
    let decided = |decision| Step::Decided { decision, reason: reason() };
    match name {
        "open" => Step::Opened {
            pack: "small".into(),
            pack_version: "1".into(),
            subject: Subject::Customer("acme".into()),
            findings: vec![finding("f1", 1)],
        },
        "add" => {
            let (id, raised) = rest.split_once('@').unwrap();
            Step::FindingAdded { finding: finding(id, raised.parse().unwrap()) }
        }
        "change" => {
            let (id, raised) = rest.split_once('@').unwrap();
            let finding = FindingRef { own_clock: true, ..finding(id, raised.parse().unwrap()) };
            Step::FindingAdded { finding }
        }
        "seen" => Step::Seen,
        "yes" => decided(Decision::Reportable),
        "no" => decided(Decision::NotReportable),
        "more" => decided(Decision::MoreInformationNeeded),
        "mute" => Step::Decided { decision: Decision::NotReportable, reason: " ".into() },
        "draft" => Step::Drafted { version: version(), report_sha256: None },
        "file" => Step::Filed { version: version(), reference: None },
        "correct" => Step::Corrected { version: version(), reference: Some("R-1".into()) },
        "asked" => {
            Step::FollowUpRequested { received_at: day(rest.parse().unwrap()), question: "how?".into() }
        }
        "answered" => Step::FollowUpAnswered,
        "error" => Step::ErrorFound { found_at: day(rest.parse().unwrap()), what: "a sum".into() },
        "fine" => Step::ErrorDismissed { reason: reason() },
        "close" => Step::Closed { reason: reason() },
        "reopen" => Step::Reopened { reason: reason() },
        _ => panic!("{word}"),
    }
}

/// Events as `day:word`, in their order.
fn events(script: &str) -> Vec<CaseEvent> {
    let event = |part: &str| {
        let (on, word) = part.split_once(':').unwrap();
        CaseEvent { at: day(on.parse().unwrap()), by: "ann".into(), step: step(word) }
    };
    script.split_whitespace().map(event).collect()
}

fn fold(script: &str) -> Case {
    Case::fold("c1", events(script)).unwrap()
}

/// For each `(events, day)` the state and the clocks of the case as of that day, or the error.
fn check(scripts: &[(&str, i64)], expected: Expect) {
    let shown: String = scripts.iter().map(|(script, now)| shown(script, *now) + "\n").collect();
    expected.assert_eq(&shown);
}

fn shown(script: &str, now: i64) -> String {
    let case = match Case::fold("c1", events(script)) {
        Ok(case) => case,
        Err(error) => return error.to_string(),
    };
    let mut shown = case.state().to_string();
    for clock in case.clocks(&small(), day(now)) {
        let how = match (clock.stopped_at, clock.overdue) {
            (None, false) => "runs",
            (None, true) => "overdue",
            (Some(_), false) => "stopped in time",
            (Some(_), true) => "stopped late",
        };
        let hours = clock.remaining_ms / UtcMillis::HOUR;
        shown.push_str(&format!(" | {} due {} {how} {hours}h", clock.clock, clock.due_local));
    }
    shown
}

#[test]
fn a_case_goes_its_usual_way() {
    check(
        &[
            ("1:open", 2),
            ("1:open 2:seen 3:yes 4:draft=1 5:draft=2", 6),
            ("1:open 2:seen 3:yes 4:draft=1 5:file=1", 40),
            ("1:open 2:seen 3:yes 4:draft=1 5:file=1 6:close", 40),
            ("1:open 2:seen 3:no 6:close", 40),
        ],
        expect![[r#"
            open | report due 2026-02-16 07:00 America/New_York runs 336h
            draft 2 | report due 2026-02-16 07:00 America/New_York runs 240h
            filed 1 | report due 2026-02-16 07:00 America/New_York stopped in time 264h
            closed | report due 2026-02-16 07:00 America/New_York stopped in time 264h
            closed | report due 2026-02-16 07:00 America/New_York stopped in time 312h
        "#]],
    );
}

#[test]
fn a_report_that_is_late_stays_late() {
    check(
        &[("1:open 2:seen 3:yes", 17), ("1:open 2:seen 3:yes 4:draft=1 17:file=1", 60)],
        expect![[r#"
        decided: reportable | report due 2026-02-16 07:00 America/New_York overdue -24h
        filed 1 | report due 2026-02-16 07:00 America/New_York stopped late -24h
    "#]],
    );
}

#[test]
fn fifteen_days_over_a_change_of_the_clocks_end_at_the_same_local_time() {
    check(
        &[("1:open 2:seen 3:no 25:add=f2@25", 26)],
        expect![[r#"
        open | report due 2026-02-16 07:00 America/New_York stopped in time 312h | report due 2026-03-12 07:00 America/New_York runs 335h
    "#]],
    );
}

#[test]
fn asking_for_more_does_not_stop_the_clock() {
    check(
        &[("1:open 2:seen 3:more", 4)],
        expect![[r#"
        decided: more information needed | report due 2026-02-16 07:00 America/New_York runs 288h
    "#]],
    );
}

#[test]
fn a_dismissal_that_is_taken_back_leaves_the_time_of_knowledge() {
    check(
        &[
            ("1:open 2:seen 3:no", 10),
            ("1:open 2:seen 3:no 9:yes", 10),
            ("1:open 2:seen 3:no 4:close 9:reopen", 10),
        ],
        expect![[r#"
            decided: not reportable | report due 2026-02-16 07:00 America/New_York stopped in time 312h
            decided: reportable | report due 2026-02-16 07:00 America/New_York runs 144h
            open | report due 2026-02-16 07:00 America/New_York runs 144h
        "#]],
    );
}

#[test]
fn a_new_finding_starts_a_clock_of_its_own() {
    check(
        &[
            ("1:open 2:seen 3:yes 4:draft=1 5:file=1 9:add=f2@8", 10),
            ("1:open 2:add=f2@2", 3),
            ("1:open 2:seen 3:no 9:add=f2@8 10:seen 11:yes", 12),
        ],
        expect![[r#"
            open | report due 2026-02-16 07:00 America/New_York stopped in time 264h | report due 2026-02-23 07:00 America/New_York runs 312h
            open | report due 2026-02-16 07:00 America/New_York runs 312h
            decided: reportable | report due 2026-02-16 07:00 America/New_York stopped in time 312h | report due 2026-02-23 07:00 America/New_York runs 264h
        "#]],
    );
}

#[test]
fn each_change_in_the_arrangements_has_a_clock_of_its_own() {
    check(
        &[
            ("1:open 4:change=f2@4 9:add=f3@9 10:change=f4@10", 12),
            ("1:open 4:change=f2@4 5:seen 6:no 10:change=f3@10", 12),
        ],
        expect![[r#"
            open | report due 2026-02-16 07:00 America/New_York runs 96h | report due 2026-02-19 07:00 America/New_York runs 168h | report due 2026-02-25 07:00 America/New_York runs 312h
            open | report due 2026-02-16 07:00 America/New_York stopped in time 240h | report due 2026-02-19 07:00 America/New_York stopped in time 312h | report due 2026-02-25 07:00 America/New_York runs 312h
        "#]],
    );
}

#[test]
fn a_finding_of_an_older_ledger_has_no_clock_of_its_own() {
    let older = r#"{"id":"f1","raised_at":"2026-02-01T12:00:00Z"}"#;
    let read: FindingRef = serde_json::from_str(older).unwrap();
    assert!(!read.own_clock);
    assert_eq!(serde_json::to_string(&read).unwrap(), older);
}

#[test]
fn what_is_asked_and_what_is_wrong_have_their_own_clocks() {
    check(
        &[
            ("1:open 2:seen 3:yes 4:draft=1 5:file=1 7:asked=6", 8),
            ("1:open 2:seen 3:yes 4:draft=1 5:file=1 7:asked=6 8:answered", 30),
            ("1:open 2:seen 3:yes 4:draft=1 5:file=1 7:error=7 8:draft=2 13:correct=2", 30),
            ("1:open 2:seen 3:yes 4:draft=1 5:file=1 7:error=7 8:fine 9:close", 30),
        ],
        expect![[r#"
            filed 1 | report due 2026-02-16 07:00 America/New_York stopped in time 264h | follow-up due 2026-02-16 07:00 America/New_York runs 192h
            filed 1 | report due 2026-02-16 07:00 America/New_York stopped in time 264h | follow-up due 2026-02-16 07:00 America/New_York stopped in time 192h
            filed 2 | report due 2026-02-16 07:00 America/New_York stopped in time 264h | correction due 2026-02-12 07:00 America/New_York stopped late -24h
            closed | report due 2026-02-16 07:00 America/New_York stopped in time 264h | correction due 2026-02-12 07:00 America/New_York stopped in time 96h
        "#]],
    );
}

#[test]
fn what_cannot_follow_is_refused_by_state_and_event() {
    check(
        &[
            ("1:seen", 2),
            ("1:open 2:open", 2),
            ("1:open 2:yes", 2),
            ("1:open 2:seen 3:seen", 2),
            ("1:open 2:seen 3:no 4:draft=1", 2),
            ("1:open 2:seen 3:yes 4:file=1", 2),
            ("1:open 2:seen 3:yes 4:draft=1 5:correct=1", 2),
            ("1:open 2:seen 3:yes 4:draft=1 5:file=1 6:draft=2 7:file=2", 2),
            ("1:open 2:seen 3:yes 4:close", 2),
            ("1:open 2:seen 3:yes 4:draft=1 5:file=1 6:asked=6 7:close", 2),
            ("1:open 2:seen 3:yes 4:asked=4", 2),
            ("1:open 2:seen 3:yes 4:draft=1 5:file=1 6:answered", 2),
            ("1:open 2:seen 3:yes 4:draft=1 5:file=1 6:fine", 2),
            ("1:open 2:seen 3:no 4:close 5:seen", 2),
            ("1:open 2:seen 3:no 4:close 5:add=f2@5", 2),
        ],
        expect![[r#"
            case c1: the first event is seen, expected opened
            case c1: opened cannot follow in state "open"
            case c1: decided cannot follow in state "open"
            case c1: seen cannot follow in state "seen"
            case c1: drafted cannot follow in state "decided: not reportable"
            case c1: filed cannot follow in state "decided: reportable"
            case c1: corrected cannot follow in state "draft 1"
            case c1: filed cannot follow in state "draft 2"
            case c1: closed cannot follow in state "decided: reportable"
            case c1: closed cannot follow in state "filed 1"
            case c1: follow_up_requested cannot follow in state "decided: reportable"
            case c1: follow_up_answered cannot follow in state "filed 1"
            case c1: error_dismissed cannot follow in state "filed 1"
            case c1: seen cannot follow in state "closed"
            case c1: finding_added cannot follow in state "closed"
        "#]],
    );
}

#[test]
fn what_is_incomplete_is_refused_by_its_part() {
    check(
        &[
            ("1:open 2:seen 3:mute", 2),
            ("1:open 2:seen 3:yes 4:draft=2", 2),
            ("1:open 2:seen 3:yes 4:draft=1 5:file=2", 2),
            ("1:open 2:add=f1@2", 2),
        ],
        expect![[r#"
            case c1: decided has reason " ", expected some words
            case c1: drafted has version "2", expected 1
            case c1: filed has version "2", expected the draft, 1
            case c1: finding_added has finding "f1", expected one that is not in the case
        "#]],
    );
}

#[test]
fn a_case_needs_events_and_a_finding() {
    let none = Case::fold("c1", []).unwrap_err();
    assert_eq!(none.to_string(), "case c1: the first event is none, expected opened");
    let mut opened = events("1:open");
    if let Step::Opened { findings, .. } = &mut opened[0].step {
        findings.clear();
    }
    let without = Case::fold("c1", opened).unwrap_err();
    assert_eq!(without.to_string(), r#"case c1: opened has findings "[]", expected at least one finding"#);
}

#[test]
fn a_decision_is_kept_with_its_reason_and_its_author() {
    let case = fold("1:open 2:seen 3:more 4:no");
    assert_eq!(case.decision(), Some((Decision::NotReportable, "a reason", "ann")));
    assert_eq!(case.history().len(), 4);
    assert_eq!((case.drafted(), case.filed()), (0, None));
    assert_eq!((case.raised_at(), case.opened_at()), (day(1), day(1)));
}

#[test]
fn events_read_back_as_written() {
    let script = "1:open 2:add=f2@2 2:seen 3:yes 4:draft=1 5:file=1 6:asked=6 7:answered 8:error=8 9:draft=2 \
                  10:correct=2 10:error=10 11:fine 11:close 12:reopen";
    for event in events(script) {
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<CaseEvent>(&json).unwrap(), event, "{json}");
        assert!(json.contains(&format!("\"kind\":\"{}\"", event.step.as_str())), "{json}");
    }
    fold(script);
}
