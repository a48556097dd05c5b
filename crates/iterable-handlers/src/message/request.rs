use super::{InvalidRequest, PrepareError, Prepared, Stamper};

/// A request that a handler of this crate delivers: one of the six of this crate. Sealed.
pub trait Request: parts::Parts {
    /// Checks the request, gives it an id where it has none, and serialises it: once, so that every attempt sends
    /// the same bytes.
    ///
    /// # Errors
    ///
    /// Gives the request back, with the reason, if the API could not take it.
    fn prepare(self, stamper: &Stamper) -> Result<Prepared<Self>, PrepareError<Self>> {
        let mut request = self;
        if let Err(reason) = parts::check(request.elements()) {
            return Err(PrepareError::new(request, reason));
        }
        let id = request.stamp(stamper);
        match Prepared::of(id, &request) {
            Ok(prepared) => Ok(prepared),
            Err(reason) => Err(PrepareError::new(request, reason)),
        }
    }
}

pub(super) mod parts {
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::{InvalidRequest, Stamper};
    use crate::message::IdentityKey;

    /// What a request consists of: flags that hold for the whole call, and elements that go into its array.
    pub trait Parts: Send + Sync + Sized + 'static {
        type Flags: std::fmt::Debug + Clone + PartialEq + Send + Sync + Serialize + DeserializeOwned;
        type Element: Element;

        fn flags(&self) -> Self::Flags;

        fn elements(&self) -> &[Self::Element];

        /// Gives the request what it lacks and returns its id.
        fn stamp(&mut self, stamper: &Stamper) -> String {
            stamper.id()
        }
    }

    /// What stands for one user in the array of a call.
    pub trait Element: Serialize + DeserializeOwned {
        fn check(&self) -> Result<(), InvalidRequest>;

        fn keys(&self) -> Vec<IdentityKey>;

        /// The name of the event, if it is one.
        fn event_name(&self) -> Option<&str> {
            None
        }
    }

    /// Checks the elements of one request. One that is alone is at fault itself, one of several is told by its index.
    pub(crate) fn check<E: Element>(elements: &[E]) -> Result<(), InvalidRequest> {
        match elements {
            [] => Err(InvalidRequest::NoSubscribers),
            [only] => only.check(),
            many => many.iter().enumerate().try_for_each(|(index, element)| {
                element
                    .check()
                    .map_err(|source| InvalidRequest::Subscriber { index, source: Box::new(source) })
            }),
        }
    }
}
