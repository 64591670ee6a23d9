//! What is reserved, and what could result from it.

use proptest::prelude::*;
use weighbridge_casework::{
    Arrangement, Certainty, Facts, Finding, Reservation, RulePack, Standing, Subject, Terms, Totals, Verdict,
    evaluate, evaluate_reserved, shipped,
};
use weighbridge_meter::{Estimator, UtcMillis};

use crate::support::{SMALL, SMALL_NAME, at, totals};

const LINE: u64 = 100_000_000_000_000;

const RESERVATIONS: &str = "[rule.reservations]\nend = \"best\"\nopen_days = 90\nopens_case = true\n";

fn proposed() -> RulePack {
    let (name, text) = shipped().into_iter().find(|(name, _)| name.starts_with("us-7.308")).unwrap();
    RulePack::parse(name, text).unwrap()
}

/// A pack that compares this end.
fn comparing(end: &str) -> RulePack {
    let reservations = RESERVATIONS.replace("best", end);
    let text = SMALL.replacen("[[rule.condition]]", &format!("{reservations}\n[[rule.condition]]"), 1);
    RulePack::parse(SMALL_NAME, &text).unwrap()
}

fn terms(id: &str, count: u32, from: &str, days: Option<i64>) -> Terms {
    let from = at(from);
    let to = days.map(|days| from.plus(days * UtcMillis::DAY));
    Terms { id: id.into(), model: "H100".into(), count, from, to }
}

fn arranged(as_of: UtcMillis, all: &[Terms]) -> Arrangement {
    let estimator = Estimator::shipped();
    let h100 = estimator.table().find(Some("10de:2330"), "");
    assert!(h100.is_some());
    Arrangement::of(
        all.iter().filter_map(|terms| Reservation::left(terms.clone(), &estimator, h100, as_of, 90)),
    )
}

fn verdict(pack: &RulePack, totals: &Totals, arrangement: &Arrangement) -> Option<Certainty> {
    let facts = Facts { standing: Standing::Foreign, ..Facts::default() };
    let given = evaluate_reserved(pack, &pack.rule[0], totals, arrangement.sum(), &facts);
    given.met().map(|met| met.certainty)
}

#[test]
fn a_reservation_of_25_000_h100_for_120_days_could_result_and_the_reason_says_why() {
    let pack = proposed();
    let nothing = totals(0, 0, 0);
    let large = arranged(nothing.as_of, &[terms("R-1", 25_000, "2026-03-01T00:00:00Z", Some(120))]);
    let facts = Facts { standing: Standing::Foreign, ..Facts::default() };
    let Verdict::Met(met) = evaluate_reserved(&pack, &pack.rule[0], &nothing, large.sum(), &facts) else {
        panic!("it could result")
    };
    let acme = Subject::Customer("acme".into());
    let finding = Finding::raise_reserved(&pack, &pack.rule[0], acme, &met, &nothing, large);
    assert_eq!((finding.met_at, finding.raised_at), (nothing.as_of, nothing.as_of));
    expect_test::expect!["customer:acme could come to meet the criteria of the proposed 15 CFR 7.308 (a covered transaction: training of a large AI model): reservation R-1 of 25000 H100 (counted as H100 SXM5) from 2026-03-01T00:00:00Z to 2026-06-29T00:00:00Z leaves 2.82e25 to 1.50e26 operations, at most 5.55e26; all that is reserved comes to 1.50e26 operations at the upper calibrated end, beside 0 already counted; the line is more than 1e26, a default of the operator that is not in the text"].assert_eq(&finding.reason);
    let json = serde_json::to_value(&finding).unwrap();
    assert_eq!(json["certainty"], "could_result");
    assert_eq!(serde_json::from_value::<Finding>(json.clone()).unwrap(), finding);

    // As it was written before anything could be reserved.
    let mut older = json;
    older.as_object_mut().unwrap().remove("arrangement");
    older["certainty"] = "likely".into();
    assert_eq!(serde_json::from_value::<Finding>(older).unwrap().arrangement, None);

    let half = arranged(nothing.as_of, &[terms("R-1", 12_500, "2026-03-01T00:00:00Z", Some(120))]);
    assert_eq!(verdict(&pack, &nothing, &half), None);
    // Two that would not alone do it together.
    let both: Vec<Terms> =
        ["R-1", "R-2"].map(|id| terms(id, 12_500, "2026-03-01T00:00:00Z", Some(120))).into();
    assert_eq!(verdict(&pack, &nothing, &arranged(nothing.as_of, &both)), Some(Certainty::CouldResult));
    // As does what was used before.
    let used = totals(0, LINE / 4, LINE / 2);
    assert_eq!(verdict(&pack, &used, &half), Some(Certainty::CouldResult));
}

#[test]
fn the_pack_says_which_end_is_compared_and_a_rule_that_does_not_say_so_looks_at_none() {
    let nothing = totals(0, 0, 0);
    let given = |end: &str, count| {
        let all = [terms("R-1", count, "2026-03-01T00:00:00Z", Some(120))];
        verdict(&comparing(end), &nothing, &arranged(nothing.as_of, &all)).is_some()
    };
    // 1,000 for 120 days are 2.8e24 by the best guess, 6e24 at the upper calibrated end, 2e25 at most.
    let ends = |count| ["best", "calibrated_high", "high"].map(|end| given(end, count));
    assert_eq!(ends(4_000), [false, false, false]);
    assert_eq!(ends(10_000), [false, false, true]);
    assert_eq!(ends(25_000), [false, true, true]);
    assert_eq!(ends(40_000), [true, true, true]);
    let all = [terms("R-1", 1_000_000, "2026-03-01T00:00:00Z", None)];
    assert_eq!(verdict(&crate::support::small(), &nothing, &arranged(nothing.as_of, &all)), None);
}

#[test]
fn who_is_above_the_line_already_is_asked_only_for_what_passes_it_again() {
    let pack = comparing("calibrated_high");
    let above = totals(LINE * 2, LINE * 2, LINE * 2);
    let given = |count| {
        verdict(
            &pack,
            &above,
            &arranged(above.as_of, &[terms("R-1", count, "2026-03-01T00:00:00Z", Some(120))]),
        )
    };
    assert_eq!(given(8), None);
    assert_eq!(given(25_000), Some(Certainty::CouldResult));
}

#[test]
fn only_what_is_left_of_a_reservation_counts_and_one_taken_back_is_none() {
    let r = terms("R-1", 1_000, "2026-03-01T00:00:00Z", Some(120));
    let whole = arranged(at("2026-02-01T00:00:00Z"), std::slice::from_ref(&r)).sum();
    let half = arranged(at("2026-04-30T00:00:00Z"), std::slice::from_ref(&r)).sum();
    // Each is rounded once.
    assert!((half.0.best().tera() * 2).abs_diff(whole.0.best().tera()) <= 2);
    assert!(arranged(at("2026-06-29T00:00:00Z"), std::slice::from_ref(&r)).is_empty());
    let back = Terms { to: Some(r.from), ..r.clone() };
    assert!(arranged(at("2026-02-01T00:00:00Z"), &[back]).is_empty());
    // Without an end, so many days from now on or from its beginning.
    let open = Terms { to: None, ..r };
    let ninety = arranged(at("2027-01-01T00:00:00Z"), &[open]);
    assert!((ninety.sum().0.best().tera() * 4).abs_diff(whole.0.best().tera() * 3) <= 7);
}

#[test]
fn a_model_in_no_table_is_counted_as_the_fastest_there_and_says_so() {
    let estimator = Estimator::shipped();
    let terms = terms("R-1", 100, "2026-03-01T00:00:00Z", Some(10));
    let left = Reservation::left(terms, &estimator, None, at("2026-02-01T00:00:00Z"), 90).unwrap();
    assert!(left.calibrated.high() > left.calibrated.low());
    assert!(Arrangement::of([left]).in_words().contains("in no table"));
}

#[test]
fn a_rule_that_looks_at_reservations_without_a_line_or_by_the_wrong_key_does_not_load() {
    let text = |edit: &dyn Fn(String) -> String| {
        let reservations = edit(RESERVATIONS.to_owned());
        let text = SMALL.replacen("[[rule.condition]]", &format!("{reservations}\n[[rule.condition]]"), 1);
        RulePack::parse(SMALL_NAME, &text).unwrap_err().to_string()
    };
    assert!(
        text(&|r| r.replace("open_days = 90", "open_days = 0")).contains("reservations.open_days is \"0\"")
    );
    assert!(text(&|r| r.replace("\"best\"", "\"middle\"")).contains("unknown variant `middle`"));
    let opens = SMALL.replace("\"certain\", \"likely\"", "\"could_result\"");
    let error = RulePack::parse(SMALL_NAME, &opens).unwrap_err().to_string();
    assert!(error.contains("expected reservations.opens_case to say that"), "{error}");
    let part = SMALL.replace("expect =", "reserved_best = \"1e26\"\nexpect =");
    let error = RulePack::parse(SMALL_NAME, &part).unwrap_err().to_string();
    assert!(error.contains("all or none"), "{error}");
}

fn any_terms() -> impl Strategy<Value = Terms> {
    (0_u8..4, 1_u32..60_000, 0_i64..200, prop::option::of(0_i64..400)).prop_map(|(id, count, from, days)| {
        let from = at("2026-02-01T00:00:00Z").plus(from * UtcMillis::DAY);
        let to = days.map(|days| from.plus(days * UtcMillis::DAY));
        Terms { id: format!("R-{id}"), model: "H100".into(), count, from, to }
    })
}

/// What a judge raises who looks at these one after the other.
fn raised(pack: &RulePack, seen: &[(UtcMillis, Vec<Terms>)]) -> Vec<Finding> {
    let (rule, acme) = (&pack.rule[0], Subject::Customer("acme".into()));
    let mut known: Vec<Finding> = Vec::new();
    for (as_of, all) in seen {
        let arrangement = arranged(*as_of, all);
        let totals = Totals { as_of: *as_of, ..totals(0, 0, 0) };
        let facts = Facts { standing: Standing::Foreign, ..Facts::default() };
        if let Verdict::Met(met) = evaluate_reserved(pack, rule, &totals, arrangement.sum(), &facts)
            && !known.iter().any(|finding| finding.covers(pack, rule, &acme, &arrangement))
        {
            known.push(Finding::raise_reserved(pack, rule, acme.clone(), &met, &totals, arrangement));
        }
        assert!(evaluate(pack, rule, &totals, &facts).met().is_none());
    }
    known
}

proptest! {
    #[test]
    fn looking_again_later_or_in_another_order_raises_nothing_new(
        all in prop::collection::btree_map(0_u8..4, any_terms(), 1..4),
        shuffled in any::<prop::sample::Index>(),
        days in prop::collection::vec(0_i64..600, 0..6),
    ) {
        let pack = proposed();
        let all: Vec<Terms> =
            all.into_iter().map(|(id, terms)| Terms { id: format!("R-{id}"), ..terms }).collect();
        let mut other = all.clone();
        other.rotate_left(shuffled.index(all.len()));
        let start = at("2026-01-15T00:00:00Z");
        let mut later: Vec<i64> = days;
        later.sort_unstable();
        let once = raised(&pack, &[(start, all.clone())]);
        let mut seen = vec![(start, all)];
        seen.extend(later.iter().map(|days| (start.plus(days * UtcMillis::DAY), other.clone())));
        let again = raised(&pack, &seen);
        // One without an end may come to pass later that did not at first; what was raised stays as it was.
        prop_assert!(again.len() <= 1);
        prop_assert_eq!(again.get(..once.len()), Some(once.as_slice()));
    }

    #[test]
    fn growth_is_raised_anew_and_what_shrinks_is_not(count in 25_000_u32..100_000, less in 1_u32..1_000, days in 1_i64..50) {
        let pack = proposed();
        let start = at("2026-01-15T00:00:00Z");
        let with = |count, days| vec![terms("R-1", count, "2026-03-01T00:00:00Z", Some(days))];
        let on = |day: i64, all: Vec<Terms>| (start.plus(day * UtcMillis::DAY), all);
        let found = raised(&pack, &[
            on(0, with(count, 120)),
            on(1, with(count - less, 120)),
            on(2, with(count, 120)),
            on(3, with(count + less, 120)),
            on(4, with(count + less, 120 + days)),
        ]);
        let at: Vec<UtcMillis> = found.iter().map(|finding| finding.raised_at).collect();
        prop_assert_eq!(at, [0, 3, 4].map(|day| start.plus(day * UtcMillis::DAY)).to_vec());
        let ids: std::collections::BTreeSet<_> = found.iter().map(|finding| &finding.id).collect();
        prop_assert_eq!(ids.len(), 3);
    }
}
