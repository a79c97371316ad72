//! What outlives the process: the account and the certificate, each in a file that only its owner reads.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
};

use instant_acme::AccountCredentials;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{config::saved, tls};

/// The directory of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Files {
    directory: PathBuf,
}

/// An account, and with whom.
#[derive(Serialize, Deserialize)]
struct Kept<A> {
    directory: String,
    account: A,
}

impl Files {
    pub(super) fn in_directory(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Makes the directory if there is none.
    ///
    /// # Errors
    /// What the system says, with the path.
    pub(super) fn prepare(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(|error| self.at("", &error))
    }

    /// The account with this authority, if there is one.
    ///
    /// # Errors
    /// The file cannot be read, or is none of ours.
    pub(super) fn account(&self, directory: &str) -> io::Result<Option<AccountCredentials>> {
        let text = match fs::read(self.account_file()) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.at("account.json", &error)),
        };
        // What the parser says would show what it has read.
        let kept: Kept<AccountCredentials> =
            serde_json::from_slice(&text).map_err(|_| self.at("account.json", &"it is no account"))?;
        Ok((kept.directory == directory).then_some(kept.account))
    }

    /// Keeps an account, in place of one with another authority.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn keep_account(&self, directory: &str, account: &AccountCredentials) -> io::Result<()> {
        let kept = Kept { directory: directory.to_owned(), account };
        let text = Zeroizing::new(serde_json::to_vec(&kept).map_err(io::Error::other)?);
        saved::replace(&self.account_file(), &[&text]).map_err(|error| self.at("account.json", &error))
    }

    /// Certificate and key, if they are there.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(super) fn certificate(&self) -> io::Result<Option<CertifiedKey>> {
        let file = self.certificate_file();
        if !file.try_exists()? {
            return Ok(None);
        }
        tls::read(["acme.state_dir", "acme.state_dir"], &file, &file).map(Some)
    }

    /// Keeps a certificate with its key: one file, so that no moment has parts of two.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn keep_certificate(&self, key: &[u8], chain: &[u8]) -> io::Result<()> {
        let file = self.certificate_file();
        saved::replace(&file, &[key, chain]).map_err(|error| self.at("certificate.pem", &error))
    }

    fn account_file(&self) -> PathBuf {
        self.directory.join("account.json")
    }

    fn certificate_file(&self) -> PathBuf {
        self.directory.join("certificate.pem")
    }

    fn at(&self, file: &str, error: &dyn std::fmt::Display) -> io::Error {
        io::Error::other(format!("{}: {error}", self.directory.join(file).display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::acme::x509;

    #[test]
    fn what_is_kept_is_its_owners_alone_and_comes_back() {
        let directory = std::env::temp_dir().join(format!("penstock-acme-{}", std::process::id()));
        let files = Files::in_directory(directory.join("below"));
        files.prepare().unwrap();
        assert!(files.certificate().unwrap().is_none() && files.account("https://ca.example/").unwrap().is_none());
        let (key, answer) = (x509::key().unwrap(), x509::challenge("tv.example", &[1; 32]).unwrap());
        // A key that is not the certificate's.
        let pem = openssl::x509::X509::from_der(&answer.cert[0]).unwrap().to_pem().unwrap();
        files.keep_certificate(&key.private_key_to_pem_pkcs8().unwrap(), &pem).unwrap();
        assert!(files.certificate().unwrap_err().to_string().contains("certificate.pem"));
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&files.directory), mode(&files.certificate_file())), (0o700, 0o600));
        fs::write(files.account_file(), "{\"directory\": \"secret\"}").unwrap();
        let error = files.account("https://ca.example/").err().unwrap().to_string();
        assert!(error.contains("account.json") && !error.contains("secret"), "{error}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
