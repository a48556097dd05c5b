use std::fmt;

use relaykit_pipeline_traits::InvalidSetting;
use reqwest::header::HeaderValue;

/// The key of a project's API. Never shown: `Debug` prints `ApiKey(***)`.
#[derive(Clone)]
pub struct ApiKey(HeaderValue);

impl ApiKey {
    /// The longest key that is accepted, in bytes.
    pub const MAX_BYTES: usize = 512;

    /// Takes a key.
    ///
    /// # Errors
    ///
    /// The key is empty, longer than [`MAX_BYTES`](Self::MAX_BYTES), or holds something other than visible ASCII,
    /// such as the line break at the end of a file. The error does not show it.
    pub fn new(key: impl AsRef<str>) -> Result<Self, InvalidSetting> {
        let key = key.as_ref();
        let wrong = |bound: String| InvalidSetting::new("api_key", "(hidden)", bound);
        if key.is_empty() || key.len() > Self::MAX_BYTES {
            return Err(wrong(format!("1 to {} bytes", Self::MAX_BYTES)));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("visible ASCII without spaces or line breaks".to_owned()));
        }
        let mut header = HeaderValue::from_str(key).map_err(|_| wrong("a header's value".to_owned()))?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// Replaces the key in a text that the API sent, should it ever quote it.
    pub(super) fn hide_in(&self, text: &str) -> String {
        match self.0.to_str() {
            Ok(key) => text.replace(key, "***"),
            Err(_) => text.to_owned(),
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_printed() {
        let key = ApiKey::new("s3cret").unwrap();
        assert_eq!(format!("{key:?} {key:#?}"), "ApiKey(***) ApiKey(***)");
        assert!(!format!("{:?}", key.header()).contains("s3cret"));
        assert_eq!(key.hide_in("bad key s3cret."), "bad key ***.");
    }

    #[test]
    fn a_key_that_is_no_header_is_refused_without_showing_it() {
        for wrong in ["", "s3cret\n", "s3 cret", "s3crét", &"s3cret".repeat(100)] {
            let error = ApiKey::new(wrong).unwrap_err();
            assert_eq!(error.field, "api_key");
            assert!(!error.to_string().contains("s3"), "{error}");
        }
    }
}
