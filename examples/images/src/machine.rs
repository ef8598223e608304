//! What a program asks the kernel it runs on.

use std::{fs, io};

use crate::failure::about;

/// The host name of this container (or of the machine, outside of one).
pub fn hostname() -> io::Result<String> {
    read("/proc/sys/kernel/hostname")
}

/// A fresh random UUID, in the usual text form.
pub fn random_uuid() -> io::Result<String> {
    read("/proc/sys/kernel/random/uuid")
}

fn read(path: &str) -> io::Result<String> {
    let text = fs::read_to_string(path).map_err(about(path))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_unique_and_the_host_has_a_name() {
        let first = random_uuid().unwrap();
        assert_eq!(first.len(), 36);
        assert_ne!(first, random_uuid().unwrap());
        assert!(!hostname().unwrap().is_empty());
    }
}
