use serde_json::Value;

use crate::testing::failure_list::FailureList;

/// How an element names its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity<'a> {
    pub(crate) email: Option<&'a str>,
    pub(crate) user_id: Option<&'a str>,
}

/// An element that failed: in which list and under which key, if it has a name at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) list: Option<FailureList>,
    pub(crate) key: String,
}

impl Failed {
    pub(crate) fn named(self) -> Option<(String, String)> {
        let key = self.key;
        self.list.map(|list| (list.name().to_owned(), key))
    }
}

impl<'a> Identity<'a> {
    /// Reads `email` and `userId`. One that is empty beside another that is not counts as absent.
    pub(crate) fn of(element: &'a Value) -> Self {
        Self::from_parts(text(element, "email"), text(element, "userId"))
    }

    /// Reads `currentEmail`, which takes precedence, and `currentUserId`.
    pub(crate) fn current(element: &'a Value) -> Self {
        let who = Self::from_parts(text(element, "currentEmail"), text(element, "currentUserId"));
        Self { user_id: who.user_id.filter(|_| who.email.is_none()), ..who }
    }

    fn from_parts(email: Option<&'a str>, user_id: Option<&'a str>) -> Self {
        let filled = |part: Option<&'a str>, other: Option<&'a str>| {
            part.filter(|part| !part.is_empty() || other.is_none_or(str::is_empty))
        };
        Self { email: filled(email, user_id), user_id: filled(user_id, email) }
    }

    /// Returns the keys by which the user is known: the e-mail address in lower case, and the id as it is.
    pub(crate) fn keys(&self) -> impl Iterator<Item = String> {
        let email = self.email.map(normal);
        email.into_iter().chain(self.user_id.map(str::to_owned))
    }

    /// Returns the first of the keys.
    pub(crate) fn key(&self) -> String {
        self.keys().next().unwrap_or_default()
    }

    /// Checks that there is a name and that it is well formed.
    pub(crate) fn check(&self) -> Result<(), Failed> {
        if self.email.is_none() && self.user_id.is_none() {
            return Err(Failed { list: None, key: String::new() });
        }
        if self.email.is_some_and(|email| !is_email(email)) {
            return Err(self.failed(FailureList::InvalidEmails));
        }
        if self.user_id.is_some_and(|id| !is_user_id(id)) {
            return Err(self.failed(FailureList::InvalidUserIds));
        }
        Ok(())
    }

    /// Names the element in a list, by the kind of key that the list has, as it was sent.
    pub(crate) fn failed(&self, list: FailureList) -> Failed {
        let key =
            if list.names_user_ids() { self.user_id.or(self.email) } else { self.email.or(self.user_id) };
        Failed { list: Some(list), key: key.unwrap_or_default().to_owned() }
    }

    /// Names the element in the one of two lists that fits its name.
    pub(crate) fn failed_by_kind(&self, emails: FailureList, user_ids: FailureList) -> Failed {
        self.failed(if self.email.is_some() { emails } else { user_ids })
    }
}

fn text<'a>(element: &'a Value, name: &str) -> Option<&'a str> {
    element.get(name).and_then(Value::as_str)
}

/// Returns the form under which an e-mail address is known.
pub(crate) fn normal(email: &str) -> String {
    email.trim().to_lowercase()
}

/// Returns whether text has the form of an e-mail address, by a rule far simpler than Iterable's.
pub(crate) fn is_email(text: &str) -> bool {
    let well_spaced = !text.contains(char::is_whitespace);
    well_spaced
        && matches!(text.split_once('@'), Some((name, host)) if !name.is_empty() && !host.is_empty() && !host.contains('@'))
}

/// Returns whether text is printable ASCII, neither empty nor longer than 256 bytes, without a space at its end.
fn is_user_id(text: &str) -> bool {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    printable && (1..=MAX_USER_ID_BYTES).contains(&text.len()) && !text.ends_with(' ')
}

/// Iterable's description says "too long" without a number; this bound is the stand-in's.
const MAX_USER_ID_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(element: &Value) -> Option<(String, String)> {
        Identity::of(element).check().unwrap_err().named()
    }

    #[test]
    fn malformed_names_are_named() {
        let id = "x".repeat(257);
        for (element, name, key) in [
            (json!({"email": "invalid@"}), "invalidEmails", "invalid@"),
            (json!({"email": "a b@c"}), "invalidEmails", "a b@c"),
            (json!({"email": ""}), "invalidEmails", ""),
            (json!({"userId": ""}), "invalidUserIds", ""),
            (json!({"userId": "ä"}), "invalidUserIds", "ä"),
            (json!({"userId": "x "}), "invalidUserIds", "x "),
            (json!({"userId": id}), "invalidUserIds", id.as_str()),
        ] {
            assert_eq!(list(&element), Some((name.to_owned(), key.to_owned())), "{element}");
        }
    }

    #[test]
    fn an_element_without_a_name_fails_without_a_name() {
        assert_eq!(list(&json!({"e-mail": "a@example.com"})), None);
    }

    #[test]
    fn an_empty_name_beside_another_is_absent() {
        let element = json!({"email": "a@example.com", "userId": ""});
        let who = Identity::of(&element);
        assert_eq!((who.email, who.user_id), (Some("a@example.com"), None));
        assert!(who.check().is_ok());
    }

    #[test]
    fn the_current_address_takes_precedence_over_the_current_id() {
        let element = json!({"currentEmail": "a@example.com", "currentUserId": "u"});
        assert_eq!(Identity::current(&element).user_id, None);
    }
}
