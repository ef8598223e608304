//! What an update leaves on the controller, so that another command can go on or back: the template
//! before it. In one annotation, written together with the template.
//!
//! Invariant: `previous` is the last template that all pods had, never one that was given up on the way.

use coracle_api::{core::PodTemplateSpec, objects::replacement::template_hash};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::json::text;

/// On a replication controller: a [`Record`] as JSON.
pub(super) const RECORD: &str = "io.coracle/rolling-update";
/// On a template: differs from the time before, which makes it another template.
const RESTARTED_AT: &str = "io.coracle/restarted-at";
const TEMPLATE: &str = "/spec/template";
const IMAGE: &str = "/spec/template/spec/containers/0/image";

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Record {
    /// What a rollback goes back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Value>,
    /// The hash of the template that the update made. With another one, somebody else changed it.
    to: String,
    /// The update was rolled back; there is nothing before it.
    rolled_back: bool,
}

impl Record {
    fn of(rc: &Value) -> Option<Self> {
        let text = rc["metadata"]["annotations"][RECORD].as_str()?;
        serde_json::from_str(text).ok().filter(|record: &Self| record.to == hash_of(rc))
    }

    fn write(mut self, rc: &mut Value) {
        self.to = hash_of(rc);
        rc["metadata"]["annotations"][RECORD] = json!(self).to_string().into();
    }
}

/// The hash of the controller's template.
pub(super) fn hash_of(rc: &Value) -> String {
    let template = rc.pointer(TEMPLATE).cloned().unwrap_or_default();
    serde_json::from_value::<PodTemplateSpec>(template).map(|t| template_hash(&t)).unwrap_or_default()
}

/// The image of the first container.
pub(super) fn image_of(rc: &Value) -> &str {
    text(rc, IMAGE)
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Another image for the first container.
    Image(String),
    /// Pods of the template as it is; where all are, new ones all the same.
    Renew,
    /// Back to the template before.
    Rollback,
}

/// Changes the controller's template as asked. `settled` says that all pods are of its template.
/// `false`: it is as asked already, because the same was asked before. Pure; `now` is a time as text.
pub(super) fn begin(rc: &mut Value, change: &Change, settled: bool, now: &str) -> Result<bool, String> {
    let name = text(rc, "/metadata/name").to_owned();
    let record = Record::of(rc);
    let template = rc.pointer(TEMPLATE).cloned().unwrap_or_default();
    match change {
        Change::Image(image) if image_of(rc) == image => return Ok(false),
        Change::Image(image) => {
            let slot = rc.pointer_mut(IMAGE).ok_or_else(|| format!("rc/{name} has no container"))?;
            *slot = image.as_str().into();
            // The last one that all pods had: this one, unless its own update is not done.
            let before = record.and_then(|r| r.previous).filter(|_| !settled).unwrap_or(template);
            let back = Some(&before) == rc.pointer(TEMPLATE);
            Record { previous: Some(before).filter(|_| !back), rolled_back: back, ..Record::default() }.write(rc);
        }
        Change::Renew if !settled => return Ok(false),
        Change::Renew => {
            let slot = rc.pointer_mut(TEMPLATE).ok_or_else(|| format!("rc/{name} has no template"))?;
            slot["metadata"]["annotations"][RESTARTED_AT] = now.into();
            // What was before the last change is still the way back.
            if let Some(record) = record {
                record.write(rc);
            }
        }
        Change::Rollback => match record {
            Some(Record { previous: Some(previous), .. }) => {
                rc["spec"]["template"] = previous;
                Record { rolled_back: true, ..Record::default() }.write(rc);
            }
            Some(_) => return Ok(false),
            None => {
                return Err(format!(
                    "rc/{name} was not updated by rollingupdate, or was changed since: nothing is known to go back to; \
                     coracle apply the template that you want, then: coracle rollingupdate {name}"
                ));
            }
        },
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rc() -> Value {
        json!({"metadata": {"name": "web", "uid": "u"}, "spec": {"replicas": 2, "selector": {"a": "b"},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
    }

    fn image(rc: &mut Value, to: &str, settled: bool) -> bool {
        begin(rc, &Change::Image(to.into()), settled, "now").unwrap()
    }

    fn rollback(rc: &mut Value) -> Result<bool, String> {
        begin(rc, &Change::Rollback, true, "now")
    }

    #[test]
    fn an_update_goes_back_once_and_the_same_command_twice_changes_nothing() {
        let mut rc = rc();
        let first = hash_of(&rc);
        assert!(rollback(&mut rc).unwrap_err().contains("nothing is known"));
        assert!(image(&mut rc, "i:2", true));
        assert!(!image(&mut rc, "i:2", false) && !image(&mut rc, "i:2", true));
        assert_eq!(image_of(&rc), "i:2");
        assert_eq!(rollback(&mut rc), Ok(true));
        assert_eq!((image_of(&rc), hash_of(&rc)), ("i:1", first));
        assert_eq!(rollback(&mut rc), Ok(false), "once more is not forward again");
    }

    #[test]
    fn what_was_given_up_on_the_way_is_nothing_to_go_back_to() {
        let mut rc = rc();
        image(&mut rc, "i:broken", true);
        image(&mut rc, "i:2", false);
        assert_eq!(rollback(&mut rc), Ok(true));
        assert_eq!(image_of(&rc), "i:1");
        // By hand it is a rollback too.
        image(&mut rc, "i:broken", true);
        image(&mut rc, "i:1", false);
        assert_eq!(rollback(&mut rc), Ok(false));
        // A finished update is.
        image(&mut rc, "i:2", true);
        image(&mut rc, "i:3", true);
        rollback(&mut rc).unwrap();
        assert_eq!(image_of(&rc), "i:2");
    }

    #[test]
    fn without_an_image_pods_are_brought_up_to_date_or_renewed() {
        let mut rc = rc();
        image(&mut rc, "i:2", true);
        let updated = rc.clone();
        assert_eq!(begin(&mut rc, &Change::Renew, false, "now"), Ok(false), "that is going on");
        assert_eq!(rc, updated);
        assert_eq!(begin(&mut rc, &Change::Renew, true, "now"), Ok(true));
        assert_ne!(hash_of(&rc), hash_of(&updated));
        rollback(&mut rc).unwrap();
        assert_eq!(image_of(&rc), "i:1");
    }

    #[test]
    fn a_template_that_somebody_else_changed_has_no_way_back() {
        let mut rc = rc();
        image(&mut rc, "i:2", true);
        rc["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "b"}]);
        assert!(rollback(&mut rc).is_err());
        assert!(image(&mut rc, "i:3", true));
        rollback(&mut rc).unwrap();
        assert_eq!(image_of(&rc), "i:2");
    }
}
