use std::fmt;

use hmac::{Hmac, Mac as _};
use relaykit_pipeline_traits::{InvalidSetting, Message};
use sha2::Sha256;

use crate::verify::Verify;

/// Checks that a header of the message has the HMAC-SHA256 of its payload, in hexadecimal digits.
///
/// So sign GitHub ([`github`](Self::github)) and many others. The comparison takes as long for a wrong signature as for a right
/// one.
#[derive(Clone)]
pub struct HmacSha256 {
    key: Hmac<Sha256>,
    header: &'static str,
    prefix: &'static str,
}

impl HmacSha256 {
    /// Checks a header whose value is the digits behind a prefix.
    ///
    /// # Errors
    ///
    /// The secret is empty.
    pub fn new(secret: &[u8], header: &'static str, prefix: &'static str) -> Result<Self, InvalidSetting> {
        if secret.is_empty() {
            return Err(InvalidSetting::new("secret", "", "1 byte or more"));
        }
        let key =
            Hmac::new_from_slice(secret).map_err(|_| InvalidSetting::new("secret", "…", "any bytes"))?;
        Ok(Self { key, header, prefix })
    }

    /// Checks the header `x-hub-signature-256`, as GitHub sends it
    /// ([docs](https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries)).
    ///
    /// # Errors
    ///
    /// The secret is empty.
    pub fn github(secret: &[u8]) -> Result<Self, InvalidSetting> {
        Self::new(secret, "x-hub-signature-256", "sha256=")
    }
}

impl Verify for HmacSha256 {
    fn verify(&self, message: &Message) -> Result<(), String> {
        let header = self.header;
        let value = message.headers().get(header).ok_or_else(|| format!("the header {header} is missing"))?;
        let digits = value.strip_prefix(self.prefix).and_then(bytes);
        let digits = digits.ok_or_else(|| format!("the header {header} is no signature"))?;
        let mut mac = self.key.clone();
        mac.update(message.payload());
        mac.verify_slice(&digits).map_err(|_| format!("the signature in {header} is wrong"))
    }
}

/// Reads hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok()
        })
        .collect()
}

impl fmt::Debug for HmacSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HmacSha256").field("header", &self.header).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::{MessageId, Timestamp, uuid::Uuid};

    use super::*;

    fn message(signature: Option<&str>, payload: &str) -> Message {
        let id = MessageId::from_uuid(Uuid::from_u128(7));
        let builder = Message::builder(id, "push", Timestamp::from_millis(1)).payload(payload.to_owned());
        match signature {
            Some(signature) => builder.header("X-Hub-Signature-256", signature),
            None => builder,
        }
        .build()
        .unwrap()
    }

    /// The example of GitHub's documentation.
    const SECRET: &[u8] = b"It's a Secret to Everybody";
    const SIGNED: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn what_github_signs_is_let_in_and_nothing_else() {
        let check = HmacSha256::github(SECRET).unwrap();
        assert_eq!(check.verify(&message(Some(SIGNED), "Hello, World!")), Ok(()));
        let refused = |signature, payload| check.verify(&message(signature, payload)).unwrap_err();
        assert!(refused(Some(SIGNED), "Hello, World?").contains("wrong"));
        assert!(refused(None, "Hello, World!").contains("missing"));
        for bad in ["sha256=", "sha256=75", "757107ea", "sha256=zz", "sha256=757", "sha256=+1+1", "sha1=75"] {
            let said = refused(Some(bad), "Hello, World!");
            assert!(said.contains("wrong") || said.contains("no signature"), "{bad}: {said}");
        }
        assert!(HmacSha256::github(b"").is_err());
        assert!(!format!("{check:?}").contains("Secret"));
    }
}
