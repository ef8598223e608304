//! `coracle schedule --explain -f`: where the pods in files would go, and why. Creates nothing.

use coracle_api::schedule::{MinionVerdict, PodPlacement, ScheduleExplanation};
use http::Method;
use serde_json::{Value, json};

use super::Context;
use crate::{
    args::{Form, ScheduleArgs},
    documents,
    failure::{Failure, Outcome},
    output::{self, table::Table},
    session,
};

/// Minions shown for each pod unless asked for more.
const ROWS_MAX: usize = 20;

pub(crate) async fn run(context: &Context, args: ScheduleArgs) -> Outcome {
    let items: Vec<Value> = documents::read_all(&args.files)?.into_iter().map(|d| d.value).collect();
    let body = json!({"kind": "List", "apiVersion": "v1", "items": items});
    let path = format!("/coracle/v1/schedule{}", session::query(&[("namespace", &context.namespace)]));
    let answer = context.session.json(Method::POST, &path, Some(&body)).await?;
    match args.output {
        Some(Form::Json) => return output::write(&output::json(&answer)),
        Some(Form::Yaml) => return output::write(&output::yaml(&answer)),
        _ => {}
    }
    let explained: ScheduleExplanation = serde_json::from_value(answer)
        .map_err(|e| Failure::Failed(format!("the master's answer is not understood: {e}")))?;
    let rows_max = if args.output == Some(Form::Wide) { usize::MAX } else { ROWS_MAX };
    match args.output {
        Some(Form::Name) => output::write(&names(&explained)),
        _ => output::write(&render(&explained, rows_max)),
    }
}

/// `pod minion`, one a line; a pod that would wait has no minion.
fn names(explained: &ScheduleExplanation) -> String {
    let line = |pod: &PodPlacement| format!("{} {}", pod.name, pod.minion.as_deref().unwrap_or_default());
    explained.pods.iter().map(|pod| format!("{}\n", line(pod).trim_end())).collect()
}

fn render(explained: &ScheduleExplanation, rows_max: usize) -> String {
    let pods = explained.pods.iter().map(|pod| page(explained, pod, rows_max));
    let mut text = pods.collect::<Vec<_>>().join("\n");
    if !explained.ignored.is_empty() {
        text.push_str(&format!("\nwithout pods, not asked about: {}\n", explained.ignored.join(", ")));
    }
    text
}

/// A sentence about the pod, and a table of the minions.
fn page(explained: &ScheduleExplanation, pod: &PodPlacement, rows_max: usize) -> String {
    let sentence: String = pod.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut text = format!("pod {}/{} {sentence}\n", pod.namespace, pod.name);
    if pod.verdicts.is_empty() {
        return text;
    }
    let priorities = explained.priorities.iter().map(|p| heading(&p.name));
    let header: Vec<String> = ["MINION".to_owned(), "POINTS".to_owned()]
        .into_iter()
        .chain(priorities)
        .chain(["WHY NOT".to_owned()])
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let rows: Vec<_> = pod.verdicts.iter().take(rows_max).map(|v| row(v, explained.priorities.len())).collect();
    text.push_str(&Table::new(&header).render(&rows));
    let hidden = pod.verdicts.len() - rows.len();
    match hidden + pod.omitted {
        0 => {}
        more if hidden > 0 => text.push_str(&format!("and {more} more minions: see -o wide\n")),
        more => text.push_str(&format!("and {more} more minions\n")),
    }
    text
}

/// `leastRequested` as `LEAST-REQUESTED`
fn heading(name: &str) -> String {
    let mut heading = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            heading.push('-');
        }
        heading.extend(c.to_uppercase());
    }
    heading
}

fn row(verdict: &MinionVerdict, priorities: usize) -> Vec<String> {
    let points = |points: Option<&f64>| points.map_or("-".to_owned(), |p| format!("{p:.2}"));
    let mut row = vec![verdict.minion.clone(), points(verdict.total.as_ref())];
    row.extend((0..priorities).map(|i| points(verdict.points.get(i))));
    row.push(verdict.message.clone());
    row
}

#[cfg(test)]
mod tests {
    use coracle_api::schedule::Priority;

    use super::*;

    fn explained() -> ScheduleExplanation {
        let priority = |name: &str| Priority { name: name.into(), weight: 1.0 };
        let fit = |minion: &str, points: [f64; 2]| MinionVerdict {
            minion: minion.into(),
            points: points.to_vec(),
            total: Some(points.iter().sum()),
            ..Default::default()
        };
        let unfit = MinionVerdict {
            minion: "c".into(),
            reason: Some("Cordoned".into()),
            message: "cordoned".into(),
            ..Default::default()
        };
        let placed = PodPlacement {
            namespace: "default".into(),
            name: "web".into(),
            minion: Some("a".into()),
            message: "goes to a, the best of 2 minions that fit".into(),
            verdicts: vec![fit("a", [1.0, 0.5]), fit("b", [0.5, 0.25]), unfit],
            omitted: 0,
        };
        ScheduleExplanation {
            minions: 3,
            priorities: vec![priority("spreading"), priority("leastRequested")],
            pods: vec![placed],
            ignored: vec!["service/web".into()],
        }
    }

    #[test]
    fn a_pod_is_a_sentence_and_a_table() {
        assert_eq!(
            render(&explained(), 20),
            "pod default/web goes to a, the best of 2 minions that fit\n\
             MINION   POINTS   SPREADING   LEAST-REQUESTED   WHY NOT\n\
             a        1.50     1.00        0.50\n\
             b        0.75     0.50        0.25\n\
             c        -        -           -                 cordoned\n\
             \nwithout pods, not asked about: service/web\n"
        );
        assert_eq!(names(&explained()), "web a\n");
    }

    #[test]
    fn long_tables_are_cut_and_say_so() {
        let mut explained = explained();
        assert!(render(&explained, 2).contains("\nand 1 more minions: see -o wide\n"));
        explained.pods[0].omitted = 4;
        assert!(render(&explained, 20).contains("\nand 4 more minions\n"));
    }
}
