//! A kubelet, as far as PodResources goes.

use std::{
    convert::Infallible,
    fs, io,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    thread,
};

use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming},
    header::{HeaderMap, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::{net::UnixListener, runtime, sync::oneshot};

/// What one pod was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Resource and ids, one pair for each container.
    #[serde(default)]
    pub devices: Vec<(String, Vec<String>)>,
    /// Driver, pool and device of claims.
    #[serde(default)]
    pub claims: Vec<(String, String, String)>,
}

impl Given {
    /// A pod with GPUs.
    pub fn gpus(namespace: &str, name: &str, ids: &[&str]) -> Self {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let devices = vec![("nvidia.com/gpu".to_owned(), ids)];
        Self { namespace: namespace.into(), name: name.into(), devices, claims: Vec::new() }
    }
}

/// How a kubelet answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answering {
    /// With the list.
    #[default]
    Well,
    /// Not at all.
    Never,
    /// With a status of gRPC.
    Status(u32),
    /// With these bytes as its message.
    With(Vec<u8>),
    /// With the list, and without a status at its end.
    CutOff,
}

#[derive(Debug, Default)]
struct State {
    pods: Vec<Given>,
    answering: Answering,
    asked: u64,
}

/// A kubelet that listens until it is dropped; its socket stays, as that of one that was killed.
#[derive(Debug)]
pub struct Kubelet {
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Kubelet {
    /// Listens at `socket`; what is in its place goes, as a kubelet that starts again does.
    pub fn start(socket: &Path) -> io::Result<Self> {
        drop(fs::remove_file(socket));
        let state = Arc::new(Mutex::new(State::default()));
        let (stop, stopped) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(socket)?
        };
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(listener, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { state, stop: Some(stop), thread: Some(thread) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What pods have from now on.
    pub fn give(&self, pods: &[Given]) {
        self.state().pods = pods.to_vec();
    }

    /// How it answers from now on.
    pub fn answer(&self, how: Answering) {
        self.state().answering = how;
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.state().asked
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // Whoever listens no longer has gone already.
        let _ = self.stop.take().map(|stop| stop.send(()));
        drop(self.thread.take().map(thread::JoinHandle::join));
    }
}

async fn serve(listener: UnixListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| answer(request, Arc::clone(&state)));
        let connection =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
        // Whoever breaks it off gets no answer.
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Message>, Infallible> {
    let is = |name: &str, value: &str| request.headers().get(name).is_some_and(|found| found == value);
    let (pods, answering) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked += 1;
        (state.pods.clone(), state.answering.clone())
    };
    let asked = is("content-type", "application/grpc") && is("te", "trailers") && request.method() == "POST";
    let (message, status) = match (answering, request.uri().path()) {
        _ if !asked => (None, Some(3)),
        (Answering::Never, _) => std::future::pending().await,
        (Answering::Status(status), _) => (None, Some(status)),
        (Answering::With(bytes), _) => (Some(bytes), Some(0)),
        (how, "/v1.PodResourcesLister/List") => {
            (Some(framed(&list(&pods))), Some(0).filter(|_| how != Answering::CutOff))
        }
        (_, "/v1.PodResourcesLister/GetAllocatableResources") => {
            let all = pods.iter().flat_map(|pod| &pod.devices).map(|pair| field(1, &devices(pair)));
            (Some(framed(&all.collect::<Vec<_>>().concat())), Some(0))
        }
        _ => (None, Some(12)),
    };
    let mut response = Response::new(Message { message: message.map(Bytes::from), status });
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// A message and the status after it.
struct Message {
    message: Option<Bytes>,
    status: Option<u32>,
}

impl Body for Message {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        let Some(status) = self.status.take() else { return Poll::Ready(None) };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(status));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

/// A message of gRPC: not compressed, and how long.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a list fits into four bytes");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// `ListPodResourcesResponse`.
fn list(pods: &[Given]) -> Vec<u8> {
    pods.iter().flat_map(|given| field(1, &pod(given))).collect()
}

/// `PodResources`: name 1, namespace 2, containers 3.
fn pod(given: &Given) -> Vec<u8> {
    let mut bytes = [field(1, given.name.as_bytes()), field(2, given.namespace.as_bytes())].concat();
    for pair in &given.devices {
        // A container: its name 1, devices 2, processors 3.
        let container = [field(1, b"main"), field(2, &devices(pair)), field(3, &[1, 2, 3])].concat();
        bytes.extend(field(3, &container));
    }
    for (driver, pool, device) in &given.claims {
        // A claim's device: CDI devices 1, driver 2, pool 3, device 4, share 5.
        let of_claim = [
            field(1, &field(1, b"vendor.example/class=name")),
            field(2, driver.as_bytes()),
            field(3, pool.as_bytes()),
            field(4, device.as_bytes()),
        ]
        .concat();
        // A claim: its name 2, namespace 3, devices 4.
        let claim = [field(2, b"claim"), field(3, given.namespace.as_bytes()), field(4, &of_claim)].concat();
        bytes.extend(field(3, &[field(1, b"main"), field(5, &claim)].concat()));
    }
    bytes
}

/// `ContainerDevices`: resource 1, ids 2, NUMA nodes 3.
fn devices((resource, ids): &(String, Vec<String>)) -> Vec<u8> {
    let mut bytes = field(1, resource.as_bytes());
    ids.iter().for_each(|id| bytes.extend(field(2, id.as_bytes())));
    bytes.extend(field(3, &field(1, &[8, 1])));
    bytes
}

/// A field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 127 {
        field.push(u8::try_from(length & 127).expect("seven bits") | 128);
        length >>= 7;
    }
    field.push(u8::try_from(length).expect("seven bits"));
    field.extend_from_slice(bytes);
    field
}
