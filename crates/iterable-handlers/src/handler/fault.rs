use std::sync::Arc;

use relaykit_pipeline_traits::{BatchOutcome, Classify, Verdict};

use super::DeliveryError;
use super::deliver::Outcome;
use crate::wire::IterableCode;
use crate::{ApiError, MismatchedFields, NotSent, Reason};

/// What the API writes into the message of a reply when it does not know a list.
const INVALID_LIST: &[u8] = b"error.lists.invalidListId";

/// In what company a call failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// How many messages the request held.
    pub(super) messages: usize,
    /// Whether those were the whole batch, so that `attempt` speaks of them.
    pub(super) whole_batch: bool,
    /// The attempt of the batch's most tried message.
    pub(super) attempt: u32,
    /// The list that the call was about.
    pub(super) list_id: Option<i64>,
}

/// Decides what becomes of the messages of a call that failed as a whole.
pub(super) fn judge(error: ApiError, circumstances: &Circumstances) -> Outcome {
    let fault = fault(&error, circumstances.list_id);
    let source = Arc::new(error);
    match fault {
        Fault::Key => BatchOutcome::Refused(DeliveryError::Api { source }),
        Fault::Passing => {
            BatchOutcome::RetryBatch { after: source.retry_after(), error: DeliveryError::Api { source } }
        }
        Fault::Message(reason) => blame(DeliveryError::Refused { reason, source }, circumstances),
        Fault::FieldTypes => {
            let fields = MismatchedFields::from_response_body(source.body()).unwrap_or_default();
            let error = DeliveryError::FieldTypes { fields: Arc::new(fields), source };
            blame(error, circumstances)
        }
        Fault::List(list_id) => missing_list(list_id, source, circumstances),
    }
}

/// What a failed call says.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing we send is taken.
    Key,
    /// The same request may be taken later.
    Passing,
    /// One of the messages is at fault, or they are too many.
    Message(Reason),
    /// A data field of one of the messages has the wrong type.
    FieldTypes,
    /// The project does not know the list.
    List(i64),
}

fn fault(error: &ApiError, list_id: Option<i64>) -> Fault {
    match error {
        ApiError::Halted { .. } => Fault::Key,
        ApiError::NotSent { source: NotSent::TooLarge { .. }, .. } => Fault::Message(Reason::TooLarge),
        ApiError::NotSent { .. } => Fault::Message(Reason::Refused { status: 0 }),
        ApiError::Status { status, code, .. } => {
            fault_of_status(*status, code.as_ref(), error.body(), list_id)
        }
        _ => Fault::Passing,
    }
}

fn fault_of_status(status: u16, code: Option<&IterableCode>, body: &[u8], list_id: Option<i64>) -> Fault {
    // These two are told by what the reply says: the API sends them with 400 and with 500.
    if code == Some(&IterableCode::RequestFieldsTypesMismatched) {
        return Fault::FieldTypes;
    }
    if let Some(list_id) = list_id
        && body.windows(INVALID_LIST.len()).any(|window| window == INVALID_LIST)
    {
        return Fault::List(list_id);
    }
    match (status, code) {
        (500.., Some(IterableCode::NoUserWithIdExists)) => Fault::Message(Reason::NotFoundUserIds),
        (408 | 429 | 500.., _) => Fault::Passing,
        // A redirect says that the base URL is wrong, which no message can help.
        (401 | 403 | 300..=399, _) => Fault::Key,
        _ => Fault::Message(reason(status, code)),
    }
}

fn reason(status: u16, code: Option<&IterableCode>) -> Reason {
    use IterableCode as Code;
    match code {
        Some(Code::BatchTooLarge) => Reason::TooLarge,
        Some(Code::BadJsonBody) => Reason::BadJson,
        Some(Code::UniqueFieldsLimitExceeded) => Reason::TooManyFields,
        Some(Code::EmailAlreadyExists) => Reason::ConflictEmails,
        Some(Code::UserIdAlreadyExists) => Reason::ConflictUserIds,
        Some(Code::ForgottenUserError) => Reason::Forgotten,
        Some(Code::InvalidEmailAddressError) => Reason::InvalidEmails,
        Some(Code::InvalidUserIdError) => Reason::InvalidUserIds,
        Some(Code::UnknownEmailError) => Reason::NotFoundEmails,
        Some(Code::UnknownUserIdError | Code::NoUserWithIdExists) => Reason::NotFoundUserIds,
        _ => match status {
            409 => Reason::Conflict,
            413 => Reason::TooLarge,
            _ => Reason::Refused { status },
        },
    }
}

/// Finds the message at fault: the only one, or one that smaller requests will show.
fn blame(error: DeliveryError, circumstances: &Circumstances) -> Outcome {
    if circumstances.messages == 1 {
        BatchOutcome::Each(vec![Verdict::Dead(error)])
    } else {
        BatchOutcome::Split(error)
    }
}

/// Gives a list that was made a moment ago a second chance, since the API may not know it yet.
fn missing_list(list_id: i64, source: Arc<ApiError>, circumstances: &Circumstances) -> Outcome {
    if circumstances.attempt <= 1 {
        return BatchOutcome::RetryBatch {
            after: None,
            error: DeliveryError::UnknownList { list_id, source },
        };
    }
    let error = DeliveryError::Refused { reason: Reason::InvalidListId, source };
    if circumstances.whole_batch {
        // Some message for this list waited before, so the list is not new.
        let dead = |_| Verdict::Dead(error.clone());
        BatchOutcome::Each((0..circumstances.messages).map(dead).collect())
    } else {
        // The attempt may be that of a message for another list.
        BatchOutcome::Split(error)
    }
}
