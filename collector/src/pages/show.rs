//! How numbers, times and bars look: the same on every page.
//!
//! Bars are SVG made here, with attributes instead of styles, because the content policy allows no inline style.
//! Floats place pixels and nothing else.

use maud::{Markup, html};
use weighbridge_casework::{Certainty, Passing, Standing, Subject};
use weighbridge_meter::{GapCause, Operations, UtcMillis};
use weighbridge_store::{account::TimeAccount, hour::HeldState};

use crate::api::{amount::Amount, subjects::RuleCheck};

/// A part of a path, percent-encoded.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// `3.80e25`, with the exact number on hover and in the markup.
pub(super) fn ops(operations: Operations) -> Markup {
    let exact = operations.tera().to_string();
    let title = format!("exactly {exact} teraoperations");
    html! { data.n value=(exact) title=(title) { (operations) } }
}

/// `low – high`.
pub(super) fn range(low: Operations, high: Operations) -> Markup {
    html! { span.range { (ops(low)) " – " (ops(high)) } }
}

/// `2026-01-31 08:00 UTC`.
pub(super) fn when(moment: UtcMillis) -> Markup {
    let text = moment.to_string();
    let short = match text.split_once('T') {
        Some((date, time)) => format!("{date} {} UTC", time.get(..5).unwrap_or(time)),
        None => text.clone(),
    };
    html! { time datetime=(text) title=(text) { (short) } }
}

/// `3 d 4 h`, `12 min`, `7 s`: the two largest units.
pub(super) fn duration(millis: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)];
    let first = UNITS.iter().position(|(_, unit)| millis >= *unit).unwrap_or(UNITS.len() - 1);
    let (name, unit) = UNITS[first];
    let mut text = format!("{} {name}", millis / unit);
    if let Some((name, smaller)) = UNITS.get(first + 1).filter(|_| first < 2) {
        let rest = millis % unit / smaller;
        if rest > 0 {
            text.push_str(&format!(" {rest} {name}"));
        }
    }
    text
}

/// Accelerator time, in hours with one decimal.
pub(super) fn hours(millis: u64) -> Markup {
    let tenths = (millis + 180_000) / 360_000;
    html! { data.n value=(millis) title=(format!("exactly {millis} ms")) { (grouped(tenths / 10)) "." (tenths % 10) " h" } }
}

/// `1 234 567`, with narrow blanks.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Rounded down: what is not all is not shown as 100 %, and what is something not as 0 %.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".into();
    }
    let permille = u128::from(part) * 1000 / u128::from(whole);
    match permille {
        0 if part > 0 => "< 0.1 %".into(),
        _ => format!("{}.{} %", permille / 10, permille % 10),
    }
}

/// `1 host`, `2 hosts`: for words whose plural is made with an s.
pub(super) fn counted(count: usize, one: &str) -> String {
    format!("{} {one}{}", grouped(count as u64), if count == 1 { "" } else { "s" })
}

/// In words.
pub(super) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Us => "U.S. person",
        Standing::Foreign => "foreign person",
        Standing::Undetermined => "not determined",
    }
}

/// A word in a box, the surer the stronger.
pub(super) fn certainty(certainty: Option<Certainty>) -> Markup {
    match certainty {
        Some(certainty) => html! { span class={ "tag " (certainty.as_str()) } { (certainty.as_str()) } },
        None => html! { span.tag.none { "no longer met" } },
    }
}

/// Between which dates a line would be passed.
pub(super) fn passing(passing: &Passing) -> Markup {
    html! {
        @if let Some(expected) = passing.expected {
            small.note { "passes the line by the best guess on " (when(expected)) }
        }
        @if let Some(earliest) = passing.earliest.filter(|earliest| Some(*earliest) != passing.expected) {
            small.note { "not before " (when(earliest)) }
        }
    }
}

/// What came of a comparison.
pub(super) fn verdict(check: &RuleCheck) -> Markup {
    match check.verdict {
        "not_met" => html! { span.tag.none { "not met" } },
        "not_known" => html! {
            span.tag.possible { "not known" }
            @for unknown in &check.unknown { br; small { "not known: " (unknown) } }
        },
        met => html! { span class={ "tag " (met) } { (met) } },
    }
}

/// A link to whatever has a page.
pub(super) fn subject(subject: &Subject) -> Markup {
    let id = encoded(subject.id());
    let (kind, path) = match subject {
        Subject::Run(_) => ("run", format!("/runs/{id}")),
        Subject::Customer(_) => ("customer", format!("/customers/{id}")),
        Subject::ControlGroup(_) => ("control group", format!("/groups/{id}")),
        Subject::Principal(_) => ("principal", format!("/principals/{id}")),
    };
    html! { (kind) " " a href=(path) { (subject.id()) } }
}

/// A part of a strip.
pub(super) struct Part {
    class: &'static str,
    label: String,
    millis: u64,
}

/// Coverage in the order of how well it is known.
pub(super) fn coverage_parts(time: &TimeAccount) -> Vec<Part> {
    let mut parts = vec![
        Part { class: "measured", label: "measured".into(), millis: time.measured_ms },
        Part { class: "interpolated", label: "bounded by a counter".into(), millis: time.interpolated_ms },
    ];
    parts.extend(time.gap_ms.iter().map(|(cause, millis)| Part {
        class: if *cause == GapCause::Silent { "silent" } else { "gap" },
        label: format!("gap: {}", cause.as_str().replace('_', " ")),
        millis: *millis,
    }));
    parts
}

/// Holding in the order of how well it is known.
pub(super) fn held_parts(time: &TimeAccount) -> Vec<Part> {
    HeldState::ALL
        .into_iter()
        .map(|state| Part {
            class: state.as_str(),
            label: held(state).into(),
            millis: time.held_ms.get(&state).copied().unwrap_or_default(),
        })
        .collect()
}

fn held(state: HeldState) -> &'static str {
    match state {
        HeldState::Attributed => "attributed",
        HeldState::Shared => "shared",
        HeldState::IdleHeld => "held and idle",
        HeldState::Free => "free",
        HeldState::Disputed => "disputed",
        HeldState::Unattributed => "unattributed",
    }
}

/// Parts of a whole, as long as their share.
pub(super) fn strip(parts: &[Part]) -> Markup {
    let whole: u64 = parts.iter().map(|part| part.millis).sum();
    let words: Vec<String> =
        shares(parts, whole).map(|(part, share)| format!("{} {share}", part.label)).collect();
    let mut from = 0;
    let place = |millis: u64| (u128::from(millis) * 1000).checked_div(u128::from(whole)).unwrap_or(0);
    html! {
        svg.strip viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(words.join(", ")) {
            rect.empty x="0" y="0" width="1000" height="10" {}
            @for part in parts.iter().filter(|part| part.millis > 0) {
                @let start = place(from);
                @let end = { from += part.millis; place(from) };
                rect class=(part.class) x=(start) y="0" width=((end - start).max(2)) height="10" {
                    title { (part.label) ": " (percent(part.millis, whole)) }
                }
            }
        }
    }
}

/// What the colours of a strip mean, with shares.
pub(super) fn legend(parts: &[Part]) -> Markup {
    let whole: u64 = parts.iter().map(|part| part.millis).sum();
    html! {
        ul.legend {
            @for (part, share) in shares(parts, whole) {
                li {
                    svg.swatch viewBox="0 0 10 10" aria-hidden="true" {
                        rect class=(part.class) width="10" height="10" {}
                    }
                    (part.label) " " strong { (share) } " " small { (hours(part.millis)) }
                }
            }
        }
    }
}

fn shares(parts: &[Part], whole: u64) -> impl Iterator<Item = (&Part, String)> {
    parts.iter().filter(|part| part.millis > 0).map(move |part| (part, percent(part.millis, whole)))
}

/// Places amounts of very different size on one line.
pub(super) struct Scale {
    from: f64,
    to: f64,
    /// Lines of rules: the amount, and what it is.
    lines: Vec<(Operations, String)>,
}

#[expect(clippy::cast_precision_loss, reason = "places a pixel")]
fn log10(operations: Operations) -> f64 {
    (operations.tera().max(1) as f64).log10() + 12.0
}

impl Scale {
    /// From three powers of ten below the smallest best value, but no more than nine below the largest, to above
    /// the largest line or amount.
    pub(super) fn over<'a>(
        amounts: impl IntoIterator<Item = &'a Amount>,
        checks: impl IntoIterator<Item = &'a RuleCheck>,
    ) -> Self {
        let mut lines: Vec<(Operations, String)> = Vec::new();
        for check in checks {
            let Some((line, nearest)) = check.line.as_ref().zip(check.line_nearest_tera) else { continue };
            let rule = format!("{} {}", check.pack, check.rule);
            match lines.iter_mut().find(|(amount, words)| *amount == nearest && words.starts_with(line)) {
                Some((_, all)) if all.contains(&rule) => {}
                Some((_, all)) => *all = format!("{all}, {rule}"),
                None => lines.push((nearest, format!("{line}: {rule}"))),
            }
        }
        lines.sort_by_key(|(amount, _)| *amount);
        let mut from = f64::MAX;
        let mut to: f64 = 15.0;
        for amount in amounts {
            to = to.max(log10(amount.high_tera));
            if amount.best_tera > Operations::ZERO {
                from = from.min(log10(amount.best_tera) - 1.5);
            }
        }
        for (line, _) in &lines {
            to = to.max(log10(*line) + 0.3);
            from = from.min(log10(*line) - 3.0);
        }
        let to = to.ceil();
        Self { from: from.floor().clamp(to - 12.0, to - 3.0).max(12.0), to, lines }
    }

    fn place(&self, operations: Operations) -> f64 {
        ((log10(operations) - self.from) / (self.to - self.from)).clamp(0.0, 1.0) * 1000.0
    }

    /// Low to high pale, calibrated strong, best a stroke; lines of rules across.
    pub(super) fn bar(&self, amount: &Amount) -> Markup {
        let words = format!(
            "bound {} to {}, best {}, calibrated {} to {}, on a logarithmic scale",
            amount.low_tera,
            amount.high_tera,
            amount.best_tera,
            amount.calibrated_low_tera,
            amount.calibrated_high_tera
        );
        let x = |operations| format!("{:.1}", self.place(operations));
        let width = |low, high| format!("{:.1}", (self.place(high) - self.place(low)).max(1.5));
        html! {
            svg.bar viewBox="0 0 1000 20" preserveAspectRatio="none" role="img" aria-label=(words) {
                title { (words) }
                @for power in self.powers() {
                    @let at = format!("{:.1}", (power - self.from) / (self.to - self.from) * 1000.0);
                    line.grid x1=(at) x2=(at) y1="0" y2="20" {}
                }
                @if amount.high_tera > Operations::ZERO {
                    rect.bound x=(x(amount.low_tera)) y="4" height="12"
                        width=(width(amount.low_tera, amount.high_tera)) {}
                    rect.calibrated x=(x(amount.calibrated_low_tera)) y="7" height="6"
                        width=(width(amount.calibrated_low_tera, amount.calibrated_high_tera)) {}
                    line.best x1=(x(amount.best_tera)) x2=(x(amount.best_tera)) y1="2" y2="18" {}
                }
                @for (line, words) in &self.lines {
                    line.line x1=(x(*line)) x2=(x(*line)) y1="0" y2="20" { title { (words) } }
                }
            }
        }
    }

    fn powers(&self) -> impl Iterator<Item = f64> {
        std::iter::successors(Some(self.from), |power| Some(power + 1.0))
            .take_while(|power| *power <= self.to)
    }

    /// The ends of the scale and the lines, in words.
    pub(super) fn key(&self) -> Markup {
        html! {
            p.key {
                svg.swatch viewBox="0 0 10 10" aria-hidden="true" { rect.bound width="10" height="10" {} }
                " bound: cannot be outside, given what was measured; "
                svg.swatch viewBox="0 0 10 10" aria-hidden="true" { rect.calibrated width="10" height="10" {} }
                " calibrated: 5 to 95 % by data of the past; "
                svg.swatch viewBox="0 0 10 10" aria-hidden="true" { rect.best x="4" width="2" height="10" {} }
                " best"
                @if !self.lines.is_empty() {
                    "; " svg.swatch viewBox="0 0 10 10" aria-hidden="true" { rect.line x="4" width="2" height="10" {} }
                    " line of a rule"
                }
                ". Logarithmic, " (format!("1e{:.0} to 1e{:.0}", self.from, self.to)) ", a power of ten a stroke."
            }
            @if !self.lines.is_empty() {
                ul.lines {
                    @for (_, words) in &self.lines { li { (words) } }
                }
            }
        }
    }
}

/// What was measured over time: columns of hours, joined until they fit.
pub(super) fn columns(hours: &[(UtcMillis, Operations)]) -> Markup {
    const MOST: usize = 160;
    let (Some((first, _)), Some((last, _))) = (hours.first(), hours.last()) else { return html! {} };
    let count = usize::try_from(last.since(*first) / UtcMillis::HOUR).unwrap_or(0) + 1;
    let each = count.div_ceil(MOST);
    let mut sums = vec![Operations::ZERO; count.div_ceil(each)];
    for (hour, amount) in hours {
        let place = usize::try_from(hour.since(*first) / UtcMillis::HOUR).unwrap_or(0) / each;
        if let Some(sum) = sums.get_mut(place) {
            *sum = sum.saturating_add(*amount);
        }
    }
    let most = sums.iter().copied().max().unwrap_or_default();
    let width = 1000.0 / to_float(sums.len() as u64).max(12.0);
    let step = if each == 1 { "hour".to_owned() } else { format!("{each} hours") };
    let end = last.plus(UtcMillis::HOUR);
    let words = format!("best estimate measured in each {step}, at most {most}");
    html! {
        figure {
            svg.columns viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label=(words) {
                @for (index, sum) in sums.iter().enumerate() {
                    @let height = to_float(sum.tera()) / to_float(most.tera().max(1)) * 100.0;
                    @if *sum > Operations::ZERO {
                        rect.column x=(format!("{:.2}", width * to_float(index as u64)))
                            y=(format!("{:.2}", 100.0 - height)) width=(format!("{:.2}", width * 0.85))
                            height=(format!("{height:.2}")) {
                            title {
                                (first.plus(UtcMillis::HOUR * i64::try_from(index * each).unwrap_or(0))) ": " (sum)
                            }
                        }
                    }
                }
            }
            figcaption {
                "Measured, best, each " (step) "; the highest column is " (ops(most)) ". "
                (when(*first)) " to " (when(end))
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "places a pixel")]
fn to_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tera(tera: u64) -> Operations {
        Operations::from_tera(tera).expect("small")
    }

    #[test]
    fn what_is_not_all_is_not_shown_as_all() {
        assert_eq!(percent(999_999, 1_000_000), "99.9 %");
        assert_eq!(percent(1, 1_000_000), "< 0.1 %");
        assert_eq!(percent(5, 5), "100.0 %");
        assert_eq!(percent(0, 0), "–");
    }

    #[test]
    fn durations_show_their_two_largest_units() {
        let shown = [0, 59_999, 60_000, 3_600_000, 3_660_000, 90_000_000, 15 * 86_400_000].map(duration);
        assert_eq!(shown, ["0 s", "59 s", "1 min", "1 h", "1 h 1 min", "1 d 1 h", "15 d"]);
    }

    #[test]
    fn a_figure_carries_the_exact_number() {
        let shown = ops(tera(38_000_000_000_001)).into_string();
        assert!(shown.contains("3.80e25") && shown.contains(r#"value="38000000000001""#), "{shown}");
    }

    #[test]
    fn a_path_carries_any_id() {
        assert_eq!(encoded("slurm:c/a b%"), "slurm%3Ac%2Fa%20b%25");
    }

    #[test]
    fn larger_amounts_lie_further_right_and_nothing_lies_outside() {
        let amount =
            Amount { low_tera: tera(1), best_tera: tera(1000), high_tera: tera(5000), ..Amount::default() };
        let scale = Scale::over([&amount], []);
        let places: Vec<f64> = [0, 1, 1000, 5000, u64::MAX >> 1].map(|n| scale.place(tera(n))).into();
        assert!(places.is_sorted() && places[0] >= 0.0 && places[4] <= 1000.0, "{places:?}");
        assert!(places[2] < places[3], "{places:?}");
    }
}
