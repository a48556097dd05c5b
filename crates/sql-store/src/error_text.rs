/// The most bytes of an error that are kept.
const MAX_BYTES: usize = 4096;

/// Makes an error a text that every database takes: without NUL, at most 4 KiB, cut between characters.
#[must_use]
pub fn error_text(error: &str) -> String {
    let mut text = error.replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(MAX_BYTES));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_cut_between_characters_and_holds_no_nul() {
        assert_eq!(error_text("a\0b"), "a\u{fffd}b");
        let long = "ü".repeat(4096);
        assert_eq!(error_text(&format!("x{long}")).len(), 4095);
        assert_eq!(error_text(&long).len(), 4096);
    }
}
