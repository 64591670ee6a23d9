//! An API server, as far as pods of one node and a few other objects go.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// Pods on a page of a list, whatever is asked for: so that there are several.
const PAGE: usize = 2;

/// What goes wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// Every answer has this status.
    Status(u16),
    /// Connections are closed without an answer.
    Silent,
}

/// How it says that a version is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// By the status of the answer.
    Status,
    /// By an event.
    Event,
}

#[derive(Debug)]
struct State {
    pods: BTreeMap<String, Value>,
    /// Version, kind, object.
    events: Vec<(u64, &'static str, Value)>,
    version: u64,
    /// Versions before this one are too old.
    oldest: u64,
    expiry: Expiry,
    objects: BTreeMap<String, Value>,
    trouble: Trouble,
    token: Option<String>,
    requests: Vec<String>,
    /// A watch of an earlier one ends.
    generation: u64,
    /// Written into every watch as it is.
    raw: Vec<(u64, Vec<u8>)>,
    stopped: bool,
}

/// An API server that listens until it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ApiServer {
    /// Without pods.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = State {
            pods: BTreeMap::new(),
            events: Vec::new(),
            version: 100,
            oldest: 0,
            expiry: Expiry::Status,
            objects: BTreeMap::new(),
            trouble: Trouble::None,
            token: None,
            requests: Vec::new(),
            generation: 0,
            raw: Vec::new(),
            stopped: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.state().stopped {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // Whoever breaks it off gets no answer.
                thread::spawn(move || drop(answer(&shared, &stream)));
            }
        });
        Ok(Self { shared, address })
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.shared.state());
        self.shared.changed.notify_all();
        value
    }

    /// A pod is there, or is otherwise than before.
    ///
    /// # Panics
    /// If it has no `metadata.uid`.
    pub fn apply(&self, mut pod: Value) {
        let uid = pod["metadata"]["uid"].as_str().expect("a pod has an identifier").to_owned();
        self.change(|state| {
            state.version += 1;
            pod["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let before = state.pods.insert(uid, pod.clone());
            let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
            state.events.push((state.version, kind, pod));
        });
    }

    /// A pod is taken away.
    ///
    /// # Panics
    /// If there is none of this identifier.
    pub fn delete(&self, uid: &str) {
        self.change(|state| {
            let mut pod = state.pods.remove(uid).expect("there is such a pod");
            state.version += 1;
            pod["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.events.push((state.version, "DELETED", pod));
        });
    }

    /// The same, and no watch tells it.
    pub fn delete_untold(&self, uid: &str) {
        self.change(|state| drop(state.pods.remove(uid)));
    }

    /// Another object, at its path; with a query, only where that is asked for.
    pub fn put(&self, path: &str, object: Value) {
        self.change(|state| drop(state.objects.insert(path.to_owned(), object)));
    }

    /// What happened so far is forgotten: watches end, and one from an earlier version is told so.
    pub fn expire(&self, how: Expiry) {
        self.change(|state| {
            state.version += 1;
            (state.oldest, state.expiry) = (state.version, how);
            state.events.clear();
            state.generation += 1;
        });
    }

    /// All watches end.
    pub fn end_watches(&self) {
        self.change(|state| state.generation += 1);
    }

    /// Tells how far everything was told.
    pub fn bookmark(&self) {
        self.change(|state| {
            state.version += 1;
            let object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": state.version.to_string(),
                "creationTimestamp": null}, "spec": {"containers": null}, "status": {}});
            state.events.push((state.version, "BOOKMARK", object));
        });
    }

    /// Writes bytes into every watch that there is.
    pub fn write_raw(&self, bytes: &[u8]) {
        self.change(|state| {
            state.version += 1;
            state.raw.push((state.version, bytes.to_vec()));
        });
    }

    /// What goes wrong from now on; watches end.
    pub fn trouble(&self, trouble: Trouble) {
        self.change(|state| {
            state.trouble = trouble;
            state.generation += 1;
        });
    }

    /// Who has another token is refused.
    pub fn require_token(&self, token: &str) {
        self.change(|state| state.token = Some(token.to_owned()));
    }

    /// What was asked so far: paths with queries.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.change(|state| {
            state.stopped = true;
            state.generation += 1;
        });
        // It waits for somebody to come.
        drop(TcpStream::connect(self.address));
    }
}

fn answer(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream);
    let (mut target, mut token) = (String::new(), String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        match line.split_once(": ") {
            _ if line.is_empty() => break,
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => value.clone_into(&mut token),
            Some(_) => {}
            None => target = line.split(' ').nth(1).unwrap_or_default().to_owned(),
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let value = |key: &str| {
        query
            .split('&')
            .find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == key))
            .map(|pair| pair.1)
    };
    let (trouble, wanted, generation) = {
        let mut state = shared.state();
        state.requests.push(target.clone());
        (state.trouble.clone(), state.token.clone(), state.generation)
    };
    if trouble == Trouble::Silent {
        return Ok(());
    }
    let status = match trouble {
        Trouble::Status(status) => Some(status),
        _ if wanted.is_some_and(|wanted| token != format!("Bearer {wanted}")) => Some(401),
        _ => None,
    };
    if let Some(status) = status {
        return whole(stream, status, &failure(status));
    }
    if path != "/api/v1/pods" {
        let state = shared.state();
        let object = state.objects.get(&target).or_else(|| state.objects.get(path));
        return match object {
            Some(object) => whole(stream, 200, object),
            None => whole(stream, 404, &failure(404)),
        };
    }
    let Some(node) = value("fieldSelector").and_then(|selector| selector.strip_prefix("spec.nodeName%3D"))
    else {
        return whole(stream, 403, &failure(403));
    };
    if value("watch") == Some("true") {
        let from = value("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        return watch(shared, stream, node, from, generation);
    }
    let state = shared.state();
    let here: Vec<&Value> = state.pods.values().filter(|pod| pod["spec"]["nodeName"] == node).collect();
    let first =
        value("continue").and_then(|token| token.strip_prefix("from-")?.parse::<usize>().ok()).unwrap_or(0);
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    if here.len() > first + PAGE {
        metadata["continue"] = json!(format!("from-{}", first + PAGE));
    }
    let items: Vec<&&Value> = here.iter().skip(first).take(PAGE).collect();
    whole(stream, 200, &json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}))
}

fn failure(code: u16) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        410 => "Expired",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "code": code})
}

fn whole(mut stream: &TcpStream, status: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn watch(shared: &Shared, mut stream: &TcpStream, node: &str, from: u64, generation: u64) -> io::Result<()> {
    let (expired, how) = {
        let state = shared.state();
        (from < state.oldest, state.expiry)
    };
    if expired && how == Expiry::Status {
        return whole(stream, 410, &failure(410));
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    let chunk = |mut stream: &TcpStream, bytes: &[u8]| {
        write!(stream, "{:x}\r\n", bytes.len())?;
        stream.write_all(bytes)?;
        stream.write_all(b"\r\n")
    };
    if expired {
        let line = json!({"type": "ERROR", "object": failure(410)});
        chunk(stream, format!("{line}\n").as_bytes())?;
        return stream.write_all(b"0\r\n\r\n");
    }
    let mut told = from;
    loop {
        let mut state = shared.state();
        let pieces: Vec<Vec<u8>> = loop {
            if state.generation != generation {
                drop(state);
                return stream.write_all(b"0\r\n\r\n");
            }
            let of_node =
                |kind: &str, object: &Value| kind == "BOOKMARK" || object["spec"]["nodeName"] == node;
            let events = state.events.iter().filter(|(version, ..)| *version > told);
            let lines =
                events.filter(|(_, kind, object)| of_node(kind, object)).map(|(version, kind, object)| {
                    let line = json!({"type": kind, "object": object});
                    (*version, format!("{line}\n").into_bytes())
                });
            let raw = state.raw.iter().filter(|(version, _)| *version > told).cloned();
            let mut pieces: Vec<(u64, Vec<u8>)> = lines.chain(raw).collect();
            pieces.sort_by_key(|(version, _)| *version);
            told = told.max(state.version);
            if !pieces.is_empty() {
                break pieces.into_iter().map(|(_, piece)| piece).collect();
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        for piece in pieces {
            // In two, as a network may cut it.
            let (first, second) = piece.split_at(piece.len() / 2);
            [first, second]
                .iter()
                .filter(|part| !part.is_empty())
                .try_for_each(|part| chunk(stream, part))?;
        }
    }
}
