use relaykit_pipeline_traits::Message;

/// Looks whether a message is from whom it says, before anything of it is stored.
pub trait Verify: Send + Sync {
    /// Checks a message.
    ///
    /// # Errors
    ///
    /// Why it is refused, without anything secret: it is shown to whoever sent it.
    fn verify(&self, message: &Message) -> Result<(), String>;
}

impl<F: Fn(&Message) -> Result<(), String> + Send + Sync> Verify for F {
    fn verify(&self, message: &Message) -> Result<(), String> {
        self(message)
    }
}
