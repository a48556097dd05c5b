use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use relaykit_pipeline_traits::{Clock, SystemClock};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::answer::Answer;
use super::exchange::Exchange;
use super::recorded::Recorded;
use super::reply::Wire;

/// How many connections are open at once; later ones wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;

/// How many bytes of a body that is too large are read and thrown away before the connection is cut instead.
const MAX_DISCARDED_BYTES: usize = 64 * 1024 * 1024;

/// How long requests in flight may take after [`stop`](super::StandIn::stop).
const GRACE: Duration = Duration::from_secs(5);

/// Accepts connections until told to stop, then gives those in flight their grace.
pub(crate) async fn serve(listener: TcpListener, exchange: Arc<Exchange>, mut stop: watch::Receiver<bool>) {
    // Sockets live in real time, also when the test's clock stands still.
    let clock = SystemClock::new();
    let mut connections = JoinSet::new();
    loop {
        let full = connections.len() >= MAX_CONNECTIONS;
        tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = listener.accept(), if !full => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&exchange), stop.clone()));
                }
                // Out of descriptors, most likely: those that are open must close first.
                Err(_) => clock.sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = clock.sleep(GRACE) => connections.shutdown().await,
    }
}

/// Waits until the stand-in is told to stop, or is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(stream: TcpStream, exchange: Arc<Exchange>, mut stop: watch::Receiver<bool>) {
    let stopping = stop.clone();
    let service = service_fn(move |request| {
        let exchange = Arc::clone(&exchange);
        let stopping = stopping.clone();
        async move { respond(request, &exchange, stopping).await }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // An error ends the connection, and that is all there is to do about it: some are meant.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Ends a connection without a reply.
#[derive(Debug)]
struct Hangup;

impl fmt::Display for Hangup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stand-in hangs up")
    }
}

impl std::error::Error for Hangup {}

async fn respond(
    request: Request<Incoming>,
    exchange: &Exchange,
    mut stopping: watch::Receiver<bool>,
) -> Result<Response<ReplyBody>, Hangup> {
    let (head, body) = request.into_parts();
    let body = read(body, exchange.settings.max_body_bytes).await?;
    let too_large = body.is_none();
    let recorded = Recorded {
        number: 0,
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: hide_key(head.headers),
        body: body.unwrap_or_default(),
    };
    let reply = exchange.reply(recorded, too_large);
    if !reply.delay.is_zero() {
        tokio::select! {
            () = exchange.settings.clock.sleep(reply.delay) => {}
            () = stopped(&mut stopping) => {}
        }
    }
    match reply.wire {
        Wire::Nothing => Err(Hangup),
        Wire::Whole(answer) => {
            let body = ReplyBody::Whole(Some(answer.body.clone()));
            Ok(response(answer, body))
        }
        Wire::Cut { mut answer, missing } => {
            let promised = answer.body.len().saturating_add(missing);
            answer.headers.insert(CONTENT_LENGTH, HeaderValue::from(promised));
            let body = ReplyBody::Cut { sent: Some(answer.body.clone()), flushed: false };
            Ok(response(answer, body))
        }
    }
}

fn response(answer: Answer, body: ReplyBody) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// Marks the key so that `Debug` does not show it.
fn hide_key(mut headers: HeaderMap) -> HeaderMap {
    if let Some(key) = headers.get_mut("api-key") {
        key.set_sensitive(true);
    }
    headers
}

/// Reads a body; `None` if it is larger than `max`. One far larger ends the connection.
async fn read(mut body: Incoming, max: usize) -> Result<Option<Bytes>, Hangup> {
    let mut kept = Vec::new();
    let mut seen = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Hangup)?.into_data() else {
            continue;
        };
        seen = seen.saturating_add(data.len());
        if seen <= max {
            kept.extend_from_slice(&data);
        } else if seen > max.saturating_add(MAX_DISCARDED_BYTES) {
            return Err(Hangup);
        } else {
            // The caller is heard out, so that it reads the 413 instead of meeting a closed connection.
            kept = Vec::new();
        }
    }
    Ok((seen <= max).then(|| kept.into()))
}

/// The body of a reply.
#[derive(Debug)]
enum ReplyBody {
    Whole(Option<Bytes>),
    Cut { sent: Option<Bytes>, flushed: bool },
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Hangup;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Hangup>>> {
        match self.get_mut() {
            Self::Whole(body) => {
                let body = body.take().filter(|body| !body.is_empty());
                Poll::Ready(body.map(|body| Ok(Frame::data(body))))
            }
            Self::Cut { sent, flushed } => {
                if let Some(sent) = sent.take().filter(|sent| !sent.is_empty()) {
                    return Poll::Ready(Some(Ok(Frame::data(sent))));
                }
                if *flushed {
                    return Poll::Ready(Some(Err(Hangup)));
                }
                // One turn without news makes the server send what it has before it meets the error.
                *flushed = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => {
                let len = body.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(len).unwrap_or(u64::MAX))
            }
            Self::Cut { .. } => SizeHint::default(),
        }
    }
}
