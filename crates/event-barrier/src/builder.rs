use std::hash::{BuildHasher, Hash, RandomState};

use relaykit_pipeline_traits::InvalidSetting;

use crate::barrier::{Barrier, Observer, OrderOff, Parts};
use crate::limits::Limits;
use crate::notice::{DebugInfo, Notice};
use crate::reader::Reader;

/// A barrier, and the one reader of it.
type Built<K, J, S> = (Barrier<K, J, S>, Reader<K, J, S>);

/// Builds a [`Barrier`] and its [`Reader`]; made by [`Barrier::builder`].
#[must_use = "a barrier is made by `build`"]
pub struct Builder<K, J = u64, S = RandomState> {
    hasher: S,
    limits: Limits,
    metadata: Vec<(String, String)>,
    order_off: Option<Box<OrderOff<K>>>,
    observer: Option<Box<Observer<K, J>>>,
    debug_info: Option<Box<DebugInfo<K>>>,
}

impl<K, J, S> Builder<K, J, S> {
    pub(crate) fn new(hasher: S) -> Self {
        Self {
            hasher,
            limits: Limits::default(),
            metadata: Vec::new(),
            order_off: None,
            observer: None,
            debug_info: None,
        }
    }

    /// Sets how much of a key may be in flight. Default: [`Limits::default`], which is no limit.
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds a name and value that the barrier shows in its `Display` and gives to the observer, such as the destination it
    /// works for. Default: none.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((name.into(), value.into()));
        self
    }

    /// Sets a check that switches the order of some keys off. Default: every key keeps its order.
    ///
    /// It is asked at each gate, outside every lock, so it may change its mind; a job that entered while the order of its key
    /// was off stays without order to its end, if it keeps its permit. What was known about a key is forgotten
    /// when a job of it enters without order.
    pub fn order_off(mut self, check: impl Fn(&K) -> bool + Send + Sync + 'static) -> Self {
        self.order_off = Some(Box::new(check));
        self
    }

    /// Sets who is told about each [`Event`](crate::Event). Default: nobody.
    ///
    /// It runs in the call that met the event, outside every lock.
    pub fn observer(mut self, observer: impl Fn(&Notice<'_, K, J>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Sets who can tell more about a key, such as its last jobs in the store. Default: nobody.
    ///
    /// It runs only when an observer asks [`Notice::debug_info`].
    pub fn debug_info(mut self, provider: impl Fn(&K) -> String + Send + Sync + 'static) -> Self {
        self.debug_info = Some(Box::new(provider));
        self
    }

    /// Sets how keys are hashed. Default: [`RandomState`], which withstands keys made to collide.
    pub fn hasher<T>(self, hasher: T) -> Builder<K, J, T> {
        let Self { hasher: _, limits, metadata, order_off, observer, debug_info } = self;
        Builder { hasher, limits, metadata, order_off, observer, debug_info }
    }
}

impl<K: Hash + Eq + Clone, J: Ord + Copy, S: BuildHasher + Clone> Builder<K, J, S> {
    /// Makes the barrier, and the one reader of it.
    ///
    /// # Errors
    ///
    /// If a duration of the limits is zero.
    pub fn build(self) -> Result<Built<K, J, S>, InvalidSetting> {
        self.limits.check()?;
        Ok(self.build_checked())
    }

    pub(crate) fn build_checked(self) -> Built<K, J, S> {
        let Self { hasher, limits, metadata, order_off, observer, debug_info } = self;
        let barrier =
            Barrier::from_parts(Parts { hasher, limits, metadata, order_off, observer, debug_info });
        (barrier.clone(), Reader::new(barrier))
    }
}

impl<K, J, S> std::fmt::Debug for Builder<K, J, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("limits", &self.limits)
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}
