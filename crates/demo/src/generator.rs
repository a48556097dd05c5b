use relaykit_pipeline_traits::Rng;
use serde_json::json;

/// Makes up webhooks, the same ones from the same seed.
pub(crate) struct Generator {
    rng: Rng,
    left: u64,
    number: u64,
}

const KINDS: [(&str, &str); 6] = [
    ("issues", "opened"),
    ("issues", "closed"),
    ("pull_request", "opened"),
    ("pull_request_review", "submitted"),
    ("release", "published"),
    ("star", "created"),
];

impl Generator {
    pub(crate) fn new(seed: u64, events: u64) -> Self {
        Self { rng: Rng::seeded(seed), left: events, number: 0 }
    }
}

impl Iterator for Generator {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        self.left = self.left.checked_sub(1)?;
        self.number += 1;
        let (event, action) = KINDS[usize::try_from(self.rng.below(KINDS.len() as u64)).unwrap_or(0)];
        // A few users do most of it, as everywhere.
        let spread = self.rng.below(1_000) + 1;
        let user = self.rng.below(spread);
        let line = json!({
            "event": event,
            "payload": {
                "action": action,
                "number": self.number,
                "sender": {"login": format!("user-{user}"), "id": user},
                "repository": {"name": format!("repo-{}", self.rng.below(50)), "private": self.rng.chance(0.3)},
            },
        });
        Some(line.to_string().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_the_same_events() {
        let events = |seed| Generator::new(seed, 50).collect::<Vec<_>>();
        assert_eq!(events(1), events(1));
        assert_ne!(events(1), events(2));
        assert_eq!(events(1).len(), 50);
    }
}
