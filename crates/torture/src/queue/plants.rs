use crate::sabotage::Plant;

/// Bugs that the queue could have.
pub(super) const PLANTS: [Plant; 7] = [
    Plant { bug: "ack_before_commit", test: "kill", rounds: 12, shows: |counts| counts.lost },
    Plant { bug: "flush_forgets_the_tail", test: "kill", rounds: 12, shows: |counts| counts.lost },
    Plant { bug: "removes_before_handling", test: "kill", rounds: 12, shows: |counts| counts.lost },
    Plant { bug: "overtakes_what_waits", test: "shutdown", rounds: 12, shows: |counts| counts.reordered },
    // Every fourth file was left by a crash, and has all in its log.
    Plant { bug: "drops_what_it_cannot_decode", test: "flips", rounds: 2, shows: |counts| counts.lost },
    Plant { bug: "counts_no_death", test: "poison", rounds: 2, shows: |counts| counts.stuck },
    Plant { bug: "syncs_nothing", test: "power", rounds: 1, shows: |counts| counts.lost },
];
