//! Lists, page by page, and the selectors that narrow them.

use serde_json::Value;

use crate::client::{Call, JSON, Session};
use crate::failure::Failure;
use crate::kind::Kind;

/// How many objects are asked for at once, as kubectl does.
const PAGE: &str = "500";

/// Flags that say which objects of a kind are meant.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SelectArgs {
    /// Label selector, such as app=web,tier!=db.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Field selector, such as status.phase=Running.
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) field_selector: Option<String>,
}

impl SelectArgs {
    /// Whether anything was selected.
    pub(crate) fn is_empty(&self) -> bool {
        self.selector.is_none() && self.field_selector.is_none()
    }

    /// The call with the selectors.
    pub(crate) fn narrow(&self, call: Call) -> Call {
        call.with_some("labelSelector", self.selector.clone()).with_some("fieldSelector", self.field_selector.clone())
    }
}

/// Reads a whole list: `items` or `rows` of all pages are put together in the first.
pub(crate) async fn whole(session: &Session, call: Call) -> Result<Value, Failure> {
    let mut list = session.get(call.clone().with("limit", PAGE)).await?;
    loop {
        let token = list.pointer("/metadata/continue").and_then(Value::as_str).filter(|token| !token.is_empty());
        let Some(token) = token.map(str::to_owned) else { return Ok(list) };
        let mut page = session.get(call.clone().with("limit", PAGE).with("continue", token)).await?;
        for key in ["items", "rows"] {
            if let (Some(Value::Array(all)), Some(Value::Array(more))) = (list.get_mut(key), page.get_mut(key)) {
                all.append(more);
            }
        }
        list["metadata"] = page["metadata"].take();
    }
}

/// The objects of a kind, each with the kind and version that lists leave out.
pub(crate) async fn objects(
    session: &Session,
    kind: &Kind,
    namespace: Option<&str>,
    select: &SelectArgs,
) -> Result<Vec<Value>, Failure> {
    let call = select.narrow(Call::to(kind.collection(namespace)).accept(JSON));
    let mut list = whole(session, call).await?;
    Ok(take_items(kind, &mut list))
}

/// Takes the objects out of a list and names their kind.
pub(crate) fn take_items(kind: &Kind, list: &mut Value) -> Vec<Value> {
    let Some(Value::Array(items)) = list.get_mut("items").map(Value::take) else { return Vec::new() };
    let named = items.into_iter().map(|mut item| {
        if let Some(object) = item.as_object_mut() {
            object.insert("apiVersion".into(), Value::String(kind.api_version()));
            object.insert("kind".into(), Value::String(kind.kind.clone()));
        }
        item
    });
    named.collect()
}
