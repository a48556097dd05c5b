use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::identity::{Failed, Identity, normal};
use crate::testing::failure_list::FailureList;

/// A user as the stand-in knows it.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct UserState {
    /// The e-mail address, as it was first sent.
    pub email: Option<String>,
    /// The user id.
    pub user_id: Option<String>,
    /// The fields, with all updates applied.
    pub data_fields: Map<String, Value>,
    /// The lists that the user is on.
    pub lists: BTreeSet<i64>,
    /// What a change of subscriptions said last, by the request's member names.
    pub subscriptions: Map<String, Value>,
    /// How many updates of the user took effect.
    pub updates: u64,
}

impl UserState {
    /// Writes fields over those that are there; objects at the top level are merged if asked for.
    pub(crate) fn write(&mut self, fields: Map<String, Value>, merge: bool) {
        for (name, value) in fields {
            match (self.data_fields.get_mut(&name), value) {
                (Some(Value::Object(old)), Value::Object(new)) if merge => old.extend(new),
                (_, value) => {
                    self.data_fields.insert(name, value);
                }
            }
        }
    }
}

/// All users, found by e-mail address and by id.
#[derive(Debug, Default)]
pub(crate) struct Users {
    profiles: BTreeMap<u64, UserState>,
    by_email: BTreeMap<String, u64>,
    by_id: BTreeMap<String, u64>,
    given_up: BTreeSet<String>,
    next: u64,
}

impl Users {
    pub(crate) fn len(&self) -> usize {
        self.profiles.len() + self.given_up.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &UserState> {
        self.profiles.values()
    }

    pub(crate) fn get(&self, who: &Identity<'_>) -> Option<&UserState> {
        self.find(who).ok().flatten().and_then(|number| self.profiles.get(&number))
    }

    /// Returns whether the address was somebody's until a change of address.
    pub(crate) fn gave_up(&self, who: &Identity<'_>) -> bool {
        who.email.is_some_and(|email| self.given_up.contains(&normal(email)))
    }

    /// Returns the user; an id or an address that it did not have is added to it.
    pub(crate) fn find_or_create(
        &mut self,
        who: &Identity<'_>,
        create: bool,
    ) -> Result<&mut UserState, Failed> {
        let number = match self.find(who)? {
            Some(number) => number,
            None if create => {
                self.next += 1;
                self.next
            }
            None => {
                return Err(who.failed_by_kind(FailureList::NotFoundEmails, FailureList::NotFoundUserIds));
            }
        };
        let user = self.profiles.entry(number).or_default();
        if let Some(email) = who.email {
            user.email.get_or_insert_with(|| email.to_owned());
            self.by_email.insert(normal(email), number);
            self.given_up.remove(&normal(email));
        }
        if let Some(id) = who.user_id {
            user.user_id.get_or_insert_with(|| id.to_owned());
            self.by_id.insert(id.to_owned(), number);
        }
        Ok(user)
    }

    /// Gives the user another address, unless somebody else has it.
    pub(crate) fn move_to(&mut self, who: &Identity<'_>, email: &str) -> Result<(), Failed> {
        let number = self.find(who)?;
        let holder = self.by_email.get(&normal(email)).copied();
        if holder.is_some() && holder != number {
            return Err(Failed { list: Some(FailureList::ConflictEmails), key: email.to_owned() });
        }
        let Some((number, user)) =
            number.and_then(|number| self.profiles.get_mut(&number).map(|user| (number, user)))
        else {
            return Ok(());
        };
        if let Some(old) = user.email.replace(email.to_owned()) {
            self.by_email.remove(&normal(&old));
            self.given_up.insert(normal(&old));
        }
        user.updates += 1;
        self.by_email.insert(normal(email), number);
        self.given_up.remove(&normal(email));
        Ok(())
    }

    pub(crate) fn remove(&mut self, who: &Identity<'_>) {
        if let Ok(Some(number)) = self.find(who) {
            self.profiles.remove(&number);
            self.by_email.retain(|_, other| *other != number);
            self.by_id.retain(|_, other| *other != number);
        }
    }

    pub(crate) fn leave_list(&mut self, list: i64) {
        for user in self.profiles.values_mut() {
            user.lists.remove(&list);
        }
    }

    /// Finds the user whom both names allow. Two names of two users conflict.
    fn find(&self, who: &Identity<'_>) -> Result<Option<u64>, Failed> {
        let by_email = who.email.and_then(|email| self.by_email.get(&normal(email)).copied());
        let by_id = who.user_id.and_then(|id| self.by_id.get(id).copied());
        match (by_email, by_id) {
            (Some(one), Some(other)) if one != other => Err(who.failed(FailureList::ConflictUserIds)),
            (Some(number), _) => {
                // The profile has another id already: the one sent cannot become its id.
                let has_other = self
                    .profiles
                    .get(&number)
                    .and_then(|user| user.user_id.as_deref())
                    .is_some_and(|id| who.user_id.is_some_and(|sent| sent != id));
                if has_other {
                    return Err(who.failed(FailureList::ConflictUserIds));
                }
                Ok(Some(number))
            }
            (None, by_id) => Ok(by_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn who<'a>(email: Option<&'a str>, user_id: Option<&'a str>) -> Identity<'a> {
        Identity { email, user_id }
    }

    #[test]
    fn a_user_is_found_by_either_name_whatever_the_case_of_the_address() {
        let mut users = Users::default();
        users.find_or_create(&who(Some("A@Example.com"), Some("u")), true).unwrap().updates = 7;
        for by in [who(Some("a@example.com"), None), who(None, Some("u"))] {
            assert_eq!(users.get(&by).map(|user| user.updates), Some(7));
        }
        assert_eq!(users.iter().count(), 1);
    }

    #[test]
    fn names_of_two_users_conflict() {
        let mut users = Users::default();
        users.find_or_create(&who(Some("a@example.com"), Some("a")), true).unwrap();
        users.find_or_create(&who(Some("b@example.com"), Some("b")), true).unwrap();
        for (email, id) in [("a@example.com", "b"), ("a@example.com", "c")] {
            let failed = users.find_or_create(&who(Some(email), Some(id)), true).unwrap_err();
            assert_eq!(failed.named(), Some(("conflictUserIds".to_owned(), id.to_owned())));
        }
    }

    #[test]
    fn an_address_that_was_given_up_is_known_as_such() {
        let mut users = Users::default();
        let old = who(Some("old@example.com"), None);
        users.find_or_create(&old, true).unwrap();
        users.move_to(&old, "new@example.com").unwrap();
        assert!(users.gave_up(&old));
        assert!(users.get(&who(Some("new@example.com"), None)).is_some());
        assert!(users.get(&old).is_none());
    }

    #[test]
    fn objects_are_merged_only_if_asked_for() {
        let fields = |value: Value| value.as_object().unwrap().clone();
        let mut user = UserState::default();
        user.write(fields(json!({"s": {"mobile": true}})), false);
        user.write(fields(json!({"s": {"email": true}})), true);
        assert_eq!(user.data_fields["s"], json!({"mobile": true, "email": true}));
        user.write(fields(json!({"s": {"sms": true}})), false);
        assert_eq!(user.data_fields["s"], json!({"sms": true}));
    }
}
