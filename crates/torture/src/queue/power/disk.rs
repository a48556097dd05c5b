use relaykit_pipeline_traits::Rng;

use super::trace::{FILES, FileNumber, Step};

/// What the system writes at once, and what a disk does.
const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A disk under a page cache: what was synced is there, and of everything else any part may be.
///
/// Each page is as it was at some moment since the last sync; now and then its sectors are of two moments. The length, too, is
/// that of some moment. Names are made and removed in their order, and a sync of any file brings them to the disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    files: [File; FILES.len()],
    /// A disk that lies: nothing is ever certain.
    ignores_syncs: bool,
}

#[derive(Debug, Clone, Default)]
struct File {
    /// On the disk for certain: its bytes, if it is there.
    synced: Option<Vec<u8>>,
    /// What happened since.
    since: Vec<Change>,
    made: bool,
    removed: bool,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Truncate(usize),
}

impl Disk {
    /// One that says that it synced, and did not.
    pub(super) fn that_lies() -> Self {
        Self { ignores_syncs: true, ..Self::default() }
    }

    pub(super) fn take(&mut self, step: &Step) {
        match step {
            Step::Create(file) => self.create(*file),
            Step::Remove(file) => self.files[*file].removed = true,
            Step::Write { file, at, data } => {
                self.files[*file].since.push(Change::Write { at: *at, data: data.clone() });
            }
            Step::Truncate { file, length } => self.files[*file].since.push(Change::Truncate(*length)),
            Step::Sync(_) | Step::SyncNames if self.ignores_syncs => {}
            Step::Sync(file) => {
                self.sync_names();
                let file = &mut self.files[*file];
                let now = file.at(file.since.len());
                file.since.clear();
                file.synced = Some(now);
            }
            Step::SyncNames => self.sync_names(),
            Step::Told(_) => {}
        }
    }

    fn create(&mut self, file: FileNumber) {
        let file = &mut self.files[file];
        if file.removed {
            // The old one is gone before a new one of its name is made.
            *file = File::default();
        }
        file.made |= file.synced.is_none();
    }

    fn sync_names(&mut self) {
        for file in &mut self.files {
            if file.removed {
                *file = File::default();
            }
            if file.made {
                file.synced.get_or_insert_default();
                file.made = false;
            }
        }
    }

    /// Cuts the power: what may be on the disk then, for each file that may be there.
    pub(super) fn cut(&self, rng: &mut Rng) -> Vec<(&'static str, Vec<u8>)> {
        let there = |file: &File, rng: &mut Rng| {
            let made = file.synced.is_some() || (file.made && rng.chance(0.5));
            made && !(file.removed && rng.chance(0.5))
        };
        let mut left = Vec::new();
        for (suffix, file) in FILES.iter().zip(&self.files) {
            if there(file, rng) {
                left.push((*suffix, file.cut(rng)));
            }
        }
        left
    }
}

impl File {
    /// Its bytes after so many changes.
    fn at(&self, changes: usize) -> Vec<u8> {
        let mut bytes = self.synced.clone().unwrap_or_default();
        for change in &self.since[..changes] {
            match change {
                Change::Truncate(length) => bytes.resize(*length, 0),
                Change::Write { at, data } => {
                    let end = at + data.len();
                    if bytes.len() < end {
                        bytes.resize(end, 0);
                    }
                    bytes[*at..end].copy_from_slice(data);
                }
            }
        }
        bytes
    }

    fn cut(&self, rng: &mut Rng) -> Vec<u8> {
        let moments = self.since.len() as u64 + 1;
        if moments == 1 {
            return self.at(0);
        }
        // Four moments are enough to mix from; the last one, and none, are always among them.
        let mut choose = || usize::try_from(rng.below(moments)).unwrap_or(0);
        let chosen = [0, choose(), choose(), self.since.len()];
        let images = chosen.map(|changes| self.at(changes));
        let mut pick = || usize::try_from(rng.below(4)).unwrap_or(0);
        let length = images[pick()].len();
        let mut bytes = vec![0; length];
        for start in (0..length).step_by(PAGE) {
            let (one, other) = (pick(), pick());
            let torn = pick() == 0;
            for sector in (start..length.min(start + PAGE)).step_by(SECTOR) {
                let end = length.min(sector + SECTOR);
                let from = if torn && pick() % 2 == 0 { other } else { one };
                let image = &images[from];
                if let Some(written) = image.get(sector..end.min(image.len())) {
                    bytes[sector..sector + written.len()].copy_from_slice(written);
                }
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(at: usize, byte: u8) -> Step {
        Step::Write { file: 0, at, data: vec![byte; PAGE] }
    }

    #[test]
    fn what_was_synced_stays_and_what_was_not_may_be_there_in_any_part() {
        let mut disk = Disk::default();
        for step in [Step::Create(0), write(0, 1), Step::Sync(0), write(0, 2), write(PAGE, 2)] {
            disk.take(&step);
        }
        let mut rng = Rng::seeded(1);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1_000 {
            let left = disk.cut(&mut rng);
            let [("", bytes)] = left.as_slice() else { panic!("one file, for certain") };
            assert!(bytes.len() >= PAGE && bytes[..PAGE].iter().all(|byte| [1, 2].contains(byte)));
            let second = bytes.get(PAGE).copied();
            seen.insert((bytes[0], bytes[PAGE - 1], second));
        }
        for state in
            [(1, 1, None), (2, 2, Some(2)), (1, 1, Some(2)), (2, 2, None), (1, 2, None), (1, 1, Some(0))]
        {
            assert!(seen.contains(&state), "{state:?} is among {seen:?}");
        }
    }

    #[test]
    fn a_name_is_certain_once_something_was_synced() {
        let mut disk = Disk::default();
        disk.take(&Step::Create(1));
        let mut rng = Rng::seeded(1);
        let there = |disk: &Disk, rng: &mut Rng| (0..100).filter(|_| !disk.cut(rng).is_empty()).count();
        assert!((1..100).contains(&there(&disk, &mut rng)));
        disk.take(&Step::Sync(1));
        assert_eq!(there(&disk, &mut rng), 100);
        disk.take(&Step::Remove(1));
        assert!((1..100).contains(&there(&disk, &mut rng)));
        disk.take(&Step::SyncNames);
        assert_eq!(there(&disk, &mut rng), 0);
    }

    #[test]
    fn a_disk_that_lies_may_lose_what_was_synced() {
        let mut disk = Disk::that_lies();
        for step in [Step::Create(0), write(0, 1), Step::Sync(0)] {
            disk.take(&step);
        }
        let mut rng = Rng::seeded(1);
        assert!((0..100).any(|_| disk.cut(&mut rng).is_empty()));
    }
}
