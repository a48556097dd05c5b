mod api_key;
mod builder;
mod endpoint;
mod halt;
mod limiter;
mod metrics;
mod rate;
pub(crate) mod transport;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Recorder};

use self::halt::Halts;
use self::limiter::Limiter;
use crate::{Events, Lists, Users};

pub use api_key::ApiKey;
pub use builder::{BuildError, ClientBuilder, Region};
pub use endpoint::Endpoint;
pub use metrics::METRICS;
pub use rate::Rate;

/// The largest body that is ever sent, in bytes.
///
/// The API takes 4 MB, which is read as 4,000,000 bytes, the stricter of its two meanings.
pub const MAX_BODY_BYTES: usize = 4 * 1000 * 1000;

/// A client of the Iterable API.
///
/// Cheap to clone. All clones share connections, rate limits, and what the API said about both: a 429 pauses its
/// endpoint for everyone, as long as `Retry-After` says or 1 s, and a refused key (401, or 403 for one endpoint)
/// keeps further requests back for [`halt_for`](ClientBuilder::halt_for), after which one call tries again.
///
/// The client never retries by itself, follows no redirects, and logs no bodies.
///
/// ```no_run
/// use relaykit_iterable_handlers::{ApiKey, Client, Region};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let key = ApiKey::new(std::env::var("ITERABLE_API_KEY")?)?;
/// let client = Client::builder(key).region(Region::Eu).build()?;
/// match client.users().get_by_email("ada@example.com").await? {
///     Some(user) => println!("{} fields", user.data_fields.len()),
///     None => println!("nobody"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    base_url: String,
    key: ApiKey,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    export_timeout: Duration,
    max_response_bytes: usize,
    max_export_bytes: usize,
    limiter: Limiter,
    halts: Halts,
    recorder: Arc<dyn Recorder>,
}

impl Client {
    /// Configures a client that uses this key.
    pub fn builder(key: ApiKey) -> ClientBuilder {
        ClientBuilder::new(key)
    }

    /// Returns the calls about users.
    pub const fn users(&self) -> Users<'_> {
        Users::new(self)
    }

    /// Returns the calls about events.
    pub const fn events(&self) -> Events<'_> {
        Events::new(self)
    }

    /// Returns the calls about lists.
    pub const fn lists(&self) -> Lists<'_> {
        Lists::new(self)
    }
}

/// Shows no key.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base_url", &self.inner.base_url)
            .field("timeout", &self.inner.timeout)
            .finish_non_exhaustive()
    }
}
