/// How many keys messages have.
pub(crate) const KEYS: u64 = 1_000;

/// Writes the payload of a message, which tells its number: 100 bytes.
pub(crate) fn payload(number: u64) -> String {
    format!("{number:016}{:x<84}", "")
}

/// Reads the number of a message from its payload.
pub(crate) fn number(payload: &[u8]) -> u64 {
    let digits = payload.iter().take(16);
    digits.fold(0, |number, digit| number * 10 + u64::from(digit.wrapping_sub(b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_a_hundred_bytes_and_tells_its_number() {
        for n in [0, 7, 99_999, 123_456_789] {
            let payload = payload(n);
            assert_eq!((payload.len(), number(payload.as_bytes())), (100, n));
        }
    }
}
