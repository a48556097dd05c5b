use std::fmt::Write as _;

use hmac::{Hmac, Mac as _};
use relaykit_inbox::Scope;
use relaykit_pipeline_traits::{Message, Timestamp};
use serde::Deserialize;
use sha2::Sha256;

pub(super) const DELIVERY: &str = "x-github-delivery";
pub(super) const EVENT: &str = "x-github-event";
pub(super) const SIGNATURE: &str = "x-hub-signature-256";

/// The kinds that have handlers. Others are kept until they have one.
pub(super) const KINDS: [&str; 10] = [
    "fork",
    "issue_comment",
    "issues",
    "member",
    "pull_request",
    "pull_request_review",
    "push",
    "release",
    "star",
    "watch",
];

/// A request as it came in.
#[derive(Debug, Clone)]
pub(super) struct Webhook {
    pub(super) delivery: Option<String>,
    pub(super) event: Option<String>,
    pub(super) signature: Option<String>,
    pub(super) body: Vec<u8>,
}

/// Why a request is no webhook. Without anything of its body.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoWebhook {
    #[error("the header {0} is missing")]
    NoHeader(&'static str),
    #[error("the body is no JSON object with a text at sender.login")]
    NoUser,
    #[error("{0}")]
    Invalid(String),
}

/// All that is looked at of a body before it is stored.
#[derive(Deserialize)]
struct Body {
    sender: Sender,
}

#[derive(Deserialize)]
struct Sender {
    login: String,
}

impl Webhook {
    /// Makes the message of it that is stored: its sender's events keep their order.
    pub(super) fn message(&self, scope: &Scope, now: Timestamp) -> Result<Message, NoWebhook> {
        let body: Body = serde_json::from_slice(&self.body).map_err(|_| NoWebhook::NoUser)?;
        self.build(scope, now, Some(body.sender.login))
    }

    /// Makes a message of it that is only good for checking its signature.
    pub(super) fn unread(&self, scope: &Scope, now: Timestamp) -> Result<Message, NoWebhook> {
        self.build(scope, now, None)
    }

    fn build(&self, scope: &Scope, now: Timestamp, user: Option<String>) -> Result<Message, NoWebhook> {
        let header = |value: &Option<String>, name| match value {
            Some(text) if !text.is_empty() => Ok(text.clone()),
            _ => Err(NoWebhook::NoHeader(name)),
        };
        let id = scope.message_id(&header(&self.delivery, DELIVERY)?);
        let builder = Message::builder(id, header(&self.event, EVENT)?, now).payload(self.body.clone());
        let builder = match &self.signature {
            Some(signature) => builder.header(SIGNATURE, signature.clone()),
            None => builder,
        };
        let builder = match user {
            Some(user) => builder.ordering_key(user),
            None => builder,
        };
        builder.build().map_err(|error| NoWebhook::Invalid(error.to_string()))
    }
}

/// Signs bodies as GitHub does.
#[derive(Clone)]
pub(super) struct Signer {
    key: Hmac<Sha256>,
}

impl Signer {
    pub(super) fn new(secret: &[u8]) -> anyhow::Result<Self> {
        let key = Hmac::new_from_slice(secret).map_err(|error| anyhow::format_err!("the secret: {error}"))?;
        Ok(Self { key })
    }

    /// Returns what stands in the header of the signature.
    pub(super) fn sign(&self, body: &[u8]) -> String {
        let mut mac = self.key.clone();
        mac.update(body);
        let mut signature = "sha256=".to_owned();
        for byte in mac.finalize().into_bytes() {
            // Writing to a text never fails.
            let _ = write!(signature, "{byte:02x}");
        }
        signature
    }
}

#[cfg(test)]
mod tests {
    use relaykit_inbox::{HmacSha256, Verify as _};

    use super::*;

    fn webhook() -> Webhook {
        let body = br#"{"action":"opened","sender":{"login":"ada"}}"#.to_vec();
        let signature = Some(Signer::new(b"secret").unwrap().sign(&body));
        let delivery = Some("72d3162e-cc78-11e3-81ab-4c9367dc0958".to_owned());
        Webhook { delivery, event: Some("issues".to_owned()), signature, body }
    }

    fn message(webhook: &Webhook) -> Result<Message, NoWebhook> {
        webhook.message(&Scope::new("github").unwrap(), Timestamp::from_millis(1))
    }

    #[test]
    fn a_webhook_becomes_a_message_in_its_senders_order() {
        let message = message(&webhook()).unwrap();
        assert_eq!(message.id().to_string(), "72d3162e-cc78-11e3-81ab-4c9367dc0958");
        assert_eq!((message.kind(), message.ordering_key().unwrap().as_str()), ("issues", "ada"));
        assert_eq!(*message.payload(), webhook().body);
    }

    #[test]
    fn what_is_signed_is_let_in_and_nothing_else() {
        let check = HmacSha256::github(b"secret").unwrap();
        assert_eq!(check.verify(&message(&webhook()).unwrap()), Ok(()));
        let other = Webhook { body: br#"{"sender":{"login":"eve"}}"#.to_vec(), ..webhook() };
        assert!(check.verify(&message(&other).unwrap()).is_err());
        assert!(check.verify(&message(&Webhook { signature: None, ..webhook() }).unwrap()).is_err());
    }

    #[test]
    fn what_lacks_a_header_or_a_sender_is_no_webhook() {
        let lacks = |webhook: Webhook| message(&webhook).unwrap_err();
        assert_eq!(lacks(Webhook { delivery: None, ..webhook() }), NoWebhook::NoHeader(DELIVERY));
        assert_eq!(lacks(Webhook { event: Some(String::new()), ..webhook() }), NoWebhook::NoHeader(EVENT));
        for body in ["", "{", "[]", "{}", r#"{"sender":{"login":7}}"#] {
            assert_eq!(lacks(Webhook { body: body.into(), ..webhook() }), NoWebhook::NoUser, "{body}");
        }
        let long = format!(r#"{{"sender":{{"login":"{}"}}}}"#, "x".repeat(10_000));
        assert!(matches!(lacks(Webhook { body: long.into(), ..webhook() }), NoWebhook::Invalid(_)));
    }
}
