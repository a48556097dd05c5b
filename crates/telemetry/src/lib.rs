#![doc = include_str!("../README.md")]

mod buckets;
#[cfg(any(feature = "prometheus", feature = "opentelemetry"))]
mod dropped;
#[cfg(feature = "opentelemetry")]
mod opentelemetry;
#[cfg(feature = "prometheus")]
mod prometheus;
#[cfg(feature = "opentelemetry")]
mod trace;

pub use buckets::{BYTES, COUNTS, SECONDS, default_buckets};
#[cfg(feature = "opentelemetry")]
pub use opentelemetry::{OpenTelemetryBuilder, OpenTelemetryRecorder};
#[cfg(feature = "prometheus")]
pub use prometheus::{PrometheusBuilder, PrometheusError, PrometheusRecorder};
#[cfg(feature = "opentelemetry")]
pub use trace::{TRACEPARENT, TRACESTATE, extract, inject, link};
