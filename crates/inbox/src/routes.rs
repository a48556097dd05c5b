use std::collections::BTreeMap;

use relaykit_pipeline_traits::InvalidSetting;
use relaykit_sql_store::torture::planted;

use crate::name::HandlerKey;

/// Which handlers a message goes to, by its kind.
///
/// Whoever receives needs only these; the handlers may run in another process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    by_kind: BTreeMap<String, Vec<Route>>,
}

/// A handler of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The handler.
    pub handler: HandlerKey,
    /// Whether it handles the messages of one ordering key one after another.
    pub ordered: bool,
}

impl Routes {
    /// Makes routes that lead nowhere.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Leads messages of a kind to a handler, too.
    ///
    /// # Errors
    ///
    /// They are led to it already, or it is ordered for one kind and not for another.
    pub fn add(&mut self, kind: impl Into<String>, route: Route) -> Result<(), InvalidSetting> {
        let kind = kind.into();
        if kind.is_empty() {
            return Err(InvalidSetting::new("kind", "", "1 byte or more"));
        }
        let other = self.by_kind.values().flatten().find(|known| known.handler == route.handler);
        if other.is_some_and(|known| known.ordered != route.ordered) {
            return Err(InvalidSetting::new("ordered", route.ordered, "the same for all kinds of a handler"));
        }
        let routes = self.by_kind.entry(kind.clone()).or_default();
        if routes.iter().any(|known| known.handler == route.handler) {
            let bound = format!("only once for the kind {kind}");
            return Err(InvalidSetting::new("handler", route.handler, bound));
        }
        routes.push(route);
        Ok(())
    }

    /// Returns where messages of a kind go.
    #[must_use]
    pub fn of(&self, kind: &str) -> &[Route] {
        let routes = self.by_kind.get(kind).map_or(&[][..], Vec::as_slice);
        if planted("leads_to_one_handler_only") { routes.get(..1).unwrap_or_default() } else { routes }
    }

    /// Returns every kind with its routes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Route)> {
        self.by_kind.iter().flat_map(|(kind, routes)| routes.iter().map(move |route| (kind.as_str(), route)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(handler: &str, ordered: bool) -> Route {
        Route { handler: HandlerKey::new(handler).unwrap(), ordered }
    }

    #[test]
    fn a_handler_is_registered_once_for_a_kind_and_alike_for_all() {
        let mut routes = Routes::new();
        routes.add("push", route("crm", true)).unwrap();
        routes.add("star", route("crm", true)).unwrap();
        routes.add("push", route("mail", false)).unwrap();
        assert!(routes.add("push", route("crm", true)).is_err());
        assert!(routes.add("fork", route("crm", false)).is_err());
        assert!(routes.add("", route("crm", true)).is_err());
        assert_eq!(routes.of("push").len(), 2);
        assert_eq!(routes.of("fork"), []);
        assert_eq!(routes.iter().count(), 3);
    }
}
