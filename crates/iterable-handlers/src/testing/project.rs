mod calls;
mod events;
mod identity;
mod users;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use calls::{Call, apply};
pub use events::AppliedEvent;
pub(crate) use events::Events;
pub(crate) use identity::{Failed, Identity};
pub use users::UserState;
pub(crate) use users::Users;

use super::failure_list::FailureList;
use super::rules::Rules;

/// What the stand-in does about a user whom it does not know.
///
/// `users/update`, `users/bulkUpdate` and `lists/subscribe` always create users, as Iterable does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum UnknownUsers {
    /// Whoever is named comes into being, also by an event, a change of subscriptions, an unsubscription or a
    /// change of the e-mail address; but not under an address that a change of address gave up.
    #[default]
    Create,
    /// Those calls report the user as not found.
    NotFound,
}

/// What the API keeps: users, events and lists.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) rules: Rules,
    pub(crate) users: Users,
    pub(crate) events: Events,
    lists: BTreeMap<i64, List>,
    /// The types of users' fields, by name.
    user_fields: BTreeMap<String, &'static str>,
    /// The fields of events, by the event's name and theirs.
    event_fields: BTreeSet<(String, String)>,
    forgotten: BTreeSet<String>,
    unknown_users: UnknownUsers,
    max_state: usize,
}

#[derive(Debug, Clone)]
struct List {
    name: String,
    description: Option<String>,
    created_at: i64,
}

impl Project {
    pub(crate) fn new(unknown_users: UnknownUsers, max_state: usize, keep_events: Option<usize>) -> Self {
        Self {
            rules: Rules::default(),
            users: Users::default(),
            events: Events::keeping(keep_events),
            lists: BTreeMap::new(),
            user_fields: BTreeMap::new(),
            event_fields: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            unknown_users,
            max_state,
        }
    }

    /// Returns how many things are kept.
    fn size(&self) -> usize {
        let fields = self.user_fields.len() + self.event_fields.len();
        self.users.len() + self.events.len() + self.lists.len() + self.forgotten.len() + fields
    }

    fn knows_field(&self, event: Option<&str>, name: &str) -> bool {
        match event {
            Some(event) => self.event_fields.contains(&(event.to_owned(), name.to_owned())),
            None => self.user_fields.contains_key(name),
        }
    }

    fn add_field(&mut self, event: Option<&str>, name: &str, type_name: &'static str) {
        match event {
            Some(event) => {
                self.event_fields.insert((event.to_owned(), name.to_owned()));
            }
            None => {
                self.user_fields.insert(name.to_owned(), type_name);
            }
        }
    }

    /// Says whether an element about this user can take effect.
    fn judge(&self, who: &Identity<'_>) -> Result<(), Failed> {
        who.check()?;
        if let Some(list) = who.keys().find_map(|key| self.rules.rejected_users.get(&key)) {
            return Err(who.failed(list.clone()));
        }
        for key in who.keys() {
            if self.forgotten.contains(&key) {
                let list = if who.email.is_some() {
                    FailureList::ForgottenEmails
                } else {
                    FailureList::ForgottenUserIds
                };
                return Err(who.failed(list));
            }
        }
        Ok(())
    }

    /// Returns the user, or creates one where the call does so.
    fn user(&mut self, who: &Identity<'_>, creates: bool) -> Result<&mut UserState, Failed> {
        let creates = creates || (self.unknown_users == UnknownUsers::Create && !self.users.gave_up(who));
        self.users.find_or_create(who, creates)
    }
}
