//! Integration tests of the relaykit family, and the harness that they share.
//!
//! Tests that send HTTP do so through [`Api`]: a stand-in of the Iterable API that holds every request to Iterable's
//! own API description ([`Contract`]). [`api!`] starts one, or ends the test with a line that begins with `skip:`
//! where the description is not at hand. With the environment variable `CI` set, that is a failure instead.

mod api;
mod contract;
mod shared_file;

pub use api::Api;
pub use contract::Contract;
pub use shared_file::shared_file;

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct ReadmeExamples;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/coming-from-go.md")]
struct ComingFromGoExamples;

/// Starts an [`Api`], from a `StandInBuilder` if one is given; returns from the test where the description of the
/// API is not at hand.
///
/// ```no_run
/// # async fn test() {
/// use relaykit_iterable_handlers::testing::StandIn;
///
/// let api = relaykit_suite::api!(StandIn::builder().seed(7));
/// println!("{}", api.base_url());
/// api.finish().await;
/// # }
/// ```
#[macro_export]
macro_rules! api {
    () => {
        $crate::api!(::relaykit_iterable_handlers::testing::StandIn::builder())
    };
    ($builder:expr) => {
        match $crate::Api::start($builder).await {
            Some(api) => api,
            None => return,
        }
    };
}
