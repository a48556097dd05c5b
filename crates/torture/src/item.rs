use relaykit_pipeline_traits::Rng;
use serde::{Deserialize, Serialize};

use crate::history::Id;

/// What is pushed: all of it follows from its id and key, so that a changed byte shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) id: Id,
    pub(crate) key: u64,
    text: String,
}

impl Item {
    pub(crate) fn new(id: Id, key: u64) -> Self {
        let mut rng = Rng::seeded(id.wrapping_mul(31) ^ key);
        // Now and then one that fills pages of its own.
        let length = if rng.below(20) == 0 { rng.below(6_000) } else { rng.below(120) };
        let letter = |rng: &mut Rng| char::from(b'a' + u8::try_from(rng.below(26)).unwrap_or(0));
        Self { id, key, text: (0..length).map(|_| letter(&mut rng)).collect() }
    }

    pub(crate) fn is_whole(&self) -> bool {
        *self == Self::new(self.id, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_with_another_text_is_not_whole() {
        let mut item =
            (1..100).map(|id| Item::new(id, 1)).find(|item| !item.text.is_empty()).expect("one has text");
        assert!(item.is_whole());
        item.text.pop();
        assert!(!item.is_whole());
    }
}
