use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::generator::Generator;

/// The longest line that is read: 8 MiB, twice what a request may have. A longer one is skipped to its end.
pub(crate) const MAX_LINE_BYTES: usize = 8 * 1024 * 1024;

/// Lines that were read but not yet looked at.
const LINES_AHEAD: usize = 64;

/// One line of input, by its number from 1; `Err` if it is too long.
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) content: Result<Vec<u8>, TooLong>,
}

/// A line of more than [`MAX_LINE_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Where events come from.
pub(crate) enum Source {
    Reader(Box<dyn BufRead + Send>),
    Generator(Generator),
}

impl Source {
    /// Opens a file, or standard input for `-`.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Reader(Box::new(BufReader::new(io::stdin()))));
        }
        let file = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
        Ok(Self::Reader(Box::new(BufReader::new(file))))
    }

    /// Reads on a thread of its own, a few lines ahead, until the end, an error, or nobody takes lines any more.
    pub(crate) fn read(self) -> mpsc::Receiver<io::Result<Line>> {
        let (lines, receiver) = mpsc::channel(LINES_AHEAD);
        std::thread::spawn(move || match self {
            Self::Reader(mut reader) => {
                for number in 1.. {
                    let line = match read_line(&mut *reader) {
                        Ok(None) => return,
                        Ok(Some(content))
                            if content.as_ref().is_ok_and(|line| line.trim_ascii().is_empty()) =>
                        {
                            continue;
                        }
                        Ok(Some(content)) => Ok(Line { number, content }),
                        Err(error) => Err(error),
                    };
                    let failed = line.is_err();
                    if lines.blocking_send(line).is_err() || failed {
                        return;
                    }
                }
            }
            Self::Generator(generator) => {
                for (number, content) in (1..).zip(generator) {
                    if lines.blocking_send(Ok(Line { number, content: Ok(content) })).is_err() {
                        return;
                    }
                }
            }
        });
        receiver
    }
}

/// Reads up to the next line feed; `None` at the end.
fn read_line(reader: &mut dyn BufRead) -> io::Result<Option<Result<Vec<u8>, TooLong>>> {
    let mut line = Vec::new();
    let limit = MAX_LINE_BYTES as u64 + 1;
    if Read::take(&mut *reader, limit).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.ends_with(b"\n") {
        line.pop();
        return Ok(Some(Ok(line)));
    }
    if line.len() <= MAX_LINE_BYTES {
        return Ok(Some(Ok(line)));
    }
    drop(line);
    reader.skip_until(b'\n')?;
    Ok(Some(Err(TooLong)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_line_feeds_and_at_the_end() {
        let mut input: &[u8] = b"one\n\ntwo";
        let mut next = || read_line(&mut input).unwrap().map(Result::unwrap);
        assert_eq!(next().as_deref(), Some(&b"one"[..]));
        assert_eq!(next().as_deref(), Some(&b""[..]));
        assert_eq!(next().as_deref(), Some(&b"two"[..]));
        assert_eq!(next(), None);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_the_next_is_read() {
        let mut input = vec![b'x'; MAX_LINE_BYTES];
        input.push(b'\n');
        input.extend(vec![b'y'; MAX_LINE_BYTES + 1]);
        input.extend(b"\nshort");
        let mut input = input.as_slice();
        assert_eq!(read_line(&mut input).unwrap().unwrap().unwrap().len(), MAX_LINE_BYTES);
        assert_eq!(read_line(&mut input).unwrap(), Some(Err(TooLong)));
        assert_eq!(read_line(&mut input).unwrap(), Some(Ok(b"short".to_vec())));
    }
}
