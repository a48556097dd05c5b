/// Writes the payload of a message, which begins with its number, of so many bytes, but 16 at the least.
pub(crate) fn payload(number: u64, bytes: usize) -> String {
    format!("{number:0>16}{:x<width$}", "", width = bytes.saturating_sub(16))
}
