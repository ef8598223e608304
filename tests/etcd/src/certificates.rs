//! A CA of a test, and certificates of it for the members and a client.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::run;

/// Files in PEM form.
#[derive(Debug, Clone)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let openssl = |arguments: &[&[&str]]| run("openssl", dir, &arguments.concat());
        let names = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=the test's CA", "-days", "2"];
        openssl(&[&["req", "-x509"], &KEY, &names])?;
        std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")?;
        for name in ["server", "client"] {
            let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
            let subject = format!("/CN={name}");
            openssl(&[&["req"], &KEY, &["-keyout", &key, "-out", &request, "-subj", &subject]])?;
            let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext"];
            openssl(&[&["x509", "-req", "-in", &request, "-out", &certificate], &by])?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A client's certificate and key.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.dir.join("client.pem"), self.dir.join("client.key"))
    }

    pub(crate) fn server_arguments(&self) -> Vec<String> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        vec![
            format!("--cert-file={}", file("server.pem")),
            format!("--key-file={}", file("server.key")),
            format!("--trusted-ca-file={}", file("ca.pem")),
            "--client-cert-auth=true".to_owned(),
        ]
    }
}
