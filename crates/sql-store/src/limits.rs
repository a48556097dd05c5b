use relaykit_pipeline_traits::{InvalidSetting, Message};

/// The largest payload by default: 256 KiB.
pub const DEFAULT_MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// The largest payload that can be allowed: 16 MiB.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

/// The most messages that one call adds.
pub const MAX_ADDED: usize = 10_000;

/// How large a message may be, beside what [`Message`] itself bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    payload: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { payload: DEFAULT_MAX_PAYLOAD_BYTES }
    }
}

impl Limits {
    /// Sets the largest payload in bytes. Default: 256 KiB. At most 16 MiB.
    ///
    /// # Errors
    ///
    /// It is more than that.
    pub fn payload(mut self, bytes: usize) -> Result<Self, InvalidSetting> {
        if bytes > MAX_PAYLOAD_BYTES {
            return Err(InvalidSetting::new("payload", bytes, "at most 16777216 bytes"));
        }
        self.payload = bytes;
        Ok(self)
    }

    /// Checks a message before anything is done with it.
    ///
    /// # Errors
    ///
    /// The payload is too large.
    pub fn check(self, message: &Message) -> Result<(), TooLarge> {
        let bytes = message.payload().len();
        if bytes > self.payload {
            return Err(TooLarge { field: "payload", bytes, max: self.payload });
        }
        Ok(())
    }

    /// Checks all messages of a call before anything is done with one.
    ///
    /// # Errors
    ///
    /// A payload is too large, or there are too many.
    pub fn check_all(self, messages: &[Message]) -> Result<(), TooLarge> {
        if messages.len() > MAX_ADDED {
            return Err(TooLarge { field: "messages", bytes: messages.len(), max: MAX_ADDED });
        }
        messages.iter().try_for_each(|message| self.check(message))
    }
}

/// A message, or a list of them, is larger than allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} has {bytes}, but may have at most {max}")]
pub struct TooLarge {
    /// What is too large: `payload`, counted in bytes, or `messages`.
    pub field: &'static str,
    /// Its size.
    pub bytes: usize,
    /// The largest size.
    pub max: usize,
}
