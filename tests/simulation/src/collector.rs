//! The collector's own code behind a listener of this process, and a network in front of it.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use tokio::{net::TcpListener, task::JoinHandle};
use tower::ServiceExt;
use weighbridge_collector::{
    app::App,
    config::{self, Config, Flags},
    import::Kind,
    ingest,
};
use weighbridge_meter::{Estimator, UtcMillis};
use weighbridge_store::{Body as EntryBody, Entry, Fact, Filter, UsageStore, verify};
use weighbridge_tests::{damage, handmade, random::Random};
use weighbridge_wire::{Batch, Hash, hash};

use crate::{Now, hosts::SimulatedHost};

/// Where nobody listens: the port of a service that no machine has had for decades.
pub(crate) const NOBODY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9));

/// A network that does to each request what its seed says.
#[derive(Clone)]
pub(crate) struct Network(Arc<Inner>);

struct Inner {
    random: Mutex<Random>,
    /// So many requests in a thousand meet trouble.
    rough: AtomicU64,
    troubles: AtomicUsize,
    /// Requests that are still on their way.
    ghosts: Mutex<Vec<(Parts, Vec<u8>)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    pub(crate) fn new(random: Random) -> Self {
        Self(Arc::new(Inner {
            random: Mutex::new(random),
            rough: AtomicU64::new(0),
            troubles: AtomicUsize::new(0),
            ghosts: Mutex::default(),
        }))
    }

    pub(crate) fn change(&self, rough: u64) {
        self.0.rough.store(rough, Ordering::Relaxed);
    }

    pub(crate) fn pass_time(&self) {
        // What is still on its way gets lost: nothing stays there for minutes.
        locked(&self.0.ghosts).clear();
    }

    pub(crate) fn troubles(&self) -> usize {
        self.0.troubles.load(Ordering::Relaxed)
    }

    async fn carry(&self, routes: Router, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return StatusCode::BAD_REQUEST.into_response() };
        let body = body.to_bytes().to_vec();
        let (trouble, kind, release) = {
            let mut random = locked(&self.0.random);
            let rough = self.0.rough.load(Ordering::Relaxed);
            (random.within(0..1_000) < rough, random.within(0..7), random.within(0..3) == 0)
        };
        let ghost = if release { locked(&self.0.ghosts).pop() } else { None };
        if let Some((parts, body)) = ghost {
            drop(deliver(&routes, &parts, &body).await);
        }
        if !trouble {
            return deliver(&routes, &parts, &body).await;
        }
        self.0.troubles.fetch_add(1, Ordering::Relaxed);
        match kind {
            // Never arrives.
            0 => StatusCode::BAD_GATEWAY.into_response(),
            // Arrives, and the answer does not.
            1 => {
                drop(deliver(&routes, &parts, &body).await);
                StatusCode::GATEWAY_TIMEOUT.into_response()
            }
            // Arrives twice.
            2 => {
                drop(deliver(&routes, &parts, &body).await);
                deliver(&routes, &parts, &body).await
            }
            // Arrives, and again later.
            3 => {
                let answer = deliver(&routes, &parts, &body).await;
                locked(&self.0.ghosts).push((parts, body));
                answer
            }
            // Arrives later only.
            4 => {
                locked(&self.0.ghosts).push((parts, body));
                StatusCode::GATEWAY_TIMEOUT.into_response()
            }
            // Somebody else answers.
            5 => (StatusCode::OK, "<html>welcome</html>").into_response(),
            _ => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]).into_response(),
        }
    }
}

async fn deliver(routes: &Router, parts: &Parts, body: &[u8]) -> Response {
    let mut request = Request::new(Body::from(body.to_vec()));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = parts.headers.clone();
    match routes.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// A collector that serves.
pub(crate) struct Running {
    app: App,
    config: Config,
    server: JoinHandle<()>,
    address: SocketAddr,
}

impl Running {
    /// Goes on from what lies in the folder.
    pub(crate) async fn start(folder: &Path, now: &Now, network: &Network) -> Result<Self, String> {
        let folder = folder.join("collector");
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let at = |name: &str| format!("{:?}", folder.join(name));
        let text = format!(
            "[store]\ndata = {}\nsegment_bytes = 8192\n[keys]\noperator_key = {}\nkey_store = {}\n",
            at("data"),
            at("operator.key"),
            at("keys")
        );
        let config = config::parse(&text, &Flags::default()).map_err(|error| error.to_string())?;
        let clock = Arc::clone(now);
        let clock: weighbridge_collector::app::Clock =
            Arc::new(move || UtcMillis(clock.load(Ordering::Relaxed)));
        let app = App::start(&config, clock).await.map_err(|error| verify::chain_of(&error))?;
        let routes = ingest::routes(app.clone());
        let network = network.clone();
        let front = Router::new().fallback(move |request: Request| {
            let (network, routes) = (network.clone(), routes.clone());
            async move { network.carry(routes, request).await }
        });
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let server = tokio::spawn(async move {
            // It runs until it is aborted.
            drop(axum::serve(listener, front).await);
        });
        Ok(Self { app, config, server, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn enrol(&self, hosts: &[SimulatedHost]) -> Result<(), String> {
        let mut csv = String::from("agent,host,site,fabric,public_key,valid_from,valid_to\n");
        hosts.iter().for_each(|host| csv.push_str(&handmade::Sender::named(host.name()).enrolment()));
        let imported = self.app.import(Kind::Agents, "agents.csv", csv.as_bytes()).await;
        imported.map(drop).map_err(|error| error.to_string())
    }

    /// Ends without a word. Returns when nothing of it is left but its files.
    pub(crate) async fn crash(self) {
        let Self { app, server, .. } = self;
        server.abort();
        drop(server.await);
        let (mut durable, store) = (app.ledger.durable(), app.store.clone());
        drop(app);
        // Connections hold on to it until their tasks see that the other end is gone, and the writer announces
        // until it has closed its journal.
        while durable.changed().await.is_ok() {}
        store.close().await;
    }

    /// A copy of everything, as long as nobody writes.
    pub(crate) async fn keep_copy(&self) -> Result<(), String> {
        self.app.settled().await;
        let data = &self.config.data;
        let copy = data.with_extension("copy");
        drop(fs::remove_dir_all(&copy));
        damage::copy(&data.join("ledger"), &copy).map_err(|error| error.to_string())
    }

    /// Milliseconds measured of each accelerator.
    pub(crate) async fn measured(&self) -> Result<BTreeMap<String, u64>, String> {
        self.app.settled().await;
        if let Some(fault) = self.app.fault() {
            return Err(fault);
        }
        let rows = self.app.store.coverage(&Filter::default()).await.map_err(|error| error.to_string())?;
        let rows = rows.into_iter().map(|row| (row.accelerator.to_string(), row.measured_ms));
        Ok(rows.filter(|row| row.1 > 0).collect())
    }

    /// The ledger is whole, and the sums follow from it.
    pub(crate) async fn verify(&self) -> Result<(), String> {
        let folder = self.config.data.join("ledger");
        let verified = verify::ledger(&folder);
        if !verified.faults.is_empty() {
            return Err(format!("verify: {:?}", verified.faults));
        }
        match verify::sums(&folder, &self.app.places.summaries, &self.app.store, Estimator::shipped()).await {
            Ok(None) => Ok(()),
            Ok(Some(tables)) => Err(format!("the sums do not follow from the ledger: {tables:?}")),
            Err(error) => Err(verify::chain_of(&error)),
        }
    }
}

/// Puts the copy of the ledger in its place, as another store; its sums are made anew.
pub(crate) fn restore(folder: &Path) -> Result<(), String> {
    let data = folder.join("collector/data");
    let copy = data.with_extension("copy");
    if !copy.exists() {
        return Ok(());
    }
    fs::remove_dir_all(&data).map_err(|error| error.to_string())?;
    damage::copy(&copy, &data.join("ledger")).map_err(|error| error.to_string())?;
    fs::remove_file(data.join("ledger/GENERATION")).map_err(|error| error.to_string())
}

/// Every batch of the ledger, by hash.
pub(crate) fn batches(folder: &Path) -> Result<BTreeMap<Hash, Batch>, String> {
    let mut found = BTreeMap::new();
    for payload in crate::entries(&folder.join("collector/data/ledger"))? {
        let entry = Entry::decode(&payload).map_err(|error| error.to_string())?;
        match entry.body {
            EntryBody::Batch(received) => {
                if found.insert(hash(&received.envelope), crate::opened(&received.envelope)?).is_some() {
                    return Err("a batch is in the ledger twice".into());
                }
            }
            // Every clock of this world is right: to correct one moves usage to where it was not.
            EntryBody::Fact(Fact::ClockOffset { agent, minutes, .. }) => {
                return Err(format!("the clock of {agent} was taken to be {minutes} min off"));
            }
            EntryBody::Fact(_) => {}
        }
    }
    Ok(found)
}
