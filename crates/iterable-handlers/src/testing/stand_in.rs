use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::builder::{StandInBuilder, StandInError};
use super::counts::Counts;
use super::exchange::Exchange;
use super::failure_list::FailureList;
use super::faults::Fault;
use super::project::{Identity, UserState};
use super::recorded::Recorded;
use super::reply::Reply;

/// A server on loopback that behaves as Iterable's API does: users, events and lists.
///
/// What it does, in this order: a body that is too large gets 413; a wrong key gets 401; a scripted reply goes
/// out; a request over its limit gets 429; a fault hits; a body of the wrong shape gets 400 `BadJsonBody` with the
/// member's path in `params`; and then the request takes effect, element by element. The first two and the last
/// two are Iterable's own ways, as its API description tells them; the rest is what a test asks for.
///
/// What it does not do: hashes of forgotten users, sent messages, dynamic lists, merging of users, message types
/// (these calls are accepted and empty); `preferUserId`, which matters to e-mail-based projects only;
/// refusing a value whose type differs from that of an earlier one, unless told by
/// [`mismatch_field`](Self::mismatch_field). Calls take effect at once, not some seconds later.
///
/// Dropping it ends it at once; [`stop`](Self::stop) lets requests in flight finish.
#[derive(Debug)]
pub struct StandIn {
    base_url: String,
    exchange: Arc<Exchange>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl StandIn {
    /// Starts a stand-in with all defaults on a free port.
    ///
    /// # Errors
    ///
    /// [`StandInError::Listen`] if there is no port.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn start() -> Result<Self, StandInError> {
        Self::builder().start().await
    }

    /// Begins to build a stand-in.
    pub fn builder() -> StandInBuilder {
        StandInBuilder::new()
    }

    /// Begins to build a stand-in that answers the first `fails` requests with 500 and the next `rate_limits` with
    /// 429. Scripted replies come before those.
    pub fn failing(fails: u64, rate_limits: u64) -> StandInBuilder {
        Self::builder().failing(fails, rate_limits)
    }

    pub(crate) fn new(
        address: SocketAddr,
        exchange: Arc<Exchange>,
        stop: watch::Sender<bool>,
        server: JoinHandle<()>,
    ) -> Self {
        Self { base_url: format!("http://{address}"), exchange, stop, server }
    }

    /// Returns where it listens: `http://127.0.0.1:` and the port, without `/api`.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Puts a reply in line for the next request of any path.
    pub fn script(&self, reply: Reply) {
        self.exchange.script().push(reply);
    }

    /// Puts a reply in line for the next request of this path, `/api/events/trackBulk` for example. It goes
    /// before those of [`script`](Self::script).
    pub fn script_for(&self, path: &str, reply: Reply) {
        self.exchange.script().push_for(path, reply);
    }

    /// Returns how many scripted replies no request has met yet.
    pub fn scripted(&self) -> usize {
        self.exchange.script().len()
    }

    /// Fails every element of the user with this e-mail address (in lower case) or id, and names it in `list`. A
    /// call about that user alone fails as a whole.
    pub fn reject_user(&self, id_or_email: &str, list: FailureList) {
        self.exchange.project().rules.rejected_users.insert(id_or_email.to_owned(), list);
    }

    /// Takes back [`reject_user`](Self::reject_user).
    pub fn accept_user(&self, id_or_email: &str) {
        self.exchange.project().rules.rejected_users.remove(id_or_email);
    }

    /// Answers every call about the list with `error.lists.invalidListId`.
    pub fn reject_list(&self, list_id: i64) {
        self.exchange.project().rules.rejected_lists.insert(list_id);
    }

    /// Disallows events of this name.
    pub fn disallow_event(&self, name: &str) {
        self.exchange.project().rules.disallowed_events.insert(name.to_owned());
    }

    /// Expects a type (`string`, `date`, `long`, `double`, `boolean`, `geo_location`) of a field in `dataFields`.
    /// A request with another is refused as a whole with `RequestFieldsTypesMismatched`.
    pub fn mismatch_field(&self, name: &str, expected: &str) {
        self.exchange.project().rules.expected_types.insert(name.to_owned(), expected.to_owned());
    }

    /// Refuses every request with an element whose compact JSON text contains `needle`, with 400 `BadJsonBody`;
    /// `params` names the first such element: `obj.events[3]`.
    pub fn reject_element(&self, needle: &str) {
        self.exchange.project().rules.bad_elements.push(needle.to_owned());
    }

    /// Takes at most `count` elements in a request of this path; more get 413.
    pub fn max_elements(&self, path: &str, count: usize) {
        self.exchange.project().rules.max_elements.insert(path.to_owned(), count);
    }

    /// Sets what bulk replies say in their counts. Default: the truth.
    pub fn counts(&self, counts: Counts) {
        self.exchange.project().rules.counts = counts;
    }

    /// Sets whether bulk replies name failed elements in lower case instead of as sent. Default: `false`.
    pub fn lowercase_failed_keys(&self, lowercase: bool) {
        self.exchange.project().rules.lowercase_failed_keys = lowercase;
    }

    /// Adds a user with these names; those of a user who is there already change nothing.
    pub fn add_user(&self, email: Option<&str>, user_id: Option<&str>) {
        let who = Identity { email, user_id };
        if who.check().is_ok() {
            // Two names of two users are left as they are.
            let _ = self.exchange.project().users.find_or_create(&who, true);
        }
    }

    /// Returns the latest requests, oldest first: as many as
    /// [`keep_requests`](StandInBuilder::keep_requests) says.
    pub fn requests(&self) -> Vec<Recorded> {
        self.exchange.requests()
    }

    /// Returns how many requests came, all that were complete.
    pub fn request_count(&self) -> u64 {
        self.exchange.received()
    }

    /// Returns how many requests got 429 because they were over their limit.
    pub fn throttled(&self) -> u64 {
        self.exchange.throttled()
    }

    /// Returns how many requests each fault hit.
    pub fn faults_hit(&self) -> BTreeMap<Fault, u64> {
        self.exchange.hits()
    }

    /// Returns how often the event of each id took effect.
    pub fn events(&self) -> BTreeMap<String, u64> {
        self.exchange.project().events.times()
    }

    /// Returns how many events were new and yet older than one before them, by a whole number in
    /// `dataFields.__sequence` that rises with each event of a user. Events without it are not watched, and an
    /// event that comes again is not out of order.
    pub fn out_of_order(&self) -> u64 {
        self.exchange.project().events.out_of_order
    }

    /// Returns all users.
    pub fn users(&self) -> Vec<UserState> {
        self.exchange.project().users.iter().cloned().collect()
    }

    /// Returns the user with this e-mail address (in any case) or id.
    pub fn user(&self, id_or_email: &str) -> Option<UserState> {
        let project = self.exchange.project();
        let by = |email, user_id| project.users.get(&Identity { email, user_id }).cloned();
        by(Some(id_or_email), None).or_else(|| by(None, Some(id_or_email)))
    }

    /// Returns who is on a list: e-mail addresses, or ids of users without one.
    pub fn list(&self, list_id: i64) -> Vec<String> {
        let project = self.exchange.project();
        project
            .users
            .iter()
            .filter(|user| user.lists.contains(&list_id))
            .filter_map(|user| user.email.clone().or_else(|| user.user_id.clone()))
            .collect()
    }

    /// Takes no more connections, lets requests in flight finish for up to 5 s, and ends. Slow replies are no
    /// longer held back.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the stand-in at once.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // The server ends by itself; a panic in it would have nothing to say here.
        let _ = (&mut self.server).await;
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}
