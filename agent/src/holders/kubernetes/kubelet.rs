//! What the kubelet gave to pods: `List` of its PodResources API, version 1, over its socket.
//!
//! One call is one gRPC exchange over HTTP/2, on a connection that is made for it: a kubelet that started again has
//! another socket in the same place. On hyper and prost rather than on a framework for gRPC: there is one method
//! without arguments, and its answer has to be limited. Deliberately absent: `Get` and `Watch` of newer kubelets,
//! which say no more, and processors and memory.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode, Version,
    body::{Bytes, Incoming},
    client::conn::http2,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{net::UnixStream, time::timeout};

use super::devices::ClaimDevice;

/// What the generated messages are.
#[expect(unreachable_pub, reason = "generated")]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/v1.rs"));
}

/// Where the kubelet listens, where nothing else is configured.
pub const SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";

/// The longest answer that is taken: what the kubelet itself sends to nobody who does not ask for more.
const LONGEST_ANSWER: usize = 16 << 20;

/// Pods and devices that are looked at; no node has as many.
const MOST: usize = 8_192;

/// How a kubelet is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    List,
    Allocatable,
}

impl Method {
    fn path(self) -> &'static str {
        match self {
            Self::List => "/v1.PodResourcesLister/List",
            Self::Allocatable => "/v1.PodResourcesLister/GetAllocatableResources",
        }
    }
}

/// What one pod was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Its namespace.
    pub namespace: String,
    /// Its name, which goes nowhere.
    pub name: String,
    /// Devices of device plugins: resource and id.
    pub devices: Vec<(String, String)>,
    /// Devices of claims.
    pub claims: Vec<ClaimDevice>,
}

/// Why a kubelet told nothing.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// There is no socket, or nobody listens at it.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// Where.
        socket: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The exchange broke.
    #[error("the kubelet broke off")]
    Http(#[from] hyper::Error),
    /// It refused, by its own number for that.
    #[error("the kubelet answered with gRPC status {0}")]
    Status(u32),
    /// What it answered is none.
    #[error("the kubelet's answer is not {0}")]
    Answer(&'static str),
    /// It took too long.
    #[error("no answer of the kubelet within {} ms", .0.as_millis())]
    Late(Duration),
}

impl KubeletError {
    /// Whether there is no kubelet that could be asked.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether there is one that this user may not ask.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Connect { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            // PERMISSION_DENIED and UNAUTHENTICATED.
            Self::Status(code) => matches!(code, 7 | 16),
            _ => false,
        }
    }
}

/// Asks what every pod was given.
pub async fn list(socket: &Path, deadline: Duration) -> Result<Vec<Given>, KubeletError> {
    given(&asked(socket, Method::List, deadline).await?)
}

/// Asks which devices the kubelet could give away: resource and id.
pub async fn allocatable(socket: &Path, deadline: Duration) -> Result<Vec<(String, String)>, KubeletError> {
    let answer = asked(socket, Method::Allocatable, deadline).await?;
    let answer = proto::AllocatableResourcesResponse::decode(answer.as_slice());
    let answer = answer.map_err(|_| KubeletError::Answer("a list of devices"))?;
    Ok(pairs(answer.devices).take(MOST).collect())
}

fn pairs(devices: Vec<proto::ContainerDevices>) -> impl Iterator<Item = (String, String)> {
    devices.into_iter().flat_map(|devices| {
        let resource = devices.resource_name;
        devices.device_ids.into_iter().map(move |id| (resource.clone(), id))
    })
}

/// Reads the answer to `List`; what a pod was given several times counts once.
pub fn given(answer: &[u8]) -> Result<Vec<Given>, KubeletError> {
    let answer = proto::ListPodResourcesResponse::decode(answer);
    let answer = answer.map_err(|_| KubeletError::Answer("a list of pods"))?;
    let mut left = MOST;
    let pods = answer.pod_resources.into_iter().take(MOST).map(|pod| {
        let mut given = Given { namespace: pod.namespace, name: pod.name, ..Given::default() };
        for container in pod.containers {
            given.devices.extend(pairs(container.devices).take(left));
            let claims = container.dynamic_resources.into_iter().flat_map(|claim| claim.claim_resources);
            let claims = claims.map(|one| ClaimDevice {
                driver: one.driver_name,
                pool: one.pool_name,
                device: one.device_name,
            });
            given.claims.extend(claims.take(left));
            left = MOST.saturating_sub(given.devices.len() + given.claims.len());
        }
        given.devices.sort_unstable();
        given.devices.dedup();
        given.claims.sort_unstable();
        given.claims.dedup();
        given
    });
    Ok(pods.collect())
}

async fn asked(socket: &Path, method: Method, deadline: Duration) -> Result<Vec<u8>, KubeletError> {
    timeout(deadline, exchange(socket, method)).await.map_err(|_| KubeletError::Late(deadline))?
}

async fn exchange(socket: &Path, method: Method) -> Result<Vec<u8>, KubeletError> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|source| KubeletError::Connect { socket: socket.to_owned(), source })?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // It ends with the sender; what breaks it is said to whoever waits for the answer.
    let connection = tokio::spawn(connection);
    let ended = AbortOnDrop(connection);
    // One message, of no bytes: neither method has arguments.
    let request = Request::post(format!("http://localhost{}", method.path()))
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(header::TE, HeaderValue::from_static("trailers"))
        .header(header::USER_AGENT, concat!("weighbridge-agent/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from_static(&[0; 5])));
    let request = request.map_err(|_| KubeletError::Answer("one to a request that can be made"))?;
    let response = sender.send_request(request).await?;
    let message = message(response).await;
    drop(ended);
    message
}

/// Ends a task with whoever waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The one message of an answer.
async fn message(response: hyper::Response<Incoming>) -> Result<Vec<u8>, KubeletError> {
    let (head, mut body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(KubeletError::Answer("one of gRPC"));
    }
    // An answer without a body says its status at once.
    status(&head.headers)?;
    let (mut bytes, mut ended) = (Vec::new(), head.headers.contains_key(GRPC_STATUS));
    while let Some(frame) = body.frame().await {
        let frame = match frame?.into_data() {
            Ok(data) => {
                if bytes.len() + data.len() > LONGEST_ANSWER {
                    return Err(KubeletError::Answer("as short as it may be"));
                }
                bytes.extend_from_slice(&data);
                continue;
            }
            Err(frame) => frame,
        };
        if let Ok(trailers) = frame.into_trailers() {
            status(&trailers)?;
            ended = trailers.contains_key(GRPC_STATUS);
        }
    }
    // Half of a list says that the other half holds nothing.
    if !ended {
        return Err(KubeletError::Answer("complete"));
    }
    unframed(bytes)
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

fn status(headers: &HeaderMap) -> Result<(), KubeletError> {
    let Some(value) = headers.get(GRPC_STATUS) else { return Ok(()) };
    match value.to_str().ok().and_then(|text| text.parse().ok()) {
        Some(0) => Ok(()),
        Some(code) => Err(KubeletError::Status(code)),
        None => Err(KubeletError::Answer("one of gRPC")),
    }
}

/// Whether it is compressed, how long it is in four bytes, and the message.
fn unframed(mut bytes: Vec<u8>) -> Result<Vec<u8>, KubeletError> {
    let Some((&[packed, a, b, c, d], rest)) = bytes.split_first_chunk() else {
        return Err(KubeletError::Answer("a message"));
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    if packed != 0 || usize::try_from(length) != Ok(rest.len()) {
        return Err(KubeletError::Answer("one whole message"));
    }
    bytes.drain(..5);
    Ok(bytes)
}
