//! Metrics over HTTP, on a Unix socket of their own.
//!
//! The server has a thread. For each request it asks the driver for a [`Snapshot`] and wakes it; the
//! driver answers at the end of a turn. Nobody who reads slowly, or not at all, is waited for: a
//! connection serves one request, lives for [`CONNECTION_PATIENCE`] at most, and when there are too
//! many, the oldest one makes room.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::Snapshot;
use super::text::{Form, render};
use crate::logging::target;
use crate::private_socket::{self, Identity, identity};
use crate::sys;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 32;
/// How long a newcomer waits for one of them to end by itself, before the oldest is ended.
const ROOM_PATIENCE: Duration = Duration::from_millis(100);
/// How long a client may take to send its request.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// How long the driver may take to answer.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may live, from its beginning until everything is read.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// After an accept that failed, as when no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
const BACKLOG: i32 = 128;

/// The driver's half: requests for a snapshot.
#[derive(Debug)]
pub struct Requests {
    waiting: Receiver<Reply>,
}

impl Requests {
    /// Those that have come since the last time. Empty when nobody asks, which costs next to nothing.
    pub fn take(&self) -> Vec<Reply> {
        self.waiting.try_iter().collect()
    }
}

/// Somebody who waits for a snapshot.
#[derive(Debug)]
pub struct Reply {
    to: oneshot::Sender<Arc<Snapshot>>,
}

impl Reply {
    /// Answers. Nobody may be waiting any more, which does not matter.
    pub fn send(self, snapshot: Arc<Snapshot>) {
        let _ = self.to.send(snapshot);
    }
}

/// The server. Ends, and removes its socket, when it is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    /// Device and inode of the socket that was bound.
    identity: Identity,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Binds the socket, for this user alone, and serves it on a thread of its own. `wake` is called
    /// on that thread when there is something in [`Requests`].
    ///
    /// The caller holds the lock of the root that the socket belongs to: whatever socket stands at
    /// the path already is left over, and removed. Fails if the path is taken by something else, is
    /// too long or cannot be written, or if the system has no descriptor or thread left.
    pub fn start(
        path: &Path,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> anyhow::Result<(Server, Requests)> {
        let (listener, identity) = bind(path)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, waiting) = sync_channel(CONNECTIONS_MAX);
        let ask = Arc::new(Ask { sender, wake: Box::new(wake) });
        let (stop, stopped) = oneshot::channel();
        let serving = async move {
            // Within the runtime, as it must be.
            match UnixListener::from_std(listener) {
                Ok(listener) => tokio::select! {
                    () = serve(listener, ask) => {}
                    _ = stopped => {}
                },
                Err(error) => {
                    tracing::error!(target: target::METRICS, "the metrics socket cannot be watched: {error}");
                }
            }
        };
        let thread = thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || runtime.block_on(serving))
            .context("cannot start a thread for metrics")?;
        let path = path.to_owned();
        let server = Server { path, identity, stop: Some(stop), thread: Some(thread) };
        Ok((server, Requests { waiting }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // It may be another daemon's by now.
        if identity(&self.path) == Some(self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind(path: &Path) -> anyhow::Result<(StdUnixListener, Identity)> {
    let shown = path.display();
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            bail!("{shown} exists and is not a socket: move it away");
        }
        fs::remove_file(path).with_context(|| format!("cannot remove the left over {shown}"))?;
    }
    private_socket::listen(path, BACKLOG)
}

// ---- on the server's thread -------------------------------------------------------------------------

/// The way to the driver.
struct Ask {
    sender: SyncSender<Reply>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Ask {
    /// A fresh snapshot; none if the driver does not answer in time.
    async fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let (to, answer) = oneshot::channel();
        // A full channel means that the driver has not answered for a long time.
        self.sender.try_send(Reply { to }).ok()?;
        (self.wake)();
        timeout(SNAPSHOT_PATIENCE, answer).await.ok()?.ok()
    }
}

async fn serve(listener: UnixListener, ask: Arc<Ask>) {
    let own_uid = rustix::process::geteuid().as_raw();
    let mut connections = Connections::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(target: target::METRICS, "a reader of metrics cannot come in: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match sys::peer_credentials(&stream) {
            Ok(peer) if may_read(peer.uid, own_uid) => {
                connections.make_room().await;
                connections.add(one_request(stream, Arc::clone(&ask)));
            }
            Ok(peer) => {
                tracing::debug!(target: target::METRICS, "user {} may not read metrics", peer.uid);
            }
            Err(error) => {
                tracing::debug!(target: target::METRICS, "a reader of metrics without credentials: {error}");
            }
        }
    }
}

/// The daemon's own user and root, and nobody else.
fn may_read(uid: u32, own_uid: u32) -> bool {
    uid == own_uid || uid == 0
}

/// The connections that are open.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    oldest_first: Vec<AbortHandle>,
}

impl Connections {
    /// Waits until there is room for one more.
    async fn make_room(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        if self.tasks.len() >= CONNECTIONS_MAX
            && timeout(ROOM_PATIENCE, self.tasks.join_next()).await.is_err()
        {
            if let Some(oldest) = self.oldest_first.iter().find(|task| !task.is_finished()) {
                oldest.abort();
            }
            self.tasks.join_next().await;
        }
        self.oldest_first.retain(|task| !task.is_finished());
    }

    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.oldest_first.push(self.tasks.spawn(connection));
    }
}

/// Serves one request. What goes wrong then is the reader's trouble alone.
async fn one_request(stream: UnixStream, ask: Arc<Ask>) {
    let service = service_fn(move |request| {
        let ask = Arc::clone(&ask);
        async move { Ok::<_, Infallible>(answer(&request, &ask).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = timeout(CONNECTION_PATIENCE, connection).await;
}

async fn answer(request: &Request<Incoming>, ask: &Ask) -> Response<Full<Bytes>> {
    let Some(form) = Form::at(request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics, as JSON at /metrics.json\n");
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a plain word"));
        return response;
    }
    match ask.snapshot().await {
        Some(snapshot) => {
            let mut snapshot = Arc::unwrap_or_clone(snapshot);
            snapshot.look_at_disk();
            response(StatusCode::OK, form.content_type(), render(&snapshot, form).into())
        }
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "the bus does not answer\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream as Client;
    use std::sync::mpsc;

    use super::*;
    use crate::metrics::tests::snapshot;

    /// A server whose driver answers, until it is dropped.
    struct World {
        server: Option<Server>,
        driver: Option<JoinHandle<()>>,
        directory: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("metrics.sock");
            let (wake, woken) = mpsc::channel();
            let (server, requests) = Server::start(&path, move || {
                let _ = wake.send(());
            })
            .unwrap();
            let driver = thread::spawn(move || {
                while woken.recv().is_ok() {
                    for reply in requests.take() {
                        reply.send(Arc::new(snapshot()));
                    }
                }
            });
            World { server: Some(server), driver: Some(driver), directory }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("metrics.sock")
        }

        fn client(&self) -> Client {
            Client::connect(self.path()).unwrap()
        }

        /// Status line, header fields in lower case, body.
        fn ask(&self, request: &str) -> (String, String, String) {
            let mut client = self.client();
            client.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let (status, fields) = head.split_once("\r\n").unwrap();
            (status.to_owned(), fields.to_lowercase(), body.to_owned())
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            drop(self.server.take());
            self.driver.take().unwrap().join().unwrap();
            assert!(!self.path().exists(), "the socket is removed");
        }
    }

    #[test]
    fn a_scraper_gets_the_text_and_its_type() {
        let world = World::new();
        let (status, fields, body) =
            world.ask("GET /metrics?x=1 HTTP/1.1\r\nHost: bus\r\nAccept: */*\r\n\r\n");
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(
            fields.contains(
                "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"
            )
        );
        assert!(fields.contains("connection: close"), "{fields}");
        assert_eq!(body, render(&snapshot(), Form::OpenMetrics));
        let (_, fields, body) = world.ask("GET /metrics.json HTTP/1.0\r\n\r\n");
        assert!(fields.contains("content-type: application/json"));
        assert_eq!(body, render(&snapshot(), Form::Json));
    }

    #[test]
    fn a_head_has_no_body() {
        let world = World::new();
        let (status, fields, body) = world.ask("HEAD /metrics HTTP/1.1\r\nHost: bus\r\n\r\n");
        assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""));
        let bytes = render(&snapshot(), Form::OpenMetrics).len();
        assert!(fields.contains(&format!("content-length: {bytes}")), "{fields}");
    }

    #[test]
    fn nothing_else_is_offered() {
        let world = World::new();
        for (request, expected) in [
            ("GET / HTTP/1.1\r\nHost: bus\r\n\r\n", "HTTP/1.1 404 Not Found"),
            ("GET /metrics/ HTTP/1.1\r\nHost: bus\r\n\r\n", "HTTP/1.1 404 Not Found"),
            (
                "POST /metrics HTTP/1.1\r\nHost: bus\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 405 Method Not Allowed",
            ),
            ("\u{0}\u{1} nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ] {
            assert_eq!(world.ask(request).0, expected, "{request}");
        }
        let many = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
        let mut client = world.client();
        let _ = client.write_all(many.as_bytes());
        let mut status = [0; 12];
        client.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 431");
    }

    #[test]
    fn who_never_reads_keeps_nobody_out() {
        let world = World::new();
        let mut silent: Vec<Client> = (0..CONNECTIONS_MAX - 1).map(|_| world.client()).collect();
        // One of them has asked, and does not read.
        silent[0].write_all(b"GET /metrics HTTP/1.1\r\nHost: bus\r\n\r\n").unwrap();
        for _ in 0..3 {
            let (status, ..) = world.ask("GET /metrics HTTP/1.1\r\nHost: bus\r\n\r\n");
            assert_eq!(status, "HTTP/1.1 200 OK");
        }
        silent.extend((0..8).map(|_| world.client()));
        let (status, ..) = world.ask("GET /metrics HTTP/1.1\r\nHost: bus\r\n\r\n");
        assert_eq!(status, "HTTP/1.1 200 OK");
    }

    #[test]
    fn the_oldest_connection_makes_room() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut connections = Connections::default();
            for _ in 0..CONNECTIONS_MAX {
                connections.add(std::future::pending());
            }
            let oldest = connections.oldest_first[0].clone();
            let made = timeout(Duration::from_secs(3_600), connections.make_room()).await;
            made.expect("room is made however long the others stay");
            assert!(oldest.is_finished());
            assert_eq!(connections.oldest_first.len(), CONNECTIONS_MAX - 1);
        });
    }

    #[test]
    fn a_driver_that_is_gone_or_hung_is_said_to_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.sock");
        let (_server, requests) = Server::start(&path, || {}).unwrap();
        drop(requests);
        let mut client = Client::connect(&path).unwrap();
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost: bus\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");

        let (to, answer) = oneshot::channel::<Arc<Snapshot>>();
        let (sender, waiting) = sync_channel(1);
        sender.try_send(Reply { to }).unwrap();
        drop(answer);
        let ask = Ask { sender, wake: Box::new(|| unreachable!("nothing was asked")) };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        assert!(runtime.block_on(ask.snapshot()).is_none(), "there is no room for a request");
        for reply in (Requests { waiting }).take() {
            reply.send(Arc::new(Snapshot::default()));
        }
    }

    #[test]
    fn a_driver_that_does_not_answer_is_waited_for_only_so_long() {
        let (sender, _waiting) = sync_channel(1);
        let ask = Ask { sender, wake: Box::new(|| {}) };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let began = tokio::time::Instant::now();
            let answer = timeout(Duration::from_secs(3_600), ask.snapshot()).await;
            assert!(answer.expect("it is not waited for without end").is_none());
            assert_eq!(began.elapsed().as_secs(), SNAPSHOT_PATIENCE.as_secs());
        });
    }

    #[test]
    fn the_socket_is_for_its_user_and_replaces_a_left_over_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        let (first, _requests) = Server::start(&path, || {}).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // A daemon that takes over binds anew before the old one ends.
        let (second, _requests) = Server::start(&path, || {}).unwrap();
        drop(first);
        assert!(Client::connect(&path).is_ok(), "the newer socket stays");
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let refused = Server::start(&path, || {}).unwrap_err().to_string();
        assert!(refused.contains("is not a socket"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let long = directory.path().join("x".repeat(200));
        let refused = Server::start(&long, || {}).unwrap_err().to_string();
        assert!(refused.contains("too long"), "{refused}");
    }

    #[test]
    fn only_the_own_user_and_root_may_read() {
        assert!(may_read(1000, 1000) && may_read(0, 1000));
        assert!(!may_read(1001, 1000) && !may_read(1000, 0));
    }
}
