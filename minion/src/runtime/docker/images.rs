//! Images on the engine: present, pulled, and the infra image imported.

use std::{collections::HashMap, time::Duration};

use bollard::{body_full, models::CreateImageInfo, query_parameters::CreateImageOptionsBuilder};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::{Engine, errors};
use crate::runtime::{Image, RuntimeError, infra};

/// A pull that reports nothing for so long is stuck.
const PULL_SILENCE: Duration = Duration::from_secs(120);
/// No pull takes longer than this, whatever it reports.
const PULL_LIMIT: Duration = Duration::from_secs(3600);

/// An image, if it is here.
pub(super) async fn present(engine: &Engine, image: &str) -> Result<Option<Image>, RuntimeError> {
    match engine.read("inspecting image", image, engine.docker().inspect_image(image)).await {
        Ok(found) => {
            let user = found.config.and_then(|config| config.user).unwrap_or_default();
            Ok(found.id.map(|id| Image { id, user }))
        }
        Err(e) if errors::is_absent(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Pulls an image, telling `progress` what it can take.
pub(super) async fn pull(engine: &Engine, image: &str, progress: &mpsc::Sender<String>) -> Result<(), RuntimeError> {
    let reference = tagged(image);
    let options = CreateImageOptionsBuilder::default().from_image(&reference).build();
    let mut stream = engine.docker().create_image(Some(options), None, None).boxed();
    let mut seen = Progress::default();
    let pulling = async {
        loop {
            let next = async { stream.next().await.transpose() };
            match engine.call("pulling image", image, PULL_SILENCE, next).await? {
                None => return Ok(()),
                Some(info) => {
                    if let Some(line) = seen.line(info) {
                        // A full queue means that nobody looks: the next line says more anyway.
                        let _ = progress.try_send(line);
                    }
                }
            }
        }
    };
    let late = RuntimeError::Timeout { what: format!("pulling image {image}"), seconds: PULL_LIMIT.as_secs() };
    tokio::time::timeout(PULL_LIMIT, pulling).await.unwrap_or(Err(late)).map_err(|e| match e {
        RuntimeError::NotFound(text) | RuntimeError::Refused(text) => RuntimeError::Image(text),
        other => other,
    })
}

/// Makes the infra image if it is not here. Errors when the engine's architecture has no code.
pub(super) async fn ensure_infra(engine: &Engine) -> Result<(), RuntimeError> {
    if present(engine, infra::IMAGE).await?.is_some() {
        return Ok(());
    }
    let layer = infra::layer(engine.arch())?;
    let (repo, tag) = infra::IMAGE.rsplit_once(':').unwrap_or((infra::IMAGE, "latest"));
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(repo)
        .tag(tag)
        .changes(infra::CHANGES.iter().map(|c| (*c).to_owned()).collect())
        .build();
    let import = async {
        let mut stream = engine.docker().create_image(Some(options), Some(body_full(layer.into())), None).boxed();
        while let Some(step) = stream.next().await {
            step?;
        }
        Ok(())
    };
    engine.change("importing image", infra::IMAGE, import).await?;
    tracing::info!(image = infra::IMAGE, "made the infra image");
    Ok(())
}

/// The reference with its tag spelled out: without one the engine pulls every tag there is.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// Sums the layers' progress into one line.
#[derive(Default)]
struct Progress {
    layers: HashMap<String, (i64, i64)>,
    last: String,
}

impl Progress {
    /// A line, when it says something new.
    fn line(&mut self, info: CreateImageInfo) -> Option<String> {
        let status = info.status?;
        let detail = info.progress_detail.and_then(|d| Some((d.current?, d.total?)));
        let line = match (status.as_str(), info.id, detail) {
            ("Downloading", Some(layer), Some(amount)) => {
                self.layers.insert(layer, amount);
                let (done, all) = self.layers.values().fold((0, 0), |sum, l| (sum.0 + l.0, sum.1 + l.1));
                format!("downloading {}/{} MB", megabytes(done), megabytes(all))
            }
            // Of single layers only the download is worth a line.
            (_, Some(layer), _) if !status.starts_with("Pulling from") => {
                if let Some(amount) = self.layers.get_mut(&layer) {
                    amount.0 = amount.1;
                }
                return None;
            }
            _ => status,
        };
        (line != self.last).then(|| {
            self.last.clone_from(&line);
            line
        })
    }
}

fn megabytes(bytes: i64) -> i64 {
    (bytes + 500_000) / 1_000_000
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn an_image_without_tag_means_latest() {
        for (image, expected) in [
            ("jenkins", "jenkins:latest"),
            ("jenkins:2", "jenkins:2"),
            ("127.0.0.1:5000/jenkins", "127.0.0.1:5000/jenkins:latest"),
            ("127.0.0.1:5000/jenkins:2", "127.0.0.1:5000/jenkins:2"),
            ("jenkins@sha256:00", "jenkins@sha256:00"),
        ] {
            assert_eq!(tagged(image), expected);
        }
    }

    #[test]
    fn progress_sums_the_layers_and_repeats_nothing() {
        let step = |status: &str, id: Option<&str>, amount: Option<(i64, i64)>| CreateImageInfo {
            id: id.map(str::to_owned),
            status: Some(status.into()),
            progress_detail: amount.map(|(c, t)| ProgressDetail { current: Some(c), total: Some(t) }),
            ..Default::default()
        };
        let mut progress = Progress::default();
        let mut check = |info, expected: Option<&str>| assert_eq!(progress.line(info).as_deref(), expected);
        check(step("Pulling from library/x", Some("1"), None), Some("Pulling from library/x"));
        check(step("Pulling fs layer", Some("a"), None), None);
        check(step("Downloading", Some("a"), Some((1_000_000, 10_000_000))), Some("downloading 1/10 MB"));
        check(step("Downloading", Some("a"), Some((1_100_000, 10_000_000))), None);
        check(step("Downloading", Some("b"), Some((2_000_000, 30_000_000))), Some("downloading 3/40 MB"));
        check(step("Download complete", Some("a"), None), None);
        check(step("Downloading", Some("b"), Some((3_000_000, 30_000_000))), Some("downloading 13/40 MB"));
        check(step("Status: Downloaded newer image for x", None, None), Some("Status: Downloaded newer image for x"));
    }
}
