//! A controller on loopback that says what it is told to, and remembers what it was asked.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming},
    header::AUTHORIZATION,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// Resources by path and query.
pub(crate) type Tree = BTreeMap<String, Value>;

/// What stands at a path instead of a resource.
#[derive(Clone, Debug)]
pub(crate) enum Odd {
    Status(u16),
    /// These bytes, as if they were JSON.
    Bytes(Vec<u8>),
    /// So many bytes without saying before how many.
    Endless(usize),
    /// Nothing until [`Bmc::release`].
    Hangs,
}

#[derive(Default)]
struct State {
    tree: Tree,
    odd: BTreeMap<String, Odd>,
    /// What every other path says.
    anywhere: Option<Value>,
    account: Option<String>,
    asked: Vec<String>,
}

/// A controller.
pub(crate) struct Bmc {
    state: Arc<Mutex<State>>,
    released: Arc<Notify>,
    port: u16,
    scheme: &'static str,
    task: Option<JoinHandle<()>>,
}

impl Bmc {
    pub(crate) async fn start(tree: Tree) -> Self {
        Self::listen(tree, None, 0).await
    }

    pub(crate) async fn start_with_tls(tree: Tree, tls: TlsAcceptor) -> Self {
        Self::listen(tree, Some(tls), 0).await
    }

    async fn listen(tree: Tree, tls: Option<TlsAcceptor>, port: u16) -> Self {
        let state = Arc::new(Mutex::new(State { tree, ..State::default() }));
        let released = Arc::new(Notify::new());
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let task = tokio::spawn(serve(listener, tls, Arc::clone(&state), Arc::clone(&released)));
        Self { state, released, port, scheme, task: Some(task) }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn put(&self, path: &str, value: Value) {
        self.state().tree.insert(path.to_owned(), value);
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.state().tree.contains_key(path)
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.state().tree.keys().cloned().collect()
    }

    /// Changes one resource.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        change(self.state().tree.get_mut(path).unwrap());
    }

    pub(crate) fn remove(&self, path: &str) {
        assert!(self.state().tree.remove(path).is_some(), "{path}");
    }

    pub(crate) fn odd(&self, path: &str, odd: Odd) {
        self.state().odd.insert(path.to_owned(), odd);
    }

    pub(crate) fn anywhere(&self, value: Value) {
        self.state().anywhere = Some(value);
    }

    /// From now on, only who knows this is told anything.
    pub(crate) fn require(&self, user: &str, password: &str) {
        let pair = BASE64_STANDARD.encode(format!("{user}:{password}"));
        self.state().account = Some(format!("Basic {pair}"));
    }

    /// What hung hangs no more.
    pub(crate) fn release(&self) {
        self.state().odd.retain(|_, odd| !matches!(odd, Odd::Hangs));
        self.released.notify_waiters();
    }

    /// Paths asked for since the last call.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }

    /// Ends it, connections too. It comes back at the same address with [`Bmc::come_back`].
    pub(crate) async fn go(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    pub(crate) async fn come_back(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let (state, released) = (Arc::clone(&self.state), Arc::clone(&self.released));
        self.task = Some(tokio::spawn(serve(listener, None, state, released)));
    }
}

impl Drop for Bmc {
    fn drop(&mut self) {
        self.task.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    state: Arc<Mutex<State>>,
    released: Arc<Notify>,
) {
    // They end with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (state, released, tls) = (Arc::clone(&state), Arc::clone(&released), tls.clone());
        connections.spawn(async move {
            match tls {
                None => talk(stream, state, released).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        talk(stream, state, released).await;
                    }
                }
            }
        });
    }
}

async fn talk<S>(stream: S, state: Arc<Mutex<State>>, released: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service =
        service_fn(|request: Request<Incoming>| answer(request, Arc::clone(&state), Arc::clone(&released)));
    // Whoever breaks it off has no interest in the rest.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
    released: Arc<Notify>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    let release = released.notified();
    let (refused, odd, value) = {
        let mut state = state.lock().unwrap();
        state.asked.push(path.clone());
        let refused = state.account.is_some() && state.account != authorization;
        let value = state.tree.get(&path).or(state.anywhere.as_ref()).cloned();
        (refused, state.odd.get(&path).cloned(), value)
    };
    let whole = |status: u16, bytes: Vec<u8>| {
        Ok(Response::builder().status(status).body(Full::new(Bytes::from(bytes)).boxed()).unwrap())
    };
    if refused {
        return whole(401, Vec::new());
    }
    match odd {
        Some(Odd::Status(status)) => return whole(status, b"{}".to_vec()),
        Some(Odd::Bytes(bytes)) => return whole(200, bytes),
        Some(Odd::Endless(bytes)) => {
            return Ok(Response::new(BodyExt::boxed(Blanks(bytes))));
        }
        Some(Odd::Hangs) => release.await,
        None => {}
    }
    match value {
        Some(value) => whole(200, serde_json::to_vec(&value).unwrap()),
        None => whole(404, b"{}".to_vec()),
    }
}

/// So many blanks, of which nobody was told how many.
struct Blanks(usize);

impl Body for Blanks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let now = self.0.min(1 << 16);
        self.0 -= now;
        Poll::Ready((now > 0).then(|| Ok(Frame::data(Bytes::from(vec![b' '; now])))))
    }
}
