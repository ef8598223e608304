//! What kubecfg reads besides its flags: the `-c` body and the namespace file.

use serde_json::{Value, json};

use super::resource::{Resource, text};
use crate::{documents, session::Session};

/// The documents of `-c`: a file, `-` for stdin, or an http URL.
pub(crate) async fn read(source: &str) -> Result<Vec<Value>, String> {
    if source.is_empty() {
        return Err("Need config file (-c)".to_owned());
    }
    let unreadable = |e: String| format!("Unable to read {source}: {e}");
    let content = match source.strip_prefix("http://") {
        Some(url) => fetch(url).await.map_err(unreadable)?,
        None if source.starts_with("https://") => {
            return Err(unreadable("https is not supported; download the file first".to_owned()));
        }
        None => documents::read_text(source).map_err(|e| unreadable(e.to_string()))?,
    };
    let documents = documents::parse(&content).map_err(|e| format!("Error parsing {source}: {e}"))?;
    if documents.is_empty() {
        return Err(format!("Error parsing {source}: there is no object in it"));
    }
    Ok(documents)
}

async fn fetch(url: &str) -> Result<String, String> {
    let (server, path) = url.split_once('/').unwrap_or((url, ""));
    let server = if server.contains(':') { server.to_owned() } else { format!("{server}:80") };
    let session = Session::new(&server).map_err(|e| e.to_string())?;
    let answer = session.call(http::Method::GET, &format!("/{path}"), None).await.map_err(|e| e.to_string())?;
    String::from_utf8(answer.body.into()).map_err(|_| "it is not text".to_owned())
}

/// Checks that a document is of the resource's kind, and fills in kind and version, which old
/// files may leave out.
pub(crate) fn as_object(mut document: Value, resource: Resource, source: &str) -> Result<Value, String> {
    let failed = |why: String| format!("Error parsing {source} as an object for {}: {why}", resource.as_str());
    if !document.is_object() {
        return Err(failed("it is not an object".to_owned()));
    }
    let kind = text(&document, "/kind");
    if !kind.is_empty() && kind != resource.kind() {
        return Err(failed(format!("data of kind '{kind}', obj of type '{}'", resource.kind())));
    }
    match text(&document, "/apiVersion") {
        "" => document["apiVersion"] = "v1beta1".into(),
        "v1beta1" | "v1beta2" => {}
        other => {
            return Err(failed(format!(
                "its apiVersion is {other}, kubecfg speaks v1beta1; try: coracle create -f {source}"
            )));
        }
    }
    document["kind"] = resource.kind().into();
    Ok(document)
}

/// Remembers the namespace between calls.
pub(crate) struct NamespaceFile {
    path: Option<String>,
}

const DEFAULT_NAMESPACE: &str = "default";

impl NamespaceFile {
    /// The file given by `-ns_file`, else the one in the home directory, if there is a home.
    pub(crate) fn new(given: &str, home: Option<String>) -> Self {
        let default = || home.filter(|h| !h.is_empty()).map(|h| format!("{h}/.kubernetes_ns"));
        Self { path: if given.is_empty() { default() } else { Some(given.to_owned()) } }
    }

    /// The remembered namespace; on first use the file is created with `default`.
    pub(crate) fn load(&self) -> Result<String, String> {
        let Some(path) = &self.path else { return Ok(DEFAULT_NAMESPACE.to_owned()) };
        match std::fs::read_to_string(path) {
            Ok(content) => {
                let value: Value = serde_json::from_str(&content)
                    .map_err(|e| format!("Error loading current namespace: {path}: {e}"))?;
                let name = value["Namespace"].as_str().unwrap_or_default();
                Ok(if name.is_empty() { DEFAULT_NAMESPACE } else { name }.to_owned())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                // Only a convenience: a home that cannot be written still has a default namespace.
                let _ = self.save(DEFAULT_NAMESPACE);
                Ok(DEFAULT_NAMESPACE.to_owned())
            }
            Err(e) => Err(format!("Error loading current namespace: {path}: {e}")),
        }
    }

    /// Remembers a namespace.
    pub(crate) fn save(&self, namespace: &str) -> Result<(), String> {
        let path = self.path.as_ref().ok_or("there is no home directory; name a file with -ns_file")?;
        std::fs::write(path, json!({ "Namespace": namespace }).to_string())
            .map_err(|e| format!("Error saving the namespace in {path}: {e}"))
    }
}

/// Whether a name is a DNS label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 characters.
pub(crate) fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.len() <= 63 && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_of_another_kind_is_caught_here() {
        let error = as_object(json!({"kind": "Pod"}), Resource::Services, "pod.json").unwrap_err();
        assert_eq!(
            error,
            "Error parsing pod.json as an object for services: data of kind 'Pod', obj of type 'Service'"
        );
        let error = as_object(json!({"kind": "Pod", "apiVersion": "v1"}), Resource::Pods, "p").unwrap_err();
        assert!(error.contains("coracle create -f p"), "{error}");
    }

    #[test]
    fn kind_and_version_may_be_left_out() {
        let object = as_object(json!({"id": "x"}), Resource::Pods, "p").unwrap();
        assert_eq!(object, json!({"id": "x", "kind": "Pod", "apiVersion": "v1beta1"}));
    }

    #[test]
    fn the_namespace_file_is_created_on_first_use_and_remembers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ns").display().to_string();
        let file = NamespaceFile::new(&path, None);
        assert_eq!(file.load().unwrap(), "default");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"Namespace\":\"default\"}");
        file.save("team").unwrap();
        assert_eq!(file.load().unwrap(), "team");
        std::fs::write(&path, "not json").unwrap();
        assert!(file.load().unwrap_err().contains(&path));
        assert_eq!(NamespaceFile::new("", None).load().unwrap(), "default");
    }

    #[test]
    fn dns_labels_are_lower_case_words_with_dashes() {
        for good in ["a", "a-1", "0"] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a.b", &"x".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
    }
}
