use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::counts::Counts;
use super::failure_list::FailureList;

/// What a test told the stand-in to refuse.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) rejected_users: BTreeMap<String, FailureList>,
    pub(crate) rejected_lists: BTreeSet<i64>,
    pub(crate) disallowed_events: BTreeSet<String>,
    pub(crate) expected_types: BTreeMap<String, String>,
    pub(crate) bad_elements: Vec<String>,
    pub(crate) max_elements: BTreeMap<String, usize>,
    pub(crate) counts: Counts,
    pub(crate) lowercase_failed_keys: bool,
}

impl Rules {
    /// Returns the index of the first element whose JSON text contains a refused piece of text.
    pub(crate) fn bad_element(&self, elements: &[Value]) -> Option<usize> {
        if self.bad_elements.is_empty() {
            return None;
        }
        elements.iter().position(|element| {
            let text = element.to_string();
            self.bad_elements.iter().any(|needle| text.contains(needle))
        })
    }

    /// Returns the most elements that a path takes, if fewer than `count`.
    pub(crate) fn exceeded(&self, pattern: &str, count: usize) -> Option<usize> {
        self.max_elements.get(pattern).copied().filter(|max| count > *max)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_element_with_the_text_is_found() {
        let rules = Rules { bad_elements: vec!["poison".to_owned()], ..Rules::default() };
        let elements = [json!({"a": 1}), json!({"a": {"b": "a poisonous thing"}})];
        assert_eq!(rules.bad_element(&elements), Some(1));
        assert_eq!(rules.bad_element(&elements[..1]), None);
    }

    #[test]
    fn a_path_takes_as_many_elements_as_said() {
        let rules = Rules { max_elements: BTreeMap::from([("/a".to_owned(), 2)]), ..Rules::default() };
        assert_eq!(rules.exceeded("/a", 2), None);
        assert_eq!(rules.exceeded("/a", 3), Some(2));
        assert_eq!(rules.exceeded("/b", 3), None);
    }
}
