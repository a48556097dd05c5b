use crate::sabotage::Plant;

/// Bugs that the inbox could have.
pub(super) const PLANTS: [Plant; 3] = [
    Plant { bug: "ends_after_the_commit", test: "kill-sqlite", rounds: 1, shows: |counts| counts.effects },
    Plant { bug: "ends_after_the_commit", test: "kill-postgres", rounds: 1, shows: |counts| counts.effects },
    Plant {
        bug: "leads_to_one_handler_only",
        test: "kill-sqlite",
        rounds: 1,
        shows: |counts| counts.effects,
    },
];
