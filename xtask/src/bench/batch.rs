use super::line::Better::{Higher, Lower};
use super::line::{Case, Line, Probe};

const PEER: Probe = Probe::Peer("batch-aint-one");

/// How many tasks add items at the same time.
const PRODUCERS: [u32; 2] = [1, 64];

/// Lists what the batcher is measured by.
pub(super) fn lines() -> Vec<Line> {
    let mut lines: Vec<_> = PRODUCERS.into_iter().flat_map(throughput).collect();
    lines.extend([
        // 2·log₂(500) + 2 = 19.9 calls find one poison item among 500.
        Line::at_most("isolate-poison", ours("isolate-poison"), 19.0),
        allocations("send"),
        allocations("answered"),
    ]);
    lines
}

fn throughput(producers: u32) -> [Line; 7] {
    let rate = |name: &str, case: &str, reference: Case, target| {
        Line::ratio(
            format!("{name}/{producers}"),
            ours(&format!("{case}/{producers}")),
            reference,
            Higher,
            target,
        )
    };
    let bare = |case: &str| ours(&format!("{case}/{producers}"));
    let peer = |case: &str| PEER.case(format!("{case}/{producers}"));
    [
        rate("send", "processor-send", bare("channel"), 0.40),
        rate("add-dropped", "processor-add-dropped", bare("channel"), 0.40),
        rate("answered", "processor-answered", bare("channel-oneshot"), 0.60),
        rate("answered-vs-batch-aint-one", "processor-answered", peer("answered"), 1.0),
        rate("in-flight", "processor-in-flight", bare("channel-oneshot-in-flight"), 0.60),
        rate("in-flight-vs-batch-aint-one", "processor-in-flight", peer("in-flight"), 1.0),
        rate("costed-vs-batch-aint-one", "processor-costed", peer("costed"), 1.0),
    ]
}

/// Counts allocations an item beside those of a bare channel with a oneshot answer: one an item. A batch adds its
/// list of verdicts, one in a hundred items.
fn allocations(case: &str) -> Line {
    let name = format!("allocations-{case}");
    Line::ratio(name.clone(), ours(&name), ours("allocations-channel-oneshot"), Lower, 1.05)
}

fn ours(case: &str) -> Case {
    Probe::Ours.case(case)
}
