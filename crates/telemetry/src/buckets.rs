use relaykit_pipeline_traits::Metric;

/// Bucket bounds for times, in seconds: 1 ms to about 1 min, doubling.
pub const SECONDS: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
    32.768, 65.536,
];

/// Bucket bounds for sizes, in bytes: 256 B to 16 MiB, times four.
pub const BYTES: &[f64] =
    &[256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// Bucket bounds for numbers of things: 1 to 10,000.
pub const COUNTS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];

/// Returns the bucket bounds of a histogram for which none were set, by the unit at the end of its name.
#[must_use]
pub fn default_buckets(metric: &Metric) -> &'static [f64] {
    if metric.name.ends_with("_seconds") {
        SECONDS
    } else if metric.name.ends_with("_bytes") {
        BYTES
    } else {
        COUNTS
    }
}
