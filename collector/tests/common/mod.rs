//! A collector in a temporary folder with a clock that stands still, an enrolled agent, and requests in process.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use weighbridge_collector::{
    api,
    app::{App, admin_token},
    config::{self, Config, Flags},
    import::Kind,
    ingest,
};
use weighbridge_meter::{
    AcceleratorId, BootId, EpochId, Source, Span, Tier, Trust, UtcMillis, Window,
    window::{Counter, Counters, Coverage},
};
use weighbridge_tlog::note::SignerKey;
use weighbridge_wire::{Batch, DeviceRecord, SigningKey, Status, seal::seal};

/// Everything begins at this whole hour.
pub(crate) const START: &str = "2026-03-02T08:00:00Z";

/// What no answer may hold but the opened report: the identity in [`CUSTOMERS`], value by value.
pub(crate) const IDENTITY: [&str; 8] = [
    "Zanzibar Quux Holdings",
    "17 Rue Imaginaire",
    "Ruritania",
    "Bank of Nowhere",
    "wallet-4711",
    "boss@quux.example",
    "+99 555 0199",
    "192.0.2.77",
];

/// One foreign customer with an identity, and one of whom only the name is known, both in a group.
pub(crate) const CUSTOMERS: &str = "\
customer,kind,us_person,control_group,name,address,locations,payment_means,payment_source,email,telephone,access
C-1,entity,foreign,G-1,Zanzibar Quux Holdings,17 Rue Imaginaire,Ruritania,Bank of Nowhere,wallet-4711,\
boss@quux.example,+99 555 0199,192.0.2.77@2026-03-01T08:00:00Z
C-2,person,us,G-1,Zanzibar Quux Holdings jr,,,,,,,
";

/// A rule that a few minutes of one device pass: 1e16 operations.
const SMALL_PACK: &str = r#"
id = "small"
version = "1"
title = "A small pack"
name = "the proposed small rule"
citation = "nowhere"
checked = "2026-01-31"
evaluate = true
evaluate_reason = "A test needs it."
report_field = [
    { id = "A1", label = "Name", citation = "nowhere", confidence = "secondary", source = "identity.name" },
    { id = "A2", label = "Address", citation = "nowhere", confidence = "secondary", source = "identity.address" },
]
example = [
    { title = "at the line", rule = "small", standing = "foreign", low = "1e16", best = "1e16", high = "1e16", calibrated_low = "1e16", calibrated_high = "1e16", expect = "not_met" },
]

[applies_to]
who = "foreign"
note = "As a test."

[[status]]
from = "2024-01-29"
value = "proposed"
source = "a gazette"
confidence = "primary"

[[rule]]
id = "small"
title = "a small amount"
citation = "nowhere, section 1"
confidence = "primary"
duty_on = "the operator"
scope = ["customer", "run", "principal"]
opens_case = ["certain"]

[[rule.condition]]
kind = "operations"
comparator = "gt"
threshold = "1e16"
threshold_origin = "text"

[[clock]]
id = "report"
label = "Report"
starts = "raised"
days = 15
time_zone = "America/New_York"
citation = "nowhere, section 2"
confidence = "secondary"
"#;

/// A collector under test.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    now: Arc<AtomicI64>,
    pub(crate) app: App,
    pub(crate) config: Config,
    pages: Router,
    ingest: Router,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

impl Site {
    /// An empty one at [`START`].
    pub(crate) async fn empty() -> Self {
        Self::configured("").await
    }

    /// One with an agent and customers, whose ledger has segments of this size.
    pub(crate) async fn with_segments(bytes: u64) -> Self {
        let site = Self::configured(&format!("[store]\nsegment_bytes = {bytes}\n")).await;
        site.import(Kind::Agents, &agents()).await;
        site.import(Kind::Customers, CUSTOMERS).await;
        site
    }

    /// The same with more in its configuration: sections `ingest` or `store`.
    pub(crate) async fn configured(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("packs")).expect("a folder");
        signed_pack(&path("packs"), "small@1.toml", SMALL_PACK.trim_start());
        let quoted = |name: &str| format!("{:?}", path(name));
        let (more, in_store) = more.split_once("[store]\n").unwrap_or((more, ""));
        let text = format!(
            "{more}\n[store]\n{in_store}data = {}\n[keys]\noperator_key = {}\nkey_store = {}\n[rules]\nfolder = {}\ntrusted_keys = [{:?}]\n",
            quoted("data"),
            quoted("operator.key"),
            quoted("keys"),
            quoted("packs"),
            pack_key().verifier().to_string()
        );
        let config = config::parse(&text, &Flags::default()).expect("valid");
        let now = Arc::new(AtomicI64::new(at(0).0));
        let clock = now.clone();
        let app = App::start(&config, Arc::new(move || UtcMillis(clock.load(Ordering::Relaxed))))
            .await
            .expect("starts");
        let (pages, ingest) = (api::http_routes(app.clone()), ingest::routes(app.clone()));
        Self { folder, now, app, config, pages, ingest }
    }

    /// One with an H100 on host gpu-1, leased to C-1 until 10:00, that ran at 08:00, 08:01 and 09:00 for a minute
    /// each, as of 09:01; and lease L-2 of host gpu-2 to somebody unmapped, of two devices that nobody reported.
    pub(crate) async fn with_an_hour() -> Self {
        Self::with_an_hour_and("").await
    }

    /// The same with more in its configuration, as [`Site::configured`].
    pub(crate) async fn with_an_hour_and(more: &str) -> Self {
        let site = Self::configured(more).await;
        site.import(Kind::Agents, &agents()).await;
        site.import(Kind::Customers, CUSTOMERS).await;
        site.import(
            Kind::Principals,
            "principal,customer,valid_from,valid_to\nlease:site/one,C-1,2026-03-01T00:00:00Z,\n",
        )
        .await;
        site.import(
            Kind::Leases,
            "lease,host,accelerator,principal,start,end\n\
             L-1,gpu-1,*,lease:site/one,2026-03-02T08:00:00Z,2026-03-02T10:00:00Z\n\
             L-2,gpu-2,2x10de:2330,lease:site/two,2026-03-02T08:30:00Z,2026-03-02T10:00:00Z\n",
        )
        .await;
        let mut first = batch(1);
        first.inventory = vec![device()];
        first.windows = vec![window(0), window(1)];
        first.status = Some(status());
        let sealed = seal(&first, &key()).expect("seals");
        let (answer, hash) = (site.submit(sealed.bytes).await, sealed.hash);
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        site.sets(61);
        let mut second = batch(2);
        second.prev_hash = hash;
        second.windows = vec![window(60)];
        let answer = site.submit(seal(&second, &key()).expect("seals").bytes).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        site.app.settled().await;
        site
    }

    /// So many minutes after [`START`].
    pub(crate) fn sets(&self, minutes: i64) {
        self.now.store(at(minutes).0, Ordering::Relaxed);
    }

    pub(crate) async fn import(&self, kind: Kind, text: &str) {
        self.app.import(kind, "test.csv", text.as_bytes()).await.unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) async fn submit(&self, bytes: Vec<u8>) -> Answer {
        self.submit_with(bytes, &[]).await
    }

    /// With headers beside it.
    pub(crate) async fn submit_with(&self, bytes: Vec<u8>, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::post("/api/v1/batches");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(&self.ingest, request.body(Body::from(bytes)).expect("valid")).await
    }

    /// A report of the agent on itself.
    pub(crate) async fn say(&self, bytes: Vec<u8>) -> Answer {
        let request = Request::post("/api/v1/status").body(Body::from(bytes)).expect("valid");
        answer(&self.ingest, request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(&self.pages, Request::get(path).body(Body::empty()).expect("valid")).await
    }

    /// The JSON of something that is there.
    pub(crate) async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        answer.json()
    }

    /// A request with a body, with or without the admin token.
    pub(crate) async fn post(&self, path: &str, token: Option<&str>, body: impl Into<Body>) -> Answer {
        let mut request = Request::post(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        answer(&self.pages, request.body(body.into()).expect("valid")).await
    }

    /// A request with the admin token, and with headers beside it.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("authorization", format!("Bearer {}", self.token()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        answer(&self.pages, request.body(body).expect("valid")).await
    }

    /// A request with just these headers.
    pub(crate) async fn sent(&self, path: &str, body: String, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(&self.pages, request.body(Body::from(body)).expect("valid")).await
    }

    /// The same collector, stopped and started again.
    pub(crate) async fn restarted(self) -> Self {
        self.restarted_after(|| ()).await
    }

    /// The same with something done in between.
    pub(crate) async fn restarted_after(self, between: impl FnOnce()) -> Self {
        let (now, config) = (self.now.clone(), self.config.clone());
        let folder = self.stop().await;
        between();
        let clock = now.clone();
        let app = App::start(&config, Arc::new(move || UtcMillis(clock.load(Ordering::Relaxed))))
            .await
            .expect("starts");
        let (pages, ingest) = (api::http_routes(app.clone()), ingest::routes(app.clone()));
        Self { folder, now, app, config, pages, ingest }
    }

    /// Lets go of everything but the folder, so that another collector can start there.
    pub(crate) async fn stop(self) -> tempfile::TempDir {
        let Self { folder, app, pages, ingest, .. } = self;
        drop((pages, ingest));
        let store = app.store.clone();
        let mut durable = app.ledger.durable();
        let tree = app.tree.closed();
        drop(app);
        // The writer announces until it has closed its journal.
        while durable.changed().await.is_ok() {}
        tree.await;
        store.close().await;
        folder
    }

    /// Where everything of it lies.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn token(&self) -> String {
        admin_token(&self.config.operator_key).expect("readable")
    }
}

/// The key that packs are signed with.
pub(crate) fn pack_key() -> SignerKey {
    SignerKey::new("legal.example", SigningKey::from_bytes(&[9; 32])).expect("a name")
}

/// Puts a pack into a folder, with its signature.
pub(crate) fn signed_pack(folder: &Path, file: &str, text: &str) {
    let signature = weighbridge_collector::packs::sign(file, text, None, &pack_key());
    std::fs::write(folder.join(file), text).expect("a file");
    std::fs::write(folder.join(format!("{file}.sig")), signature).expect("a file");
}

/// What the ingest port of this collector says to a batch.
pub(crate) async fn submitted(app: &App, bytes: Vec<u8>) -> Answer {
    let request = Request::post("/api/v1/batches").body(Body::from(bytes)).expect("valid");
    answer(&ingest::routes(app.clone()), request).await
}

async fn answer(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.expect("a router always answers");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("in memory").to_bytes();
    // A file that is no text is looked at by its kind alone.
    let body = String::from_utf8_lossy(&bytes).into_owned();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// So many minutes after [`START`].
pub(crate) fn at(minutes: i64) -> UtcMillis {
    START.parse::<UtcMillis>().expect("valid").plus(minutes * UtcMillis::MINUTE)
}

/// The agent's key.
pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// `agents.csv` with the agent on gpu-1.
pub(crate) fn agents() -> String {
    let public = BASE64.encode(key().verifying_key().as_bytes());
    format!(
        "agent,host,site,fabric,public_key,valid_from,valid_to\nagent-1,gpu-1,site,ib,{public},2026-01-01T00:00:00Z,\n"
    )
}

pub(crate) fn accelerator() -> AcceleratorId {
    "GPU-1".parse().expect("valid")
}

pub(crate) fn batch(sequence: u64) -> Batch {
    Batch {
        agent: "agent-1".parse().expect("valid"),
        epoch: EpochId([1; 16]),
        sequence,
        prev_hash: [0; 32],
        boot: BootId([2; 16]),
        windows: Vec::new(),
        gaps: Vec::new(),
        holdings: Vec::new(),
        inventory: Vec::new(),
        status: None,
        losses: Vec::new(),
    }
}

pub(crate) fn device() -> DeviceRecord {
    DeviceRecord {
        accelerator: accelerator(),
        at: at(0),
        present: true,
        host: "gpu-1".into(),
        name: "NVIDIA H100 80GB HBM3".into(),
        pci_device: "10de:2330".into(),
        pci_address: "0000:18:00.0".into(),
        source: Source::Nvml,
        tier: Tier::B,
        trust: Trust::Host,
        max_sm_clock_mhz: Some(1980),
        power_limit_mw: Some(700_000),
        memory_bytes: None,
        driver: "580.1".into(),
        parent: None,
        units: None,
        sample_ms: 0,
        conditions: Vec::new(),
    }
}

/// A minute at 1 GHz with the 16-bit tensor pipe always active and no vector pipe ever: 6e10 cycles.
pub(crate) fn window(minute: i64) -> Window {
    Window {
        accelerator: accelerator(),
        span: Span::new(at(minute), at(minute + 1)).expect("a minute"),
        boot_start_ms: u64::try_from(minute).expect("positive") * 60_000,
        source: Source::Nvml,
        tier: Tier::B,
        coverage: Coverage::Measured,
        ticks: 60,
        counters: Counters::default()
            .with(Counter::ElapsedCycles, 60_000_000_000)
            .with(Counter::TensorCycles, 60_000_000_000)
            .with(Counter::HmmaCycles, 60_000_000_000)
            .with(Counter::Fp32Cycles, 0)
            .with(Counter::Fp16Cycles, 0)
            .with(Counter::BusyMicros, 60_000_000),
        features: Default::default(),
        uses: Vec::new(),
    }
}

pub(crate) fn status() -> Status {
    Status {
        at: at(0),
        version: "0.1.0".into(),
        host: "gpu-1".into(),
        source_state: "ok".into(),
        spool_bytes: 0,
        unacknowledged: 3,
    }
}
