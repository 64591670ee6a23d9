//! What the collector says of itself and of the fleet to Prometheus.
//!
//! Totals can fall after a correction, so they are gauges; only what counts events here is a counter.
//! [`Metrics`] counts what happened in this process, [`scrape`] adds what the [`View`] holds.

use prometheus::{Encoder, Gauge, GaugeVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};
use weighbridge_casework::State as CaseState;
use weighbridge_meter::{Condition, Doubt, Operations, Tier, UtcMillis, estimate::METHOD};
use weighbridge_store::{
    StoreError,
    hour::{HeldState, Unattributed},
    ledger::Health,
    tree::sequencer::leaves,
};
use weighbridge_wire::{LossCause, enrol::RefusedCode};

use crate::{
    alarm::AlarmKind,
    api::{cases, fleet::Fleet, status, subjects},
    app::App,
    tree,
    view::View,
};

/// Counts of what happened in this process.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    batches: IntCounterVec,
    windows: IntCounter,
    pruned: IntCounter,
    handshakes: IntCounterVec,
    not_admitted: IntCounterVec,
    enrolments: IntCounterVec,
    renewals: IntCounterVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let batches = IntCounterVec::new(
            Opts::new("weighbridge_collector_batches_total", "Batches by what became of them."),
            &["outcome"],
        )
        .expect("the name is valid");
        let windows =
            IntCounter::new("weighbridge_collector_windows_total", "Windows in batches that were accepted.")
                .expect("the name is valid");
        let counted = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label]).expect("the name is valid");
            registry.register(Box::new(counter.clone())).expect("registered once");
            counter
        };
        let handshakes = counted(
            "weighbridge_collector_handshakes_total",
            "Secure connections by what became of them.",
            "outcome",
        );
        let not_admitted = counted(
            "weighbridge_collector_not_admitted_total",
            "Requests of agents that were not let in, by why.",
            "reason",
        );
        let enrolments = counted(
            "weighbridge_collector_enrolments_total",
            "Attempts to join with a token, by what became of them.",
            "outcome",
        );
        let renewals = counted(
            "weighbridge_collector_certificate_renewals_total",
            "Attempts of agents to renew a certificate, by what became of them.",
            "outcome",
        );
        registry.register(Box::new(batches.clone())).expect("registered once");
        registry.register(Box::new(windows.clone())).expect("registered once");
        let pruned = IntCounter::new(
            "weighbridge_collector_pruned_bytes_total",
            "Bytes of ledger segments that were removed after a summary.",
        )
        .expect("the name is valid");
        registry.register(Box::new(pruned.clone())).expect("registered once");
        Self { registry, batches, windows, pruned, handshakes, not_admitted, enrolments, renewals }
    }
}

impl Metrics {
    /// A batch was answered.
    pub fn batch(&self, outcome: &str) {
        self.batches.with_label_values(&[outcome]).inc();
    }

    /// So many windows came in.
    pub fn windows(&self, count: usize) {
        self.windows.inc_by(count as u64);
    }

    /// So many bytes of the ledger were pruned.
    pub fn pruned(&self, bytes: u64) {
        self.pruned.inc_by(bytes);
    }

    /// A secure connection was agreed on, or not.
    pub fn handshake(&self, outcome: &'static str) {
        self.handshakes.with_label_values(&[outcome]).inc();
    }

    /// A request of an agent was not let in.
    pub fn not_admitted(&self, reason: &'static str) {
        self.not_admitted.with_label_values(&[reason]).inc();
    }

    /// An agent joined, or did not.
    pub fn enrolment(&self, refused: Option<RefusedCode>) {
        self.enrolments.with_label_values(&[outcome(refused)]).inc();
    }

    /// A certificate was renewed, or not.
    pub fn renewal(&self, refused: Option<RefusedCode>) {
        self.renewals.with_label_values(&[outcome(refused)]).inc();
    }

    /// The text format.
    pub fn text(&self) -> String {
        encode(&self.registry)
    }
}

fn outcome(refused: Option<RefusedCode>) -> &'static str {
    match refused {
        None => "ok",
        Some(RefusedCode::TokenUnknown) => "token_unknown",
        Some(RefusedCode::TokenUsed) => "token_used",
        Some(RefusedCode::TokenExpired) => "token_expired",
        Some(RefusedCode::OtherAgent) => "other_agent",
        Some(RefusedCode::Denied) => "denied",
        Some(RefusedCode::NoCertificate) => "no_certificate",
        Some(RefusedCode::NotEnrolled) => "not_enrolled",
        Some(RefusedCode::BadRequest | RefusedCode::Other) => "bad_request",
        Some(RefusedCode::NotIssuedHere) => "not_issued_here",
        Some(RefusedCode::NotAvailable) => "not_available",
    }
}

fn encode(registry: &Registry) -> String {
    let mut text = Vec::new();
    // Writing into memory cannot fail; a metric that does not encode is left out.
    drop(TextEncoder::new().encode(&registry.gather(), &mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// Gauges of one scrape: made anew each time, so that a customer or host that went away leaves nothing behind.
struct Gauges(Registry);

impl Gauges {
    fn vec(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        let gauge = GaugeVec::new(Opts::new(name, help), labels).expect("the name is valid");
        self.0.register(Box::new(gauge.clone())).expect("registered once");
        gauge
    }

    fn one(&self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::new(name, help).expect("the name is valid");
        gauge.set(value);
        self.0.register(Box::new(gauge)).expect("registered once");
    }
}

/// Everything that the collector says: its own counts, then the fleet and the accounts as of now.
///
/// Amounts are rounded to what a float holds: alert on them, and read the exact ones from the API.
///
/// # Errors
/// Where the sums cannot be read: a scrape that fails is an alert of its own, one without gauges is not.
pub async fn scrape(app: &App) -> Result<String, StoreError> {
    let view = app.view().await?;
    let gauges = Gauges(Registry::new());
    fleet(app, &view, &gauges);
    accounts(app, &view, &gauges);
    casebook(app, &view, &gauges);
    ledger(app, &gauges);
    history(app, &gauges).await?;
    trust(app, &gauges);
    tree(app, &gauges);
    Ok(app.metrics.text() + &encode(&gauges.0))
}

#[expect(clippy::cast_precision_loss, reason = "the format of Prometheus is a float")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "the format of Prometheus is a float")]
fn count(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "the format of Prometheus is a float")]
fn tera(operations: Operations) -> f64 {
    operations.tera() as f64
}

fn fleet(app: &App, view: &View, gauges: &Gauges) {
    let time = &view.time;
    let coverage = gauges.vec(
        "weighbridge_collector_accelerator_seconds",
        "Accelerator time from first seen to now by coverage; of gaps with their cause.",
        &["coverage", "cause"],
    );
    coverage.with_label_values(&["measured", ""]).set(seconds(time.measured_ms));
    coverage.with_label_values(&["interpolated", ""]).set(seconds(time.interpolated_ms));
    for (cause, millis) in &time.gap_ms {
        coverage.with_label_values(&["gap", cause.as_str()]).set(seconds(*millis));
    }
    let held = gauges.vec(
        "weighbridge_collector_accelerator_held_seconds",
        "Accelerator time from first seen to now by how it was held.",
        &["state"],
    );
    for state in HeldState::ALL {
        let millis = time.held_ms.get(&state).copied().unwrap_or_default();
        held.with_label_values(&[state.as_str()]).set(seconds(millis));
    }
    let unattributed = gauges.vec(
        "weighbridge_collector_unattributed_seconds",
        "Accelerator time from first seen to now that nobody is known to have held, by why.",
        &["reason"],
    );
    for reason in Unattributed::ALL {
        let millis = time.unattributed_ms.get(&reason).copied().unwrap_or_default();
        unattributed.with_label_values(&[reason.as_str()]).set(seconds(millis));
    }
    gauges.one(
        "weighbridge_collector_unmapped_seconds",
        "Accelerator time held by principals that belong to no customer: attributed, and still nobody's.",
        seconds(view.unmapped_ms()),
    );
    let fleet = Fleet::of(app, view);
    let tiers = gauges.vec(
        "weighbridge_collector_accelerators",
        "Accelerators ever reported by the tier of their readings as last told, A best.",
        &["tier"],
    );
    for tier in Tier::ALL {
        let of_tier = fleet.totals.by_tier.get(tier).copied().unwrap_or_default();
        tiers.with_label_values(&[tier.as_str()]).set(count(of_tier));
    }
    let conditions = gauges.vec(
        "weighbridge_collector_accelerators_in_condition",
        "Accelerators that are there by what makes their readings worse than they could be.",
        &["condition"],
    );
    for condition in Condition::ALL {
        let in_it = fleet.totals.by_condition.get(condition).copied().unwrap_or_default();
        conditions.with_label_values(&[condition.as_str()]).set(count(in_it));
    }
    let disagreeing = gauges.vec(
        "weighbridge_collector_disagreements",
        "Accelerator hours in which two sources say what cannot both be true, of the last day and of all time.",
        &["period"],
    );
    disagreeing.with_label_values(&["last_day"]).set(count(fleet.integrity.hours_last_day));
    disagreeing.with_label_values(&["all"]).set(count(fleet.integrity.hours_total));
    let never_seen: u64 = view.account.attempts.iter().map(|attempt| attempt.never_seen).sum();
    gauges.one(
        "weighbridge_collector_never_seen_accelerators",
        "Accelerators leased now that no agent ever reported.",
        count(usize::try_from(never_seen).unwrap_or(usize::MAX)),
    );
    gauges.one(
        "weighbridge_collector_silent_hosts",
        "Hosts on which every enrolled agent is silent.",
        count(fleet.silent_hosts().len()),
    );
    let agents = gauges.vec(
        "weighbridge_collector_agents",
        "Enrolled agents by whether they report, are silent, or report trouble with their source.",
        &["state"],
    );
    let enrolled = || fleet.agents.iter().filter(|agent| agent.enrolled);
    let implausible = gauges.vec(
        "weighbridge_collector_implausible_seconds",
        "Accelerator time in windows that cannot be as they say, by why; certain of nothing.",
        &["doubt"],
    );
    for doubt in Doubt::ALL {
        let millis = view.doubted.iter().filter(|said| said.doubt == doubt).map(|said| said.millis).sum();
        implausible.with_label_values(&[doubt.as_str()]).set(seconds(millis));
    }
    let whole = |number: u64| count(usize::try_from(number).unwrap_or(usize::MAX));
    let lost = gauges.vec(
        "weighbridge_collector_lost_batches",
        "Batches that agents said they will not deliver, by cause.",
        &["cause"],
    );
    for cause in LossCause::ALL {
        let batches = fleet.agents.iter().map(|agent| agent.delivery.lost.of(*cause)).sum();
        lost.with_label_values(&[cause.as_str()]).set(whole(batches));
    }
    gauges.one(
        "weighbridge_collector_missing_batches",
        "Batches that agents made and neither delivered nor gave up: they are asked for.",
        whole(fleet.agents.iter().map(|agent| agent.delivery.missing).sum()),
    );
    let silent = enrolled().filter(|agent| agent.is_silent()).count();
    let troubled = enrolled().filter(|agent| !agent.is_silent() && agent.is_troubled()).count();
    let states =
        [("silent", silent), ("troubled", troubled), ("reporting", enrolled().count() - silent - troubled)];
    for (state, agents_in_it) in states {
        agents.with_label_values(&[state]).set(count(agents_in_it));
    }
}

fn trust(app: &App, gauges: &Gauges) {
    let left = |until: UtcMillis| {
        let millis = until.since(app.now());
        let left = seconds(millis.unsigned_abs());
        if millis < 0 { -left } else { left }
    };
    gauges.one(
        "weighbridge_collector_denied_agents",
        "Agents that are shut out.",
        count(app.enrolment.denied_count()),
    );
    if let Some(until) = app.trust.server_until() {
        gauges.one(
            "weighbridge_collector_certificate_left_seconds",
            "Time until the certificate of the ingest port ends; negative when it has.",
            left(until),
        );
    }
    let authorities = app.trust.authorities().unwrap_or_default();
    if let Some(first) = authorities.iter().map(|authority| authority.until).min() {
        gauges.one(
            "weighbridge_collector_authority_left_seconds",
            "Time until the first of the collector's certificate authorities ends: roll over before.",
            left(first),
        );
    }
}

fn accounts(app: &App, view: &View, gauges: &Gauges) {
    gauges.one("weighbridge_collector_customers", "Customers in the registry.", count(view.customers.len()));
    gauges.one(
        "weighbridge_collector_unmapped_principals",
        "Principals that held accelerators and belong to no customer.",
        count(view.unmapped.len()),
    );
    let totals = gauges.vec(
        "weighbridge_collector_customer_teraoperations",
        "Operations of a customer who ever held anything, measured and gaps, in units of 1e12.",
        &["customer", "bound"],
    );
    let all = subjects::customers(app, view);
    for customer in all.into_iter().filter(|customer| !customer.principals.is_empty()) {
        let amount = customer.total.with_gaps;
        for (bound, value) in [
            ("low", amount.low_tera),
            ("best", amount.best_tera),
            ("high", amount.high_tera),
            ("calibrated_low", amount.calibrated_low_tera),
            ("calibrated_high", amount.calibrated_high_tera),
        ] {
            totals.with_label_values(&[customer.id.as_str(), bound]).set(tera(value));
        }
    }
}

fn casebook(app: &App, view: &View, gauges: &Gauges) {
    let findings = gauges.vec(
        "weighbridge_collector_findings",
        "Findings raised so far by rule pack, rule and certainty.",
        &["pack", "rule", "certainty"],
    );
    {
        let book = app.casebook();
        for finding in book.findings.values() {
            let labels = [finding.pack.as_str(), finding.rule.as_str(), finding.certainty.as_str()];
            findings.with_label_values(&labels).inc();
        }
    }
    gauges.one(
        "weighbridge_collector_findings_of_integrity",
        "Findings of integrity raised so far: an accelerator, an hour and two sources that cannot both be right.",
        count(app.casebook().integrity.len()),
    );
    let alarms = gauges.vec(
        "weighbridge_collector_alarms",
        "Alarms raised so far by kind: two histories under one identity, as of a cloned or restored host.",
        &["kind"],
    );
    let raised = app.casebook().alarms.clone();
    for kind in AlarmKind::ALL {
        let of_kind = raised.values().filter(|alarm| alarm.kind == kind).count();
        alarms.with_label_values(&[kind.as_str()]).set(count(of_kind));
    }
    let cases = cases::cases(app, view);
    let open = cases.iter().filter(|case| case.state != CaseState::Closed);
    gauges.one("weighbridge_collector_open_cases", "Cases that are not closed.", count(open.clone().count()));
    if let Some(clock) = open.filter_map(|case| case.next_clock()).min_by_key(|clock| clock.due) {
        let left = seconds(clock.remaining_ms.unsigned_abs());
        gauges.one(
            "weighbridge_collector_next_clock_due_seconds",
            "Time until the first clock of an open case runs out; negative when it has, absent when none runs.",
            if clock.remaining_ms < 0 { -left } else { left },
        );
    }
}

fn ledger(app: &App, gauges: &Gauges) {
    let entries = gauges.vec(
        "weighbridge_collector_ledger_entries",
        "Entries in the ledger by how far they have come.",
        &["stage"],
    );
    let whole = |index: u64| count(usize::try_from(index).unwrap_or(usize::MAX));
    entries.with_label_values(&["appended"]).set(whole(app.ledger.durable().borrow().index));
    entries.with_label_values(&["folded"]).set(whole(app.stands().index));
    let working = app.fault().is_none() && status::ledger_open(app);
    gauges.one(
        "weighbridge_collector_ready",
        "1 while the ledger takes entries and the sums follow it, else 0.",
        f64::from(u8::from(working)),
    );
    let health = gauges.vec(
        "weighbridge_collector_ledger_state",
        "1 for whether the ledger takes entries: writable, full (facts only) or unwritable; else 0.",
        &["state"],
    );
    let now = *app.ledger.health().borrow();
    for state in Health::ALL {
        health.with_label_values(&[state.as_str()]).set(f64::from(u8::from(state == now)));
    }
    let build = gauges.vec("weighbridge_collector_build_info", "What is running.", &["version", "method"]);
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), METHOD]).set(1.0);
}

async fn history(app: &App, gauges: &Gauges) -> Result<(), StoreError> {
    if let Some(made) = app.last_backup() {
        let age = u64::try_from(app.now().since(made)).unwrap_or(0);
        gauges.one(
            "weighbridge_collector_backup_age_seconds",
            "Time since the last whole backup; absent where there was none.",
            seconds(age),
        );
    }
    gauges.one(
        "weighbridge_collector_store_renewals",
        "How often the store got another generation: after a restore, or because the ledger was not the one that was promised.",
        count(app.generations().await?),
    );
    if let Some((place, _)) = app.last_summary().await? {
        gauges.one(
            "weighbridge_collector_summarised_ledger_entries",
            "Entries of the ledger that the last summary reflects; absent where nothing was pruned.",
            count(usize::try_from(place).unwrap_or(usize::MAX)),
        );
    }
    let rebuilt = gauges.vec(
        "weighbridge_collector_sums_made_anew",
        "1 where this start threw the sums away and folded them anew, by reason.",
        &["reason"],
    );
    if let Some(reason) = app.mended.sums {
        rebuilt.with_label_values(&[reason]).set(1.0);
    }
    Ok(())
}

/// Answers of witnesses are counted where they come in; here they are read, so that a scrape is one moment.
fn tree(app: &App, gauges: &Gauges) {
    let (status, cosigned) = (app.tree.status(), app.tree.cosigned());
    let whole = |size: u64| count(usize::try_from(size).unwrap_or(usize::MAX));
    let age = |at: UtcMillis| seconds(app.now().since(at).max(0).unsigned_abs());
    gauges.one(
        "weighbridge_collector_tree_entries",
        "Ledger entries under the newest signed checkpoint.",
        whole(status.size),
    );
    let entries = leaves(*app.ledger.durable().borrow());
    gauges.one(
        "weighbridge_collector_tree_lag_entries",
        "Ledger entries that are not under a signed checkpoint yet.",
        whole(entries.saturating_sub(status.size)),
    );
    gauges.one(
        "weighbridge_collector_tree_signing",
        "1 while the tree over the ledger is signed, 0 while something is wrong with it; alert on it.",
        f64::from(u8::from(status.problem.is_none())),
    );
    gauges.one(
        "weighbridge_collector_tree_fenced",
        "1 once this collector must not sign any more: another one does, or the ledger is not what was signed.",
        f64::from(u8::from(status.refused)),
    );
    if let Some(at) = status.signed_at {
        gauges.one(
            "weighbridge_collector_tree_checkpoint_age_seconds",
            "Time since the newest checkpoint was signed; one is signed when there are new entries.",
            age(at),
        );
    }
    if let Some(at) = cosigned.at {
        gauges.one(
            "weighbridge_collector_tree_cosignature_age_seconds",
            "Time since a witness cosigned last; absent if none ever did.",
            age(at),
        );
    }
    gauges.one(
        "weighbridge_collector_tree_refusing_witnesses",
        "Witnesses that say they were shown another history; any is an alarm.",
        count(cosigned.refused.len()),
    );
    let answers = IntCounterVec::new(
        Opts::new("weighbridge_collector_witness_answers_total", "Answers of witnesses by what they were."),
        &["answer"],
    )
    .expect("the name is valid");
    for answer in tree::ask::ANSWERS {
        answers
            .with_label_values(&[answer])
            .inc_by(cosigned.answers.get(answer).copied().unwrap_or_default());
    }
    gauges.0.register(Box::new(answers)).expect("registered once");
}
