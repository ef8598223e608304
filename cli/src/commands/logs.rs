//! `coracle logs`: the output of a container, as it comes.

use coracle_api::{TypedObject, client::object_path, core::Pod, kinds::Subresource};
use http::Method;
use http_body_util::BodyExt;

use super::Context;
use crate::{
    args::LogsArgs,
    failure::{Failure, Outcome},
    json::{list, text},
    output,
    session::query,
    target,
};

pub(crate) async fn run(context: &Context, args: LogsArgs) -> Outcome {
    let pod = target::pod_name(&args.pod)?;
    let container = match args.container {
        Some(container) => container,
        None => default_container(context, pod).await?,
    };
    let flag = |set: bool| if set { "true" } else { "" };
    let tail = args.tail.map(|n| n.to_string()).unwrap_or_default();
    // The server counts whole seconds; a fraction must not become "everything".
    let since = args.since.map(|d| d.as_secs_f64().ceil().max(1.0).to_string()).unwrap_or_default();
    let path = object_path(Pod::row(), Some(&context.namespace), Some(pod), Some(Subresource::Log));
    let query = query(&[
        ("container", &container),
        ("follow", flag(args.follow)),
        ("tailLines", &tail),
        ("sinceSeconds", &since),
        ("timestamps", flag(args.timestamps)),
        ("previous", flag(args.previous)),
    ]);
    let mut body = context.session.open(Method::GET, &format!("{path}{query}"), None).await?.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Failure::Failed(format!("the log of pod {pod} broke off: {e}; run it again")))?;
        if let Ok(data) = frame.into_data() {
            output::write_bytes(&data)?;
        }
    }
    Ok(())
}

/// The only container of a pod, or its first with a note that says so.
pub(super) async fn default_container(context: &Context, pod: &str) -> Outcome<String> {
    let object = context.session.get(&object_path(Pod::row(), Some(&context.namespace), Some(pod), None)).await?;
    let names: Vec<_> = list(&object, "/spec/containers").iter().map(|c| text(c, "/name")).collect();
    if names.len() > 1 {
        output::note(&format!("Container {} of pod {pod}; there are: {} (choose with -c)", names[0], names.join(", ")));
    }
    Ok(names.first().copied().unwrap_or_default().to_owned())
}
