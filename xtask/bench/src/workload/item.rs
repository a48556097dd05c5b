/// What is moved: 96 bytes, about a small JSON event.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    #[allow(dead_code, reason = "not every side looks at it")]
    pub(crate) number: u64,
    #[expect(dead_code, reason = "it is moved, not read")]
    payload: [u8; 88],
}

impl Item {
    /// Makes an item that tells by its number which it is.
    pub(crate) const fn new(number: u64) -> Self {
        Self { number, payload: [b'x'; 88] }
    }
}
