use crate::sabotage::Plant;

/// Bugs that the outbox could have.
pub(super) const PLANTS: [Plant; 5] = [
    Plant {
        bug: "goes_on_behind_a_failed_one",
        test: "kill-sqlite",
        rounds: 1,
        shows: |counts| counts.reordered,
    },
    Plant { bug: "forgets_what_failed", test: "kill-sqlite", rounds: 1, shows: |counts| counts.lost },
    Plant {
        bug: "passes_over_late_commits",
        test: "kill-postgres",
        rounds: 4,
        shows: |counts| counts.reordered + counts.stuck,
    },
    Plant { bug: "forgets_the_second_half", test: "senders-sqlite", rounds: 1, shows: |counts| counts.stuck },
    Plant { bug: "notes_nothing", test: "poison", rounds: 1, shows: |counts| counts.stuck },
];
