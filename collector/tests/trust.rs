//! Trust under clocks that are wrong, certificates that have ended, and authorities that come and go, through real
//! sockets and with the agent's own side of it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use reqwest::Url;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use weighbridge_agent::{
    clock::{Clock, ManualClock},
    enrol::{JoinError, Joined, Joining, join},
    key,
    metrics::Metrics,
    tls::{
        HostTime, Identity, client_config,
        files::Files,
        keep::{Keeper, RenewError},
    },
    uplink::{
        Sender, SenderOptions,
        client::{Answered, Asked, Client, ClientError, Credentials, Distrust},
    },
};
use weighbridge_collector::{
    app::App,
    config::{self, Flags},
    enrol::Act,
    import::Kind,
    listen::Limits,
    tls::{Step, serve},
};
use weighbridge_meter::{AgentId, BootId, EpochId, Trust, UtcMillis};
use weighbridge_wire::{
    Batch,
    enrol::{JoinToken, RefusedCode},
    seal::seal,
};

const START: &str = "2026-03-02T08:00:00Z";
const HOUR: i64 = UtcMillis::HOUR;
const WAIT: Duration = Duration::from_secs(60);

/// A collector under TLS whose clock is set by hand.
struct Site {
    app: App,
    now: Arc<AtomicI64>,
    url: Url,
    stop: CancellationToken,
    folder: tempfile::TempDir,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn start() -> UtcMillis {
    START.parse().expect("a time")
}

fn random(bytes: &mut [u8]) {
    weighbridge_collector::random::fill(bytes);
}

fn agent() -> AgentId {
    "node1".parse().expect("a name")
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let text = format!(
            "[store]\ndata = {:?}\n[keys]\noperator_key = {:?}\nkey_store = {:?}\n\
             [authority]\nserver_certificate = \"720h\"\ngrace = \"100h\"\n",
            path("data"),
            path("operator.key"),
            path("keys")
        );
        let config = config::parse(&text, &Flags::default()).expect("valid");
        let now = Arc::new(AtomicI64::new(start().0));
        let clock = now.clone();
        let app = App::start(&config, Arc::new(move || UtcMillis(clock.load(Ordering::Relaxed))));
        let app = app.await.expect("starts");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address")).parse().expect("a URL");
        let stop = CancellationToken::new();
        tokio::spawn(serve::serve(app.clone(), listener, Limits::default(), stop.clone()));
        Self { app, now, url, stop, folder }
    }

    fn sets(&self, millis: i64) {
        self.now.store(start().0 + millis, Ordering::Relaxed);
    }

    async fn token(&self) -> JoinToken {
        let act = Act::Token {
            agent: agent(),
            host: "node1".into(),
            site: "s".into(),
            fabric: "f".into(),
            max_trust: Trust::Host,
            valid_s: 3600,
        };
        let made = self.app.act(act).await.expect("a token");
        made.token.expect("a token").parse().expect("a token")
    }

    async fn step(&self, step: Step) {
        self.app.act(Act::Step { step, force: true }).await.expect("a step");
    }

    async fn join(&self, clock: &Arc<ManualClock>) -> Result<Joined, JoinError> {
        self.join_with(&self.token().await, clock).await
    }

    async fn join_with(&self, token: &JoinToken, clock: &Arc<ManualClock>) -> Result<Joined, JoinError> {
        let joining = Joining {
            collector: self.url.clone(),
            agent: agent(),
            key_file: self.folder.path().join("agent.key"),
            folder: self.folder.path().join("tls"),
            connect_timeout: WAIT,
            timeout: WAIT,
        };
        join(&joining, token, Arc::clone(clock) as Arc<dyn Clock>, &mut random).await
    }
}

/// The agent's side.
struct Host {
    identity: Arc<Identity>,
    sender: Sender,
    client: Client,
    url: Url,
    key: weighbridge_wire::SigningKey,
    metrics: Metrics,
}

impl Host {
    fn open(site: &Site, clock: &Arc<ManualClock>) -> Self {
        let files = Files::Own(site.folder.path().join("tls"));
        let identity = Arc::new(Identity::open(files, Arc::clone(clock) as Arc<dyn Clock>));
        let options =
            SenderOptions { collectors: vec![site.url.clone()], connect_timeout: WAIT, timeout: WAIT };
        Self {
            sender: Sender::with_identity(options, Arc::clone(&identity)).expect("a sender"),
            client: Client::new(WAIT, WAIT, Credentials::Identity(Arc::clone(&identity))),
            url: site.url.join("/api/v1/batches").expect("a URL"),
            key: signing_key(site.folder.path()),
            metrics: Metrics::register(&prometheus::Registry::new()).expect("registered once"),
            identity,
        }
    }

    async fn renew(&self) -> Result<weighbridge_wire::enrol::Issued, RenewError> {
        let keeper = Keeper {
            identity: &self.identity,
            sender: &self.sender,
            agent: agent(),
            key: self.key.clone(),
            random,
            metrics: &self.metrics,
            retry_longest: WAIT,
            retry_refused: WAIT,
        };
        keeper.renew().await
    }

    async fn post(&self) -> Result<Answered, ClientError> {
        let body = batch_of(&self.key);
        let asked = Asked { method: hyper::Method::POST, url: self.url.clone(), headers: Vec::new(), body };
        self.client.request(&asked).await
    }

    #[track_caller]
    fn said(answered: Result<Answered, ClientError>) -> (u16, String) {
        let answered = answered.expect("an answer");
        (answered.status, String::from_utf8_lossy(&answered.body).into_owned())
    }
}

/// An empty batch of the agent, signed by this key.
fn batch_of(key: &weighbridge_wire::SigningKey) -> hyper::body::Bytes {
    let batch = Batch {
        agent: agent(),
        epoch: EpochId([1; 16]),
        sequence: 1,
        prev_hash: [0; 32],
        boot: BootId([2; 16]),
        windows: Vec::new(),
        gaps: Vec::new(),
        holdings: Vec::new(),
        inventory: Vec::new(),
        status: None,
        losses: Vec::new(),
    };
    seal(&batch, key).expect("seals").bytes.into()
}

fn signing_key(folder: &Path) -> weighbridge_wire::SigningKey {
    key::read(&folder.join("agent.key")).expect("readable").expect("there")
}

fn clock_at(wall: UtcMillis) -> Arc<ManualClock> {
    Arc::new(ManualClock::new(wall, 5_000, BootId([3; 16])))
}

#[tokio::test]
async fn a_host_whose_clock_stands_at_1970_joins_sends_and_renews_and_is_told() {
    let site = Site::new().await;
    let clock = clock_at(UtcMillis(0));
    let joined = site.join(&clock).await.expect("joins");
    assert_eq!(joined.clock_ahead_ms, Some(-start().0));
    let host = Host::open(&site, &clock);
    assert_eq!(Host::said(host.post().await).0, 200);
    // A month later the server has another certificate, and this host still believes 1970.
    site.sets(21 * 24 * HOUR);
    assert!(site.app.trust.tick().expect("renews"), "the server's certificate was due");
    site.sets(22 * HOUR);
    host.renew().await.expect("renews");
    assert_eq!(Host::said(host.post().await).0, 200);
}

#[tokio::test]
async fn two_hours_either_way_on_either_side_do_no_harm() {
    for off in [-2 * HOUR, 2 * HOUR] {
        let site = Site::new().await;
        let clock = clock_at(start().plus(off));
        let joined = site.join(&clock).await.expect("joins");
        assert_eq!(joined.clock_ahead_ms, Some(off));
        let host = Host::open(&site, &clock);
        assert_eq!(Host::said(host.post().await).0, 200);
        // And the collector's steps, after it has signed.
        site.sets(off);
        let again = Host::open(&site, &clock);
        assert_eq!(Host::said(again.post().await).0, 200);
        let renewed = again.renew().await;
        if off < 0 {
            // Before its authority begins its clock is behind: what it signed now would end too early.
            let RenewError::Refused(refused) = renewed.expect_err("not now") else { panic!("refused") };
            assert_eq!(refused.code, RefusedCode::NotAvailable);
            assert!(refused.detail.contains("set the clock"), "{}", refused.detail);
        } else {
            renewed.expect("renews");
        }
    }
}

#[tokio::test]
async fn a_collector_whose_clock_fell_behind_takes_no_good_certificate_away() {
    let site = Site::new().await;
    let clock = clock_at(start());
    site.join(&clock).await.expect("joins");
    let host = Host::open(&site, &clock);
    site.sets(30 * HOUR);
    host.renew().await.expect("renews");
    site.sets(HOUR);
    let error = host.renew().await.expect_err("it would end a day too early");
    assert!(matches!(error, RenewError::Unusable(_)), "{error:?}");
    let ready = host.identity.state().ready.as_ref().expect("ready").certificate.not_after;
    assert_eq!(ready, start().plus(54 * HOUR));
    site.sets(46 * HOUR);
    assert_eq!(host.renew().await.expect("renews").not_after, start().plus(70 * HOUR));
}

#[tokio::test]
async fn a_host_whose_clock_runs_years_ahead_is_told_so_and_nothing_is_written() {
    let site = Site::new().await;
    let error = site.join(&clock_at(start().plus(3650 * 24 * HOUR))).await.expect_err("no certificate lasts");
    assert!(matches!(error, JoinError::Clock { .. }), "{error:?}");
    assert!(error.to_string().contains("set the clock and try again"), "{error}");
    assert!(!site.folder.path().join("tls").exists());
}

#[tokio::test]
async fn a_certificate_that_has_ended_sends_nothing_more_on_an_open_connection_and_renews_within_the_grace() {
    let site = Site::new().await;
    let clock = clock_at(start());
    site.join(&clock).await.expect("joins");
    let host = Host::open(&site, &clock);
    assert_eq!(Host::said(host.post().await).0, 200);
    site.sets(25 * HOUR);
    let (status, body) = Host::said(host.post().await);
    assert!(status == 403 && body.contains("certificate expired"), "{status} {body}");
    let issued = host.renew().await.expect("renews");
    assert_eq!(issued.not_after, start().plus(49 * HOUR));
    assert_eq!(Host::said(host.post().await).0, 200);

    site.sets((49 + 101) * HOUR);
    let error =
        host.renew().await.expect_err("the open connection may not renew either, or a new one is refused");
    match error {
        RenewError::Client(error) => assert_eq!(error.distrust(), Some(Distrust::OfAgent), "{error:?}"),
        RenewError::Refused(refused) => assert_eq!(refused.code, RefusedCode::NoCertificate),
        other => panic!("{other:?}"),
    }
    let fresh = Host::open(&site, &clock);
    let error = fresh.post().await.expect_err("the handshake is refused");
    assert_eq!(error.distrust(), Some(Distrust::OfAgent), "{error:?}");
    // A new token brings it back.
    site.join(&clock).await.expect("joins again");
    assert!(fresh.identity.reload());
    assert_eq!(Host::said(fresh.post().await).0, 200);
}

#[tokio::test]
async fn what_a_retired_authority_signed_ends_at_once_also_on_open_connections() {
    let site = Site::new().await;
    let clock = clock_at(start());
    site.join(&clock).await.expect("joins");
    let (learnt, away) = (Host::open(&site, &clock), Host::open(&site, &clock));
    assert_eq!(Host::said(learnt.post().await).0, 200);
    assert_eq!(Host::said(away.post().await).0, 200);
    site.step(Step::Introduce).await;
    site.step(Step::Activate).await;
    // Who was away knows only the old authority, and believes the server by what that one signed.
    let old_only = Host::open(&site, &clock);
    assert_eq!(old_only.identity.state().ready.as_ref().expect("ready").authorities, 1);
    assert_eq!(Host::said(old_only.post().await).0, 200);
    assert_eq!(Host::said(away.post().await).0, 200, "an open connection outlives the change");
    learnt.renew().await.expect("renews");
    assert_eq!(learnt.identity.state().ready.as_ref().expect("ready").authorities, 2);
    site.step(Step::Retire).await;
    assert_eq!(Host::said(learnt.post().await).0, 200);
    let (status, body) = Host::said(away.post().await);
    assert!(status == 403 && body.contains("no longer believed"), "{status} {body}");
    let error = away.post().await.expect_err("the connection was closed, and another is not agreed on");
    assert!(error.distrust().is_some(), "{error:?}");
}

#[tokio::test]
async fn steps_of_a_rollover_wait_for_agents_unless_they_are_forced() {
    let site = Site::new().await;
    let step = async |step| site.app.act(Act::Step { step, force: false }).await;
    assert!(step(Step::Activate).await.is_err() && step(Step::Retire).await.is_err());
    step(Step::Introduce).await.expect("introduces");
    assert!(step(Step::Introduce).await.is_err(), "one at a time");
    let early = step(Step::Activate).await.expect_err("too early").to_string();
    assert!(!early.is_empty());
    site.sets(24 * HOUR);
    step(Step::Activate).await.expect("every agent has renewed by now");
    assert!(step(Step::Retire).await.is_err());
    // The last certificate of the old one ends a day after it signed last; for a hundred hours more it renews.
    site.sets((48 + 100) * HOUR - 1);
    assert!(step(Step::Retire).await.is_err());
    site.sets((48 + 100) * HOUR);
    let acted = step(Step::Retire).await.expect("no agent can come back with an old certificate by now");
    assert_eq!(acted.said.len(), 1);
}

#[tokio::test]
async fn a_join_that_is_repeated_gets_a_certificate_only_for_a_key_that_has_not_ended() {
    let site = Site::new().await;
    let clock = clock_at(start());
    let first = site.token().await;
    site.join_with(&first, &clock).await.expect("joins");
    site.join_with(&first, &clock).await.expect("the answer was lost, it asks again");
    // The same host is made anew, under another key.
    let key = site.folder.path().join("agent.key");
    std::fs::rename(&key, site.folder.path().join("before.key")).expect("renamed");
    site.sets(1_000);
    site.join(&clock).await.expect("joins anew");
    std::fs::rename(site.folder.path().join("before.key"), &key).expect("renamed");
    site.sets(2_000);
    let JoinError::Refused(refused) = site.join_with(&first, &clock).await.expect_err("that key ended")
    else {
        panic!("refused")
    };
    assert_eq!(refused.code, RefusedCode::NotEnrolled, "{refused:?}");
}

#[tokio::test]
async fn a_token_that_was_over_once_stays_over_under_a_clock_that_was_set_back() {
    let site = Site::new().await;
    let token = site.token().await;
    site.sets(2 * HOUR);
    site.app.expire_tokens().await.expect("records");
    site.sets(0);
    let error = site.join_with(&token, &clock_at(start())).await.expect_err("it is over");
    let JoinError::Refused(refused) = error else { panic!("refused") };
    assert_eq!(refused.code, RefusedCode::TokenExpired, "{refused:?}");
}

#[tokio::test]
async fn an_agent_is_shut_out_and_let_in_though_the_sums_cannot_follow() {
    use sqlx::Connection;
    let site = Site::new().await;
    let file = site.folder.path().join("data/usage.sqlite");
    let mut held =
        sqlx::SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.expect("opens");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut held).await.expect("nobody else may write now");
    // Who makes a token waits for the sums, and holds up the other writers.
    let mut durable = site.app.ledger.durable();
    let before = *durable.borrow_and_update();
    let waits = {
        let app = site.app.clone();
        tokio::spawn(async move {
            let act = Act::Token {
                agent: "node2".parse().expect("a name"),
                host: "h".into(),
                site: "s".into(),
                fabric: "f".into(),
                max_trust: Trust::Host,
                valid_s: 60,
            };
            app.act(act).await
        })
    };
    durable.wait_for(|durable| *durable > before).await.expect("writes");
    let act = async |act| {
        let acted = tokio::time::timeout(Duration::from_secs(20), site.app.act(act)).await;
        acted.expect("waits for no sums").expect("acts");
    };
    act(Act::Deny { agent: agent(), reason: "stolen".into() }).await;
    assert!(site.app.enrolment.denied(&agent()).is_some());
    act(Act::Allow { agent: agent() }).await;
    assert!(site.app.enrolment.denied(&agent()).is_none());
    assert_eq!(site.app.stands(), before, "the sums are behind");
    sqlx::query("ROLLBACK").execute(&mut held).await.expect("others may write again");
    waits.await.expect("does not panic").expect("a token");
}

#[tokio::test]
async fn who_may_not_send_is_told_so_before_the_body_is_there() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let site = Site::new().await;
    let clock = clock_at(start());
    site.join(&clock).await.expect("joins");
    let parsed =
        Files::Own(site.folder.path().join("tls")).read().and_then(|read| read.parse()).expect("there");
    let shown = (parsed.certificates, parsed.key);
    let time = || Arc::new(HostTime(Arc::clone(&clock) as Arc<dyn Clock>));
    let nobody = Arc::new(client_config(parsed.authorities.clone(), None, time()).expect("usable"));
    let own = Arc::new(client_config(parsed.authorities, Some(shown), time()).expect("usable"));
    let asked = async |config: &Arc<rustls::ClientConfig>, path: &str| {
        let at = format!("127.0.0.1:{}", site.url.port().expect("a port"));
        let tcp = tokio::net::TcpStream::connect(at).await.expect("listens");
        let name = "127.0.0.1".try_into().expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        let mut stream = connector.connect(name, tcp).await.expect("agrees");
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("open");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        drop(read.expect("answers and closes without the body"));
        String::from_utf8_lossy(&answer).into_owned()
    };
    let refused = |answer: &str, title: &str| {
        let fits = answer.starts_with("HTTP/1.1 403") && answer.contains("connection: close");
        assert!(fits && answer.contains(&format!("\"title\":\"{title}\"")), "{answer}");
    };
    for path in ["/api/v1/batches", "/api/v1/status"] {
        refused(&asked(&nobody, path).await, "no certificate");
    }
    site.app.act(Act::Deny { agent: agent(), reason: "stolen".into() }).await.expect("denies");
    for path in ["/api/v1/batches", "/api/v1/status"] {
        refused(&asked(&own, path).await, "denied");
    }
    site.app.act(Act::Allow { agent: agent() }).await.expect("allows");
    site.sets(25 * HOUR);
    for path in ["/api/v1/batches", "/api/v1/status"] {
        refused(&asked(&own, path).await, "certificate expired");
    }
}

#[tokio::test]
async fn a_renewal_needs_the_enrolled_key_and_the_deny_list_counts_at_once() {
    let site = Site::new().await;
    let clock = clock_at(start());
    site.join(&clock).await.expect("joins");
    let mut host = Host::open(&site, &clock);
    let good = host.key.clone();
    host.key = weighbridge_wire::SigningKey::from_bytes(&[9; 32]);
    let RenewError::Refused(refused) = host.renew().await.expect_err("another key") else {
        panic!("refused")
    };
    assert_eq!(refused.code, RefusedCode::BadRequest);
    host.key = good;
    assert_eq!(Host::said(host.post().await).0, 200);
    site.app.act(Act::Deny { agent: agent(), reason: "stolen".into() }).await.expect("denies");
    let (status, body) = Host::said(host.post().await);
    assert!(status == 403 && body.contains("stolen"), "{status} {body}");
    let RenewError::Refused(refused) = host.renew().await.expect_err("denied") else { panic!("refused") };
    assert_eq!(refused.code, RefusedCode::Denied);
    site.app.act(Act::Allow { agent: agent() }).await.expect("allows");
    assert_eq!(Host::said(host.post().await).0, 200);
    // What the ledger says is what a collector that starts on it knows.
    site.app.act(Act::Deny { agent: agent(), reason: "again".into() }).await.expect("denies");
    assert_eq!(site.app.enrolment.denied(&agent()).map(|denied| denied.reason), Some("again".into()));
}

/// A site's own authority.
struct Theirs {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Theirs {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("signs");
        Self { pem: root.pem(), der: root.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn signed(&self, name: SanType) -> (KeyPair, rcgen::Certificate) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        let signed = params.signed_by(&key, &self.issuer).expect("signs");
        (key, signed)
    }

    /// What the site's tools put in place for the collector.
    fn install(&self, folder: &Path) {
        let (key, signed) = self.signed(SanType::IpAddress("127.0.0.1".parse().expect("an address")));
        for (name, text) in [("server.pem", signed.pem()), ("server.key", key.serialize_pem())] {
            std::fs::write(folder.join(name), text).expect("written");
        }
        std::fs::write(folder.join("authorities.pem"), &self.pem).expect("written");
    }

    /// A client with a certificate of this agent.
    fn client(&self, agent: &str) -> Client {
        let uri = format!("spiffe://example.org/gpu/{agent}");
        let (key, signed) = self.signed(SanType::URI(uri.try_into().expect("a URI")));
        let shown = (vec![signed.der().clone()], PrivateKeyDer::from(key));
        let time = Arc::new(HostTime(clock_at(start()) as Arc<dyn Clock>));
        let config = client_config(vec![self.der.clone()], Some(shown), time).expect("a configuration");
        Client::new(WAIT, WAIT, Credentials::Fixed(Arc::new(config)))
    }
}

#[tokio::test]
async fn certificates_of_the_sites_own_authority_are_read_again_and_name_agents_by_the_sites_pattern() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (first, second) = (Theirs::new(), Theirs::new());
    first.install(folder.path());
    let text = format!(
        "[store]\ndata = {:?}\n[keys]\noperator_key = {:?}\nkey_store = {:?}\n[ingest]\n\
         certificate_file = {:?}\nkey_file = {:?}\nauthorities_file = {:?}\n\
         identity = \"spiffe://example.org/gpu/{{agent}}\"\n",
        path("data"),
        path("operator.key"),
        path("keys"),
        path("server.pem"),
        path("server.key"),
        path("authorities.pem")
    );
    let config = config::parse(&text, &Flags::default()).expect("valid");
    let app = App::start(&config, Arc::new(start)).await.expect("starts");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base: Url = format!("https://{}", listener.local_addr().expect("bound")).parse().expect("a URL");
    let stop = CancellationToken::new();
    tokio::spawn(serve::serve(app.clone(), listener, Limits::default(), stop.clone()));
    let key = weighbridge_wire::SigningKey::from_bytes(&[4; 32]);
    let agents = format!(
        "agent,host,site,fabric,public_key,valid_from,valid_to\nnode1,h,s,f,{},2026-01-01T00:00:00Z,\n",
        key::public_base64(&key)
    );
    app.import(Kind::Agents, "agents.csv", agents.as_bytes()).await.expect("imports");
    let body = batch_of(&key);
    let post = async |client: &Client, path: &str| {
        let url = base.join(path).expect("a URL");
        let asked = Asked { method: hyper::Method::POST, url, headers: Vec::new(), body: body.clone() };
        client.request(&asked).await
    };
    let batches = "/api/v1/batches";

    let own = first.client("node1");
    assert_eq!(Host::said(post(&own, batches).await).0, 200);
    let (status, text) = Host::said(post(&first.client("node2"), batches).await);
    assert!(status == 403 && text.contains("somebody else's certificate"), "{status} {text}");
    let (status, text) = Host::said(post(&own, "/api/v1/enrolment/renew").await);
    assert!(status == 400, "{status} {text}");
    let act = Act::Authorities {};
    assert!(app.act(act).await.expect_err("no authority here").to_string().contains("site's own authority"));

    assert!(!app.trust.tick().expect("nothing is new"));
    second.install(folder.path());
    assert!(app.trust.tick().expect("reads again"));
    let (status, text) = Host::said(post(&own, batches).await);
    assert!(status == 403 && text.contains("no longer believed"), "{status} {text}");
    assert_eq!(Host::said(post(&second.client("node1"), batches).await).0, 200);
    stop.cancel();
}
