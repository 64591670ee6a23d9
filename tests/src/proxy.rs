//! A bad network in front of a collector: requests and answers are lost, doubled, late, slow, cut or false.
//!
//! One request after the other on each connection, as agents send them. What it does to each follows from a seed.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{ports, random::Random, wait};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It never arrives, and the connection ends.
    LoseRequest,
    /// It arrives, and the answer does not.
    LoseAnswer,
    /// It arrives twice; the second answer counts.
    Double,
    /// It arrives now, and again after later ones.
    Ghost,
    /// Half of it arrives.
    CutRequest,
    /// Half of the answer comes back.
    CutAnswer,
    /// It goes out byte by byte at first.
    Drip,
    /// The answer takes its time.
    Late,
    /// The connection is reset while it is being sent.
    Reset,
    /// Nothing happens until the sender gives up.
    Blackhole,
    /// Something else answers in the collector's place.
    Answer(&'static str),
}

/// Everything that may happen by chance and passes.
pub const TROUBLES: [Trouble; 15] = [
    Trouble::LoseRequest,
    Trouble::LoseAnswer,
    Trouble::Double,
    Trouble::Ghost,
    Trouble::CutRequest,
    Trouble::CutAnswer,
    Trouble::Drip,
    Trouble::Late,
    Trouble::Reset,
    Trouble::Answer(CAPTIVE_PORTAL),
    Trouble::Answer(REDIRECT),
    Trouble::Answer(NOT_FOUND),
    Trouble::Answer(TOO_MANY),
    Trouble::Answer(UNAVAILABLE),
    Trouble::Answer(BAD_GATEWAY),
];

/// A friendly page instead of an acknowledgement.
pub const CAPTIVE_PORTAL: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 31\r\n\r\n<html>Welcome to the hotel</html";
/// To somewhere else.
pub const REDIRECT: &str =
    "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/login\r\ncontent-length: 0\r\n\r\n";
/// Of another program.
pub const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
/// Of something that limits.
pub const TOO_MANY: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
/// Of something that starts.
pub const UNAVAILABLE: &str =
    "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n";
/// Of something between.
pub const BAD_GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 9\r\n\r\nupstream?";
/// Final, as far as an agent can tell.
pub const BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\n\r\nwhat";
/// Final, too.
pub const TOO_LARGE: &str = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";

/// What the network is like.
#[derive(Clone, Debug)]
pub enum Weather {
    /// Everything passes.
    Fair,
    /// So many requests in a thousand meet one of these.
    Rough(u64, Vec<Trouble>),
    /// Every request meets this.
    Only(Trouble),
}

/// A running proxy. Dropping it ends it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    collector: SocketAddr,
    weather: Mutex<Weather>,
    random: Mutex<Random>,
    ghosts: Mutex<Vec<Vec<u8>>>,
    requests: AtomicU64,
    troubles: AtomicU64,
    stop: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// In front of a collector.
    ///
    /// # Panics
    /// If there is no port.
    pub fn start(collector: SocketAddr, random: Random) -> Self {
        let address = ports::free();
        let listener = TcpListener::bind(address).expect("the port is free");
        let shared = Arc::new(Shared {
            collector,
            weather: Mutex::new(Weather::Fair),
            random: Mutex::new(random),
            ghosts: Mutex::default(),
            requests: AtomicU64::new(0),
            troubles: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if of_thread.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&of_thread);
                thread::spawn(move || {
                    // Whatever went wrong is what a bad network does.
                    drop(serve(&shared, &stream));
                });
            }
        });
        Self { address, shared }
    }

    /// Where agents send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn weather(&self, weather: Weather) {
        *locked(&self.shared.weather) = weather;
    }

    /// Requests that came, and to how many of them something was done.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.requests.load(Ordering::Relaxed), self.shared.troubles.load(Ordering::Relaxed))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

/// One request or answer, as it came.
fn message(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let (mut length, mut chunked) = (0, false);
    loop {
        let start = bytes.len();
        if reader.read_until(b'\n', &mut bytes)? == 0 {
            return if bytes.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let line = String::from_utf8_lossy(&bytes[start..]).trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
    }
    if chunked {
        loop {
            let start = bytes.len();
            reader.read_until(b'\n', &mut bytes)?;
            let size = String::from_utf8_lossy(&bytes[start..]).trim().to_owned();
            let size = u64::from_str_radix(&size, 16).map_err(io::Error::other)?;
            reader.by_ref().take(size).read_to_end(&mut bytes)?;
            reader.read_until(b'\n', &mut bytes)?;
            if size == 0 {
                return Ok(Some(bytes));
            }
        }
    }
    reader.by_ref().take(length).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Sends a request on a connection of its own and gives back the answer.
fn forward(shared: &Shared, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect_timeout(&shared.collector, Duration::from_secs(2))?;
    upstream.set_read_timeout(Some(Duration::from_secs(20)))?;
    upstream.write_all(request)?;
    message(&mut BufReader::new(upstream))?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn pause(milliseconds: u64) {
    wait::until_moment(wait::instant() + Duration::from_millis(milliseconds));
}

fn serve(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_nodelay(true)?;
    let mut client = stream;
    let mut reader = BufReader::new(stream);
    loop {
        let trouble = {
            let weather = locked(&shared.weather).clone();
            let mut random = locked(&shared.random);
            match weather {
                Weather::Fair => None,
                Weather::Only(trouble) => Some(trouble),
                Weather::Rough(often, troubles) => (random.within(0..1_000) < often)
                    .then(|| troubles[usize::try_from(random.within(0..troubles.len() as u64)).unwrap_or(0)]),
            }
        };
        if trouble == Some(Trouble::Reset) {
            // Bytes that nobody read make the kernel reset the connection.
            if reader.fill_buf()?.is_empty() {
                return Ok(());
            }
            shared.requests.fetch_add(1, Ordering::Relaxed);
            shared.troubles.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let Some(request) = message(&mut reader)? else { return Ok(()) };
        shared.requests.fetch_add(1, Ordering::Relaxed);
        // What was delayed arrives before or after what comes now, and nobody waits for its answer.
        let ghosts: Vec<Vec<u8>> = {
            let mut ghosts = locked(&shared.ghosts);
            let mut random = locked(&shared.random);
            let due = (0..ghosts.len()).filter(|_| random.within(0..3) == 0).count();
            ghosts.drain(..due).collect()
        };
        for ghost in ghosts {
            drop(forward(shared, &ghost));
        }
        let Some(trouble) = trouble else {
            client.write_all(&forward(shared, &request)?)?;
            continue;
        };
        shared.troubles.fetch_add(1, Ordering::Relaxed);
        match trouble {
            Trouble::LoseRequest | Trouble::Reset => return Ok(()),
            Trouble::LoseAnswer => {
                forward(shared, &request)?;
                return Ok(());
            }
            Trouble::Double => {
                forward(shared, &request)?;
                client.write_all(&forward(shared, &request)?)?;
            }
            Trouble::Ghost => {
                client.write_all(&forward(shared, &request)?)?;
                locked(&shared.ghosts).push(request);
            }
            Trouble::CutRequest => {
                let mut upstream = TcpStream::connect_timeout(&shared.collector, Duration::from_secs(2))?;
                upstream.write_all(&request[..request.len() / 2])?;
                return Ok(());
            }
            Trouble::CutAnswer => {
                let answer = forward(shared, &request)?;
                client.write_all(&answer[..answer.len() / 2])?;
                return Ok(());
            }
            Trouble::Drip => {
                let mut upstream = TcpStream::connect_timeout(&shared.collector, Duration::from_secs(2))?;
                upstream.set_nodelay(true)?;
                let slow = request.len().min(60);
                for byte in &request[..slow] {
                    upstream.write_all(&[*byte])?;
                    pause(5);
                }
                upstream.write_all(&request[slow..])?;
                let answer = message(&mut BufReader::new(upstream))?.unwrap_or_default();
                let slow = answer.len().min(60);
                for byte in &answer[..slow] {
                    client.write_all(&[*byte])?;
                    pause(5);
                }
                client.write_all(&answer[slow..])?;
            }
            Trouble::Late => {
                let answer = forward(shared, &request)?;
                pause(locked(&shared.random).within(100..1_500));
                client.write_all(&answer)?;
            }
            Trouble::Blackhole => {
                while matches!(*locked(&shared.weather), Weather::Only(Trouble::Blackhole))
                    && !shared.stop.load(Ordering::Relaxed)
                {
                    pause(50);
                }
                return Ok(());
            }
            Trouble::Answer(answer) => client.write_all(answer.as_bytes())?,
        }
    }
}
