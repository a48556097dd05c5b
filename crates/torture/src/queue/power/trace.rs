use std::collections::HashMap;

use crate::history::Event;

/// The files of a queue whose writes are traced.
pub(super) const FILES: [&str; 3] = ["", "-wal", "-journal"];

/// Which of [`FILES`].
pub(super) type FileNumber = usize;

/// What a process did to its disk, or told its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Create(FileNumber),
    Remove(FileNumber),
    Write {
        file: FileNumber,
        at: usize,
        data: Vec<u8>,
    },
    Truncate {
        file: FileNumber,
        length: usize,
    },
    /// The file, with its name, is on the disk.
    Sync(FileNumber),
    /// All names are on the disk.
    SyncNames,
    Told(Vec<Event>),
}

/// Reads what strace wrote with `-f -y -xx`, for the queue in the file of this path.
pub(super) fn parse(log: &str, path: &str) -> Vec<Step> {
    let mut begun: HashMap<&str, String> = HashMap::new();
    let mut steps = Vec::new();
    for line in log.lines() {
        let Some((process, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let call = if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
            // What is told may be read before the call returns; everything else counts when it has.
            if !first.starts_with("write(") {
                begun.insert(process, first.to_owned());
                continue;
            }
            format!("{first}) = 0")
        } else if let Some((_, last)) = rest.split_once(" resumed>") {
            let Some(first) = begun.remove(process) else { continue };
            format!("{first}{last}")
        } else {
            rest.to_owned()
        };
        steps.extend(step(&call, path));
    }
    steps
}

/// Reads one call. A failed one did nothing.
fn step(call: &str, path: &str) -> Option<Step> {
    let (arguments, result) = call.rsplit_once(" = ")?;
    if result.starts_with('-') {
        return None;
    }
    // Results stand in a column of their own.
    let (name, arguments) = arguments.trim_end().split_once('(')?;
    let number = |path_of: &str| FILES.iter().position(|suffix| path_of == format!("{path}{suffix}"));
    let on =
        || arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| text(path));
    let quoted = || arguments.split_once('"').and_then(|(_, rest)| rest.split_once('"'));
    match name {
        "openat" => {
            let (opened, flags) = quoted()?;
            let file = number(&text(opened))?;
            flags.contains("O_CREAT").then_some(Step::Create(file))
        }
        "unlink" => Some(Step::Remove(number(&text(quoted()?.0))?)),
        "pwrite64" => {
            let (data, rest) = quoted()?;
            let at = rest.trim_end_matches(')').rsplit_once(", ")?.1.parse().ok()?;
            Some(Step::Write { file: number(&on()?)?, at, data: bytes(data) })
        }
        "ftruncate" => {
            let length = arguments.trim_end_matches(')').rsplit_once(", ")?.1.parse().ok()?;
            Some(Step::Truncate { file: number(&on()?)?, length })
        }
        "fsync" | "fdatasync" => {
            let synced = on()?;
            let directory =
                std::path::Path::new(path).parent().is_some_and(|parent| parent.to_string_lossy() == synced);
            if directory { Some(Step::SyncNames) } else { number(&synced).map(Step::Sync) }
        }
        "write" if arguments.starts_with("1<") => {
            serde_json::from_slice(&bytes(quoted()?.0)).ok().map(Step::Told)
        }
        _ => None,
    }
}

/// Reads `\x71\x2e`.
fn bytes(hex: &str) -> Vec<u8> {
    hex.split("\\x").skip(1).filter_map(|pair| u8::from_str_radix(pair.get(..2)?, 16).ok()).collect()
}

fn text(hex: &str) -> String {
    String::from_utf8_lossy(&bytes(hex)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        let digits: Vec<_> = text.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
        digits.concat()
    }

    #[test]
    fn calls_are_read_also_when_another_thread_comes_between() {
        let (db, wal, dir) = (hex("/d/q.db"), hex("/d/q.db-wal"), hex("/d"));
        let told = hex("[{\"event\":\"acknowledged\",\"id\":7}]\n");
        let log = format!(
            "11 openat(AT_FDCWD<{dir}>, \"{wal}\", O_RDWR|O_CREAT, 0600) = 9<{wal}>\n\
             11 pwrite64(9<{wal}>, \"\\x61\\x62\", 2, 40 <unfinished ...>\n\
             12 write(1<{dir}>, \"{told}\", 34 <unfinished ...>\n\
             11 <... pwrite64 resumed>)      = 2\n\
             12 <... write resumed>) = 34\n\
             11 pwrite64(9<{wal}>, \"\\x61\", 1, 50) = -1 EIO (Input/output error) (INJECTED)\n\
             11 fdatasync(9<{wal}>) = 0\n\
             11 ftruncate(3<{db}>, 4096) = 0\n\
             11 fsync(4<{dir}>) = 0\n\
             11 unlink(\"{wal}\") = 0\n\
             11 +++ exited with 0 +++\n"
        );
        let expected = [
            Step::Create(1),
            Step::Told(vec![Event::Acknowledged { id: 7 }]),
            Step::Write { file: 1, at: 40, data: b"ab".to_vec() },
            Step::Sync(1),
            Step::Truncate { file: 0, length: 4096 },
            Step::SyncNames,
            Step::Remove(1),
        ];
        assert_eq!(parse(&log, "/d/q.db"), expected);
    }
}
