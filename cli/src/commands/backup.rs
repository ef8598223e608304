//! `coracle backup`: the whole cluster in a file.
//!
//! Invariant: the file appears under its name only when it is whole and on the disk.

use std::{
    fs::{File, OpenOptions},
    io::{BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use coracle_master::backup::format::{FormatError, Reader, Summary};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::Context;
use crate::{
    args::BackupArgs,
    failure::{Failure, Outcome},
    output::{self, Progress},
};

const PATH: &str = "/coracle/v1/backup";
/// A master that sends nothing for so long does not come back to it.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const PART_BYTES: usize = 256 << 10;

pub(crate) async fn run(context: &Context, args: BackupArgs) -> Outcome {
    let mut download = Download::start(context).await?;
    if args.output.as_deref() == Some(Path::new("-")) {
        while let Some(part) = download.next().await? {
            output::write_bytes(&part)?;
        }
        let summary = download.finish()?;
        output::note(&sentence(&summary, "standard output"));
        return Ok(());
    }
    let mut first = Vec::new();
    while download.reader.header().is_none() {
        let Some(part) = download.next().await? else { break };
        first.push(part);
    }
    let target = args.output.unwrap_or_else(|| default_name(&download.reader));
    let mut file = TemporaryFile::create(&target)?;
    for part in &first {
        file.write(part)?;
    }
    while let Some(part) = download.next().await? {
        file.write(&part)?;
    }
    let sent = download.finish()?;
    let summary = file.keep()?;
    if sent != summary {
        return Err(file_failure(&target, "it does not hold what the master sent"));
    }
    output::line(&sentence(&summary, &target.display().to_string()))
}

fn default_name(reader: &Reader) -> PathBuf {
    let header = reader.header();
    let id = header.map_or("unknown", |header| &header.cluster.cluster_id);
    let version = header.map_or(0, |header| header.resource_version);
    format!("coracle-{id}-{version}.backup").into()
}

fn sentence(summary: &Summary, target: &str) -> String {
    let header = &summary.header;
    format!(
        "{target}: {} objects, {} bytes, cluster {} at resourceVersion {}",
        header.objects, summary.bytes, header.cluster.cluster_id, header.resource_version
    )
}

/// The text as it arrives, read along.
struct Download {
    body: Incoming,
    reader: Reader,
    bytes: u64,
    progress: Progress,
}

impl Download {
    async fn start(context: &Context) -> Outcome<Self> {
        let body = context.session.open(Method::GET, PATH, None).await?.into_body();
        Ok(Self { body, reader: Reader::default(), bytes: 0, progress: Progress::new("backing up ...") })
    }

    /// The next part; `None` at the end.
    async fn next(&mut self) -> Outcome<Option<Bytes>> {
        loop {
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            let frame = frame.map_err(|_| broken(format!("nothing came for {} s", SILENCE_MAX.as_secs())))?;
            let Some(frame) = frame else { return Ok(None) };
            let Ok(part) = frame.map_err(|e| broken(e.to_string()))?.into_data() else { continue };
            self.reader.push(&part).map_err(damaged)?;
            self.bytes += part.len() as u64;
            let (objects, bytes) = (self.reader.objects(), self.bytes);
            let all = self.reader.header().map_or(0, |header| header.objects);
            self.progress.update(|| format!("backing up: {objects} of {all} objects, {} KiB", bytes >> 10));
            return Ok(Some(part));
        }
    }

    fn finish(self) -> Outcome<Summary> {
        self.reader.finish().map_err(damaged)
    }
}

fn broken(cause: String) -> Failure {
    Failure::Failed(format!("the backup broke off: {cause}; nothing was kept, run it again"))
}

fn damaged(error: FormatError) -> Failure {
    Failure::Failed(format!("the backup did not arrive whole: {error}; nothing was kept, run it again"))
}

fn file_failure(path: &Path, cause: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("{} can't be written: {cause}", path.display()))
}

/// A file beside the one that it becomes. Removed when it does not.
struct TemporaryFile {
    target: PathBuf,
    path: PathBuf,
    file: File,
    kept: bool,
}

impl TemporaryFile {
    fn create(target: &Path) -> Outcome<Self> {
        let name = target.file_name().ok_or_else(|| Failure::Usage(format!("'{}' names no file", target.display())))?;
        let name = format!(".{}.{}.partial", name.to_string_lossy(), std::process::id());
        let path = target.with_file_name(name);
        // Environment variables in it may be secrets.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(|e| file_failure(&path, e))?;
        Ok(Self { target: target.to_owned(), path, file, kept: false })
    }

    fn write(&mut self, part: &[u8]) -> Outcome {
        self.file.write_all(part).map_err(|e| file_failure(&self.path, e))
    }

    /// Makes it durable, reads it back, and gives it its name.
    fn keep(mut self) -> Outcome<Summary> {
        let failed = |e: std::io::Error| file_failure(&self.target, e);
        self.file.sync_all().map_err(failed)?;
        let summary = read_back(&self.path)?;
        std::fs::rename(&self.path, &self.target).map_err(failed)?;
        let dir = self.target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        self.kept = true;
        Ok(summary)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.kept {
            // Its name says that it is of no use; nobody is left to tell.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn read_back(path: &Path) -> Outcome<Summary> {
    let mut file = BufReader::new(File::open(path)?);
    let mut reader = Reader::default();
    let mut part = vec![0; PART_BYTES];
    loop {
        match file.read(&mut part)? {
            0 => return reader.finish().map_err(damaged),
            n => drop(reader.push(&part[..n]).map_err(damaged)?),
        }
    }
}
