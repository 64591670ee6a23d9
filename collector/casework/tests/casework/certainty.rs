//! How sure a rule is met, from totals and facts.

use crate::support::{SMALL, SMALL_NAME, at, projected, small, tera, totals};
use proptest::prelude::*;
use weighbridge_casework::{
    CappedBy, Certainty, Declaration, Facts, Finding, OpsPerSecond, Projection, RulePack, Scope, Standing,
    Subject, Totals, Unknown, Verdict, evaluate, pack::Who, shipped,
};
use weighbridge_meter::{Calibrated, Interval, Operations, UtcMillis};

const LINE: u64 = 100_000_000_000_000;

fn verdict(totals: Totals) -> Verdict {
    let pack = small();
    evaluate(&pack, &pack.rule[0], &totals, &Facts::default())
}

fn certainty(totals: Totals) -> Option<Certainty> {
    verdict(totals).met().map(|met| met.certainty)
}

#[test]
fn the_strongest_certainty_that_holds_is_given() {
    let below = totals(LINE / 2, LINE * 3 / 4, LINE);
    assert_eq!(certainty(below), None);
    assert_eq!(certainty(totals(LINE / 2, LINE, LINE + 1)), Some(Certainty::Possible));
    assert_eq!(certainty(projected(below, 90, LINE + 1)), Some(Certainty::Projected));
    let calibrated = Calibrated::new(tera(LINE + 1), tera(LINE + 2)).unwrap();
    let likely = Totals { calibrated, ..projected(totals(0, LINE, LINE * 2), 90, LINE + 1) };
    assert_eq!(certainty(likely), Some(Certainty::Likely));
    assert_eq!(certainty(totals(LINE + 1, LINE + 1, LINE + 1)), Some(Certainty::Certain));
}

#[test]
fn a_projection_longer_than_the_rule_allows_does_not_count() {
    let below = totals(0, 0, LINE);
    assert_eq!(certainty(projected(below, 90, LINE + 1)), Some(Certainty::Projected));
    assert_eq!(certainty(projected(below, 91, LINE + 1)), None);
}

#[test]
fn at_the_line_the_comparator_decides() {
    let at_the_line = totals(LINE, LINE, LINE);
    assert_eq!(certainty(at_the_line), None);
    let ge =
        RulePack::parse(SMALL_NAME, &SMALL.replace("comparator = \"gt\"", "comparator = \"ge\"")).unwrap();
    let given = evaluate(&ge, &ge.rule[0], &at_the_line, &Facts::default());
    assert_eq!(given.met().map(|met| met.certainty), Some(Certainty::Certain));
    let below = totals(LINE - 1, LINE - 1, LINE - 1);
    assert_eq!(evaluate(&ge, &ge.rule[0], &below, &Facts::default()), Verdict::NotMet);
}

#[test]
fn what_is_not_known_is_neither_met_nor_dropped() {
    let (name, text) = shipped().into_iter().find(|(name, _)| name.starts_with("us-eo14110")).unwrap();
    let pack = RulePack::parse(name, text).unwrap();
    let rule = pack.rule("infrastructure").unwrap();
    let above = totals(LINE + 1, LINE * 2, LINE * 2);
    let Verdict::NotKnown { otherwise, unknown } = evaluate(&pack, rule, &above, &Facts::default()) else {
        panic!("nothing is known of the cluster")
    };
    assert_eq!(otherwise.certainty, Certainty::Certain);
    assert_eq!(unknown, [Unknown::ClusterPeak, Unknown::NetworkSpeed]);

    let small_cluster =
        Facts { cluster_peak: Some(OpsPerSecond::from_operations_in_a_second(tera(1))), ..Facts::default() };
    assert_eq!(evaluate(&pack, rule, &above, &small_cluster), Verdict::NotMet);

    let biological = pack.rule("biological-model").unwrap();
    let given = evaluate(&pack, biological, &above, &Facts::default());
    let Verdict::NotKnown { unknown, .. } = given else { panic!("nobody declared it") };
    assert_eq!(unknown, [Unknown::Declared(Declaration::BiologicalSequenceData)]);
    let facts = Facts { declared: [(Declaration::BiologicalSequenceData, false)].into(), ..Facts::default() };
    assert_eq!(evaluate(&pack, biological, &above, &facts), Verdict::NotMet);
}

#[test]
fn a_group_is_american_only_if_everyone_in_it_is() {
    use Standing::{Foreign, Undetermined, Us};
    assert_eq!(Standing::of_group([Us, Us]), Us);
    assert_eq!(Standing::of_group([Us, Undetermined]), Undetermined);
    assert_eq!(Standing::of_group([Undetermined, Foreign, Us]), Foreign);
    assert_eq!(Standing::of_group([]), Undetermined);
}

#[test]
fn a_subject_reads_back_as_written() {
    for subject in [
        Subject::Run("r1".into()),
        Subject::Customer("acme".into()),
        Subject::ControlGroup("g:1".into()),
        Subject::Principal("slurm:alpha/physics".into()),
    ] {
        assert_eq!(subject.to_string().parse(), Ok(subject.clone()));
        let json = serde_json::to_string(&subject).unwrap();
        assert_eq!(serde_json::from_str::<Subject>(&json).unwrap(), subject);
    }
    for bad in ["", "customer", "customer:", "tenant:acme"] {
        assert!(bad.parse::<Subject>().is_err(), "{bad}");
    }
    assert_eq!(Subject::Principal("slurm:a/b".into()).scope(), Scope::Principal);
}

#[test]
fn a_rule_looks_only_at_its_scope() {
    let pack = small();
    assert!(pack.rule[0].looks_at(&Subject::Customer("acme".into())));
    assert!(!pack.rule[0].looks_at(&Subject::Run("acme".into())));
}

#[test]
fn a_finding_keeps_exact_numbers_as_decimal_strings() {
    let pack = small();
    let totals = projected(totals(LINE / 2, LINE, LINE * 2), 60, LINE + 1);
    let Verdict::Met(met) = evaluate(&pack, &pack.rule[0], &totals, &Facts::default()) else {
        panic!("it is projected")
    };
    let acme = Subject::Customer("acme".into());
    let raised = at("2026-02-25T12:05:00Z");
    let finding = Finding::raise(&pack, &pack.rule[0], acme, &met, &totals, totals.as_of, raised);
    let json = serde_json::to_string_pretty(&finding).unwrap();
    expect_test::expect![[r#"
        {
          "id": "1004d0eb141ec431c6f0a613aac045ad",
          "pack": "small",
          "pack_version": "1",
          "pack_sha256": "(hash)",
          "rule": "run",
          "subject": "customer:acme",
          "certainty": "projected",
          "met_at": "2026-02-25T12:00:00Z",
          "raised_at": "2026-02-25T12:05:00Z",
          "totals": {
            "as_of": "2026-02-25T12:00:00Z",
            "bound": {
              "low_tera": "50000000000000",
              "best_tera": "100000000000000",
              "high_tera": "200000000000000"
            },
            "calibrated": {
              "low_tera": "50000000000000",
              "high_tera": "200000000000000"
            },
            "projection": {
              "until": "2026-04-26T12:00:00Z",
              "bound": {
                "low_tera": "100000000000001",
                "best_tera": "100000000000001",
                "high_tera": "100000000000001"
              },
              "capped_by": "rule_days"
            }
          },
          "reason": "customer:acme is projected to meet the criteria of the proposed small rule (a large run): 1.00e26 operations by 2026-04-26T12:00:00Z if the recent rate goes on; the line is more than 1e26, a default of the operator that is not in the text"
        }"#]].assert_eq(&json.replace(pack.sha256(), "(hash)"));
    assert_eq!(serde_json::from_str::<Finding>(&json).unwrap(), finding);
}

#[test]
fn the_reason_says_which_number_decided() {
    let pack = small();
    let likely = Calibrated::new(tera(LINE + 1), tera(LINE * 2)).unwrap();
    let mut text = String::new();
    for totals in [
        totals(LINE * 2, LINE * 2, LINE * 2),
        Totals { calibrated: likely, ..totals(0, LINE, LINE * 2) },
        totals(0, LINE, LINE * 2),
    ] {
        let Verdict::Met(met) = evaluate(&pack, &pack.rule[0], &totals, &Facts::default()) else {
            panic!("it is met")
        };
        let acme = Subject::Customer("acme".into());
        let raised = Finding::raise(&pack, &pack.rule[0], acme, &met, &totals, totals.as_of, totals.as_of);
        text.push_str(&raised.reason);
        text.push('\n');
    }
    expect_test::expect![[r#"
        customer:acme meets the criteria of the proposed small rule (a large run): at least 2.00e26 operations; the line is more than 1e26, a default of the operator that is not in the text
        customer:acme likely meets the criteria of the proposed small rule (a large run): in 95 % of comparable cases at least 1.00e26 operations; the line is more than 1e26, a default of the operator that is not in the text
        customer:acme possibly meets the criteria of the proposed small rule (a large run): up to 2.00e26 operations cannot be ruled out; the line is more than 1e26, a default of the operator that is not in the text
    "#]].assert_eq(&text);
}

#[test]
fn the_id_of_a_finding_depends_on_all_its_parts() {
    let pack = small();
    let rule = &pack.rule[0];
    let acme = Subject::Customer("acme".into());
    let id = Finding::id_of(&pack, rule, &acme, Certainty::Likely);
    assert_eq!(id, Finding::id_of(&pack, rule, &acme, Certainty::Likely));
    assert_eq!(id.len(), 32);
    let mut other_version = pack.clone();
    other_version.version = "2".into();
    let mut other_rule = rule.clone();
    other_rule.id = "walk".into();
    assert_ne!(id, Finding::id_of(&other_version, rule, &acme, Certainty::Likely));
    assert_ne!(id, Finding::id_of(&pack, &other_rule, &acme, Certainty::Likely));
    assert_ne!(id, Finding::id_of(&pack, rule, &Subject::Run("acme".into()), Certainty::Likely));
    assert_ne!(id, Finding::id_of(&pack, rule, &acme, Certainty::Certain));
}

prop_compose! {
    fn any_totals()(
        mut bound in prop::array::uniform3(0..LINE * 2),
        mut calibrated in prop::array::uniform2(0..LINE * 2),
        best in 0..LINE * 2,
    ) -> Totals {
        bound.sort_unstable();
        calibrated.sort_unstable();
        let as_of = at("2026-02-25T12:00:00Z");
        Totals {
            as_of,
            bound: Interval::new(tera(bound[0]), tera(bound[1]), tera(bound[2])).unwrap(),
            calibrated: Calibrated::new(tera(calibrated[0]), tera(calibrated[1])).unwrap(),
            projection: Some(Projection {
                until: as_of.plus(90 * UtcMillis::DAY),
                bound: Interval::exact(tera(best)),
                capped_by: CappedBy::RuleDays,
            }),
        }
    }
}

/// Number by number the larger of both: nothing is lower than in either.
fn raised(a: &Totals, b: &Totals) -> Totals {
    let higher = |a: &Interval<Operations>, b: &Interval<Operations>| {
        Interval::new(a.low().max(b.low()), a.best().max(b.best()), a.high().max(b.high())).unwrap()
    };
    let low = a.calibrated.low().max(b.calibrated.low());
    let high = a.calibrated.high().max(b.calibrated.high());
    let projection =
        a.projection.zip(b.projection).map(|(a, b)| Projection { bound: higher(&a.bound, &b.bound), ..a });
    Totals {
        as_of: a.as_of,
        bound: higher(&a.bound, &b.bound),
        calibrated: Calibrated::new(low, high).unwrap(),
        projection,
    }
}

proptest! {
    #[test]
    fn raising_totals_never_weakens_certainty(a in any_totals(), b in any_totals()) {
        let pack = small();
        let given = |totals| {
            let verdict = evaluate(&pack, &pack.rule[0], totals, &Facts::default());
            verdict.met().map(|met| met.certainty)
        };
        prop_assert!(given(&raised(&a, &b)) >= given(&a));
    }

    #[test]
    fn an_american_customer_never_meets_a_foreign_rule(totals in any_totals(), gbit in 0_u32..1000, yes: bool) {
        use Declaration::{BiologicalSequenceData, GeneratesTextImageOrVideo, LargeDeveloper, ModifiesModelOfUnknownCompute};
        let facts = Facts {
            standing: Standing::Us,
            declared: [BiologicalSequenceData, GeneratesTextImageOrVideo, LargeDeveloper, ModifiesModelOfUnknownCompute]
                .map(|what| (what, yes))
                .into(),
            cluster_peak: Some(OpsPerSecond::from_operations_in_a_second(tera(LINE))),
            network_gbit: Some(gbit),
        };
        for (name, text) in shipped() {
            let pack = RulePack::parse(name, text).unwrap();
            for rule in &pack.rule {
                if pack.applies_to.who == Who::Foreign || rule.who == Some(Who::Foreign) {
                    prop_assert_eq!(evaluate(&pack, rule, &totals, &facts), Verdict::NotMet);
                }
            }
        }
    }
}
