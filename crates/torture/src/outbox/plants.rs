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
        // Nothing there makes a relay read anew.
        test: "clocks-postgres",
        rounds: 2,
        shows: |counts| counts.reordered + counts.stuck,
    },
    Plant {
        bug: "takes_a_panic_for_an_answer",
        test: "senders-sqlite",
        rounds: 1,
        shows: |counts| counts.lost,
    },
    Plant { bug: "notes_nothing", test: "poison", rounds: 1, shows: |counts| counts.stuck },
];
