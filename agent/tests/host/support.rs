//! What several tests need: a host on a simulated accelerator, and a server that answers as it is told.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use weighbridge_agent::{
    engine::EngineOptions,
    holders::Holders,
    host::{Host, HostOptions},
    source::{Device, DeviceLook, Look, SourceState},
    spool::SpoolOptions,
    uplink::{Sender, SenderOptions},
};
use weighbridge_meter::{
    BootId, DeviceState, Reading, Source, Tier, Trust,
    meter::Pace,
    reading::{Activity, Ratio},
};
use weighbridge_wire::SigningKey;

/// 2026-01-31T08:00:00Z.
pub(crate) const START: i64 = 1_769_846_400_000;

pub(crate) fn host(dir: &Path, max_bytes: u64, held_records: usize) -> Host {
    let options = HostOptions {
        agent: "node1".parse().expect("a name"),
        boot: BootId([3; 16]),
        key: SigningKey::from_bytes(&[9; 32]),
        engine: EngineOptions {
            host: "node1".into(),
            trust: Trust::Host,
            pace: Pace { window_ms: 60_000, longest_tick_ms: 90_000 },
            held_records,
        },
        spool: SpoolOptions { max_bytes, segment_bytes: 400, ..SpoolOptions::in_dir(dir) },
        holders: Holders::none(),
        metrics: None,
    };
    Host::open(options, &mut |bytes| bytes.fill(7)).expect("opens")
}

/// One accelerator, so busy.
pub(crate) fn look(percent: u32) -> Look {
    let id = "GPU-1".parse::<weighbridge_meter::AcceleratorId>().expect("a name");
    let device = Device {
        id: id.clone(),
        pci_address: None,
        pci_device: None,
        name: "NVIDIA H100 80GB HBM3".into(),
        max_sm_clock_mhz: None,
        power_limit_mw: None,
        memory_bytes: None,
        tier: Tier::B,
        source: Source::Simulated,
        driver: None,
        host: None,
        trust: None,
        parent: None,
        units: None,
        instance: None,
        sample_ms: 0,
        conditions: Vec::new(),
        present: true,
    };
    let tensor = Ratio::from_percent(f64::from(percent));
    let reading = Reading {
        sm_clock_mhz: Some(1000),
        activity: Activity { tensor, ..Activity::default() },
        ..Reading::default()
    };
    Look {
        devices: vec![DeviceLook {
            id,
            state: DeviceState::Read(reading),
            pids: None,
            used: Vec::new(),
            machines: None,
        }],
        source_state: SourceState::Ok,
        inventory_changed: Some(vec![device]),
        unidentified: 0,
    }
}

pub(crate) fn sender(urls: &[String]) -> Sender {
    Sender::new(SenderOptions {
        collectors: urls.iter().map(|url| url.parse().expect("an address")).collect(),
        connect_timeout: Duration::from_secs(5),
        timeout: Duration::from_secs(30),
    })
    .expect("a client")
}

/// What the server says.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: BTreeMap<&'static str, String>,
    body: Vec<u8>,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::body(status, b"as told".to_vec())
    }

    pub(crate) fn body(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: BTreeMap::new(), body }
    }

    pub(crate) fn accepted(hash: &str) -> Self {
        Self::json(hash, "accepted", "g1")
    }

    pub(crate) fn json(hash: &str, outcome: &str, generation: &str) -> Self {
        let body = format!(
            r#"{{"outcome":"{outcome}","batch_hash":"{hash}","promise":{{}},"store_generation":"{generation}"}}"#
        );
        Self::body(200, body.into_bytes())
    }

    /// With more in the acknowledgement, as `"missing":[]`.
    pub(crate) fn with_json(mut self, more: &str) -> Self {
        self.body.pop();
        self.body.extend_from_slice(format!(",{more}}}").as_bytes());
        self
    }

    pub(crate) fn with(mut self, header: &'static str, value: &str) -> Self {
        self.headers.insert(header, value.into());
        self
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// A status, with the number of batches that had come before it.
type Said = (usize, Vec<u8>);

/// A server that keeps what it got.
pub(crate) struct Server {
    address: std::net::SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    statuses: Arc<Mutex<Vec<Said>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// `reply` gets the number of the request, from 0, and the hash of its body in hexadecimal.
    pub(crate) async fn start(reply: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
        Self::answering_statuses(204, reply).await
    }

    /// The same with a status code for statuses, which are not counted as requests.
    pub(crate) async fn answering_statuses(
        status: u16,
        reply: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let (kept, reply) = (Arc::clone(&received), Arc::new(reply));
        let statuses = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&statuses);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, reply, told) = (Arc::clone(&kept), Arc::clone(&reply), Arc::clone(&told));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (kept, reply, told) = (Arc::clone(&kept), Arc::clone(&reply), Arc::clone(&told));
                    async move {
                        if request.uri().path() != "/api/v1/status" {
                            return answer(request, kept, reply).await;
                        }
                        let body = request.into_body().collect().await.expect("a whole body").to_bytes();
                        let before = kept.lock().expect("not poisoned").len();
                        told.lock().expect("not poisoned").push((before, body.to_vec()));
                        let response = Response::builder().status(status).body(Full::default());
                        Ok(response.expect("a response"))
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, received, statuses, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn statuses(&self) -> Vec<Said> {
        self.statuses.lock().expect("not poisoned").clone()
    }

    pub(crate) fn requests(&self) -> Vec<Received> {
        self.received.lock().expect("not poisoned").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    kept: Arc<Mutex<Vec<Received>>>,
    reply: Arc<impl Fn(usize, &str) -> Reply>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes().to_vec();
    let hash: String = weighbridge_wire::hash(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let number = {
        let mut kept = kept.lock().expect("not poisoned");
        kept.push(Received { path: parts.uri.path().to_owned(), headers: parts.headers, body });
        kept.len() - 1
    };
    let reply = reply(number, &hash);
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(reply.body.into())).expect("a response"))
}
