use crate::error::NotSent;

/// Checks that a request names its user.
pub(crate) fn check_identity(email: Option<&str>, user_id: Option<&str>) -> Result<(), NotSent> {
    check_identity_named(("email", email), ("userId", user_id))
}

/// Checks that a request names its user in the fields given.
pub(crate) fn check_identity_named(
    email: (&'static str, Option<&str>),
    user_id: (&'static str, Option<&str>),
) -> Result<(), NotSent> {
    for (field, id) in [email, user_id] {
        if id == Some("") {
            return Err(NotSent::Empty { field });
        }
    }
    if email.1.is_none() && user_id.1.is_none() {
        return Err(NotSent::NoIdentity { email: email.0, user_id: user_id.0 });
    }
    Ok(())
}
