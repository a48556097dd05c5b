use std::sync::Arc;

/// What the API said of the request that delivered a message. The messages of one request share it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Delivered {
    /// Fields that were added to the project.
    pub created_fields: Arc<[String]>,
    /// Fields that were dropped, with their data, since the project does not know them.
    pub filtered_out_fields: Arc<[String]>,
}
