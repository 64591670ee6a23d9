//! Serves a port so that no client can take it from the others: so many connections, so many from one address, and
//! so long for the head of a request, for the next bytes of its body, and for the client to take some of the answer.
//!
//! A client that drips its bytes, opens connections and says nothing, or asks and does not read, is cut off; what
//! waits beyond the limits waits in the kernel, and one address alone never fills them.
//!
//! Deliberately absent: a limit on how long the socket is silent. It is silent while a request is worked on, and
//! between two of them, for which there is the limit of heads.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, Router, body::Body};
use hyper::{
    Request,
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

/// How much a port takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Connections from one address at a time, of IPv6 from one network of 64 bits; further ones are closed at once.
    pub per_address: usize,
    /// For the head of a request, from when the connection is ready for it: an idle connection is closed after it.
    pub head: Duration,
}

impl Limits {
    /// For the head of a request, as a rule.
    pub const HEAD: Duration = Duration::from_secs(30);
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 8192, per_address: 2048, head: Self::HEAD }
    }
}

/// Open files that are for other things than connections: ledger, sums, tree, answers from files, tools.
const OTHER_FILES: usize = 256;

/// A usual limit on open files, where the system does not say one.
const USUAL_FILES: u64 = 1024;

/// Has this process open as many files as the system lets it; how many that is.
pub(crate) fn allow_many_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused the limit is what it was, and is read again.
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(error = &error as &dyn std::error::Error, "the limit on open files stays as it is");
    }
    getrlimit(Resource::Nofile).current.or(limit.maximum).unwrap_or(USUAL_FILES)
}

impl Limits {
    /// As much of it as fits beside `others` connections into so many open files. One address keeps its share.
    pub(crate) fn within(self, files: u64, others: usize) -> Self {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let room = files.saturating_sub(OTHER_FILES).saturating_sub(others).max(1);
        if self.connections <= room {
            return self;
        }
        let share = self.per_address.saturating_mul(room) / self.connections;
        Self { connections: room, per_address: share.clamp(1, room), ..self }
    }
}

/// After the port could not be asked for the next connection, as when no file can be opened: until it is again.
pub(crate) const BREATH: Duration = Duration::from_millis(50);

/// For what was taken, once told to stop.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// A buffer of a connection at most: heads that are longer are refused. Bodies pass through it.
pub(crate) const BUFFER: usize = 64 << 10;

/// No byte of a body for so long ends its connection. Where all of it has a limit too, that is the shorter one.
const NEXT_BYTES: Duration = Duration::from_secs(120);

/// A client that takes nothing of what is written to it for so long has gone.
const TAKEN: Duration = Duration::from_secs(60);

/// Who is connected.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection of an address, until it is dropped.
pub(crate) struct Counted(Addresses, IpAddr);

impl Addresses {
    /// `None` if the address has as many as it may.
    pub(crate) fn enter(&self, address: IpAddr, most: usize) -> Option<Counted> {
        let address = counted_as(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted(self.clone(), address))
    }
}

/// Whoever has one address of IPv6 has all of its network, as a rule: only the network counts. An address of IPv4
/// is the same on a socket of either kind.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

/// Serves until told to stop; then what was taken is finished, within a grace period.
pub async fn serve(listener: TcpListener, routes: Router, limits: Limits, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let addresses = Addresses::default();
    let open = GracefulShutdown::new();
    loop {
        let taken = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            taken = next(&listener, &permits) => taken,
        };
        let (stream, address, permit) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no connection could be taken");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Some(counted) = addresses.enter(address, limits.per_address) else {
            tracing::debug!(%address, "an address has too many connections");
            continue;
        };
        // Answers are one write; waiting for more of them helps nobody.
        drop(stream.set_nodelay(true));
        let routes = TowerToHyperService::new(routes.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            hyper::service::Service::call(&routes, request.map(impatient))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(Taken::by(stream)), service);
        let connection = open.watch(connection);
        tokio::spawn(async move {
            let _held = (permit, counted);
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, open.shutdown()).await.is_err() {
        tracing::warn!("requests that were taken are given up: the grace period is over");
    }
}

pub(crate) async fn next(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address.ip(), permit))
}

/// A body that ends in an error where its next bytes are too long in coming.
pub(crate) fn impatient(body: Incoming) -> Body {
    Body::new(Impatient { body, waits: None })
}

struct Impatient<B> {
    body: B,
    waits: Option<Pin<Box<Sleep>>>,
}

impl<B: hyper::body::Body<Error: Into<BoxError>> + Unpin> hyper::body::Body for Impatient<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let frame = ready!(in_time(frame, &mut self.waits, NEXT_BYTES, context)?);
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that ends in an error where nobody takes what is written to it.
pub(crate) struct Taken<S> {
    stream: S,
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Taken<S> {
    pub(crate) fn by(stream: S) -> Self {
        Self { stream, waits: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        in_time(written, &mut self.waits, TAKEN, context)?
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        in_time(written, &mut self.waits, TAKEN, context)?
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What was polled, or an error once it has been pending for longer than `patience`.
fn in_time<T>(
    polled: Poll<T>,
    waits: &mut Option<Pin<Box<Sleep>>>,
    patience: Duration,
    context: &mut Context<'_>,
) -> io::Result<Poll<T>> {
    if polled.is_ready() {
        *waits = None;
        return Ok(polled);
    }
    let waits = waits.get_or_insert_with(|| Box::pin(sleep(patience)));
    match waits.as_mut().poll(context) {
        Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
        Poll::Pending => Ok(Poll::Pending),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn served(
        limits: Limits,
    ) -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let routes = Router::new().route("/", get(|| async { "hello" }));
        let running = tokio::spawn(serve(listener, routes, limits, stop.clone()));
        (at, stop, running)
    }

    async fn asked(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("open");
        let mut answer = vec![0; 1024];
        let bytes = stream.read(&mut answer).await.expect("open");
        String::from_utf8_lossy(&answer[..bytes]).into_owned()
    }

    #[tokio::test]
    async fn a_client_that_drips_its_head_is_cut_off_and_others_are_served() {
        let limits = Limits { head: Duration::from_millis(100), ..Limits::default() };
        let (at, _stop, _running) = served(limits).await;
        let mut slow = TcpStream::connect(at).await.expect("listens");
        slow.write_all(b"GET / HTTP/1.1\r\nx-never").await.expect("open");
        let mut other = TcpStream::connect(at).await.expect("listens");
        assert!(asked(&mut other).await.ends_with("hello"));
        let mut rest = Vec::new();
        // Ends, with an answer or without.
        drop(slow.read_to_end(&mut rest).await);
    }

    #[tokio::test]
    async fn an_address_with_too_many_connections_gets_no_further_one_until_it_closes_one() {
        let (at, _stop, _running) = served(Limits { per_address: 2, ..Limits::default() }).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut one = TcpStream::connect(at).await.expect("listens");
            assert!(asked(&mut one).await.ends_with("hello"));
            held.push(one);
        }
        let mut third = TcpStream::connect(at).await.expect("the kernel takes it");
        let mut rest = Vec::new();
        assert!(matches!(third.read_to_end(&mut rest).await, Ok(0) | Err(_)));
        drop(held.pop());
        loop {
            let mut again = TcpStream::connect(at).await.expect("the kernel takes it");
            if again.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.is_err() {
                continue;
            }
            let mut answer = String::new();
            if again.read_to_string(&mut answer).await.is_ok() && answer.ends_with("hello") {
                break;
            }
        }
    }

    #[tokio::test]
    async fn stopping_finishes_and_closes_idle_connections() {
        let (at, stop, running) = served(Limits::default()).await;
        let mut idle = TcpStream::connect(at).await.expect("listens");
        assert!(asked(&mut idle).await.ends_with("hello"));
        stop.cancel();
        running.await.expect("does not panic");
        let mut rest = Vec::new();
        assert!(matches!(idle.read_to_end(&mut rest).await, Ok(0) | Err(_)));
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address_and_ipv4_is_the_same_on_either_socket() {
        let addresses = Addresses::default();
        let enter = |address: &str| addresses.enter(address.parse().expect("an address"), 2);
        let held = [enter("2001:db8:0:1::1"), enter("2001:db8:0:1:ffff::2")];
        assert!(held.iter().all(Option::is_some));
        assert!(enter("2001:db8:0:1:8000::3").is_none(), "of the same network");
        assert!(enter("2001:db8:0:2::1").is_some(), "of another one");
        let mapped = [enter("192.0.2.1"), enter("::ffff:192.0.2.1")];
        assert!(mapped.iter().all(Option::is_some));
        assert!(enter("::ffff:192.0.2.1").is_none() && enter("192.0.2.1").is_none());
        assert!(enter("::ffff:192.0.2.2").is_some(), "addresses of IPv4 are no one network");
        drop(held);
        assert!(enter("2001:db8:0:1::4").is_some());
    }

    /// A body whose pieces come this long after each other.
    struct Drips(Vec<Duration>, Option<Pin<Box<Sleep>>>);

    impl hyper::body::Body for Drips {
        type Data = hyper::body::Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Self::Data>, io::Error>>> {
            let Some(wait) = self.0.last().copied() else { return Poll::Ready(None) };
            ready!(self.1.get_or_insert_with(|| Box::pin(sleep(wait))).as_mut().poll(context));
            self.0.pop();
            self.1 = None;
            Poll::Ready(Some(Ok(Frame::data(hyper::body::Bytes::from_static(b"a")))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_be_slow_and_may_not_stand_still() {
        use http_body_util::BodyExt;
        let second = Duration::from_secs(1);
        let all = |waits: Vec<Duration>| Impatient { body: Drips(waits, None), waits: None }.collect();
        let slow = all(vec![NEXT_BYTES - second; 3]).await.expect("comes bit by bit");
        assert_eq!(slow.to_bytes().len(), 3);
        let began = tokio::time::Instant::now();
        assert!(all(vec![NEXT_BYTES + second]).await.is_err());
        assert_eq!(began.elapsed().as_secs(), NEXT_BYTES.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_one_that_takes_a_little_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut ours = Taken::by(ours);
        let slow = tokio::spawn(async move {
            let mut taken = [0; 4];
            for _ in 0..4 {
                sleep(TAKEN / 2).await;
                theirs.read_exact(&mut taken).await.expect("open");
            }
            theirs
        });
        ours.write_all(&[7; 24]).await.expect("taken bit by bit");
        let _theirs = slow.await.expect("does not panic");
        let began = tokio::time::Instant::now();
        let error = ours.write_all(&[7; 24]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), TAKEN.as_secs());
    }

    #[test]
    fn connections_leave_files_for_the_rest_and_one_address_keeps_its_share() {
        let usual = Limits::default();
        assert_eq!(usual.within(1 << 20, 512), usual);
        let few = usual.within(1024, 256);
        assert_eq!((few.connections, few.per_address), (512, 128));
        let hardly = usual.within(64, 0);
        assert_eq!((hardly.connections, hardly.per_address), (1, 1));
    }
}
