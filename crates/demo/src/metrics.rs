use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus::{Registry, TextEncoder};
use relaykit_pipeline_traits::{Clock as _, SystemClock};
use relaykit_telemetry::PrometheusRecorder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::report::say;

/// How long one connection may take.
const CONNECTION: Duration = Duration::from_secs(10);
/// How many connections are served at once; others wait to be accepted.
const CONNECTIONS: usize = 8;
/// How long to wait after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The numbers of all parts, served as `GET /metrics` while the program runs.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) recorder: PrometheusRecorder,
    address: SocketAddr,
}

impl Metrics {
    /// Serves them at this address, if there is one, and says where.
    pub(crate) async fn asked_for(address: Option<SocketAddr>) -> anyhow::Result<Option<Self>> {
        let Some(address) = address else { return Ok(None) };
        let metrics = Self::serve(address).await?;
        say(&format!("metrics at http://{}/metrics", metrics.address));
        Ok(Some(metrics))
    }

    /// Registers every part's metrics and begins to serve them.
    async fn serve(address: SocketAddr) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let recorder = PrometheusRecorder::builder(&registry)
            .metrics(relaykit_batch_core::METRICS)
            .metrics(relaykit_iterable_handlers::METRICS)
            .metrics(relaykit_persistent_queue::METRICS)
            .metrics(relaykit_inbox::METRICS)
            .metrics(relaykit_outbox::METRICS)
            .build()?;
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("could not listen on {address}"))?;
        let address = listener.local_addr().context("could not ask for the address")?;
        tokio::spawn(accept(listener, registry));
        Ok(Self { recorder, address })
    }
}

async fn accept(listener: TcpListener, registry: Registry) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Never closed, so it gives a place each time.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Mostly a want of file handles, which others have to give back first.
            SystemClock::new().sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let registry = registry.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = serve(stream, registry) => {}
                () = SystemClock::new().sleep(CONNECTION) => {}
            }
            drop(place);
        });
    }
}

async fn serve(stream: TcpStream, registry: Registry) {
    let service = service_fn(|request| {
        let response = answer(&request, &registry);
        async move { Ok::<_, Infallible>(response) }
    });
    // Who went away mid-way does not miss the rest.
    let _ = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<String> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match TextEncoder::new().encode_to_string(&registry.gather()) {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        _ => (StatusCode::NOT_FOUND, "the numbers are at /metrics\n".to_owned()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let text = hyper::header::HeaderValue::from_static(prometheus::TEXT_FORMAT);
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}
