//! Secrets out of files that only their owner can read, or out of the environment.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use lockgate_lane::Secret;
use zeroize::Zeroizing;

/// Longest secret in bytes: far above any password or token, far below what would hurt to read by mistake.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Reads a secret file: mode 0600 or stricter; one line end at its end is not part of the secret.
pub fn from_file(path: &Path) -> Result<Secret, String> {
    let bytes = private_file(path)?;
    checked(bytes, &format!("{}", path.display()))
}

/// Reads a secret from an environment variable.
pub fn from_env(variable: &str) -> Result<Secret, String> {
    use std::os::unix::ffi::OsStringExt as _;
    let value = std::env::var_os(variable).ok_or_else(|| {
        format!("the environment variable {variable} is not set; set it where the gateway is started")
    })?;
    checked(Zeroizing::new(value.into_vec()), &format!("the environment variable {variable}"))
}

/// Reads a file that holds a secret, and refuses one that others can read.
pub fn private_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let metadata = file.metadata().map_err(|error| format!("{shown} cannot be read: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{shown} can be read by others (mode {mode:04o}); run: chmod 600 {shown}"));
    }
    if metadata.len() > SECRET_BYTES_MAX {
        return Err(format!("{shown} has {} bytes; a secret has at most {SECRET_BYTES_MAX}", metadata.len()));
    }
    // Room for all of it from the start: a vector that grows leaves copies behind.
    let room = usize::try_from(SECRET_BYTES_MAX).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(SECRET_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    Ok(bytes)
}

fn checked(mut bytes: Zeroizing<Vec<u8>>, origin: &str) -> Result<Secret, String> {
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    if bytes.is_empty() {
        return Err(format!("{origin} is empty"));
    }
    if bytes.contains(&0) {
        return Err(format!("{origin} has a zero byte in it, which no protocol can carry in a password"));
    }
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::*;

    #[test]
    fn secrets_of_files() {
        let folder = crate::scratch::Folder::new("secrets");
        for (content, mode, expected) in [
            (&b"hunter2"[..], 0o600, Ok(&b"hunter2"[..])),
            (b"hunter2\n", 0o400, Ok(b"hunter2")),
            (b"hunter2\r\n", 0o600, Ok(b"hunter2")),
            (b"hunter2\n\n", 0o600, Ok(b"hunter2\n")),
            (b" hunter2 ", 0o600, Ok(b" hunter2 ")),
            (b"\xff\xfe", 0o600, Ok(b"\xff\xfe")),
            (b"hunter2", 0o640, Err("run: chmod 600")),
            (b"hunter2", 0o604, Err("run: chmod 600")),
            (b"hunter2", 0o620, Err("(mode 0620)")),
            (b"", 0o600, Err("is empty")),
            (b"\n", 0o600, Err("is empty")),
            (b"a\0b", 0o600, Err("zero byte")),
            (&[b'x'; (64 << 10) + 1], 0o600, Err("at most 65536")),
        ] {
            let path = folder.path().join("secret");
            let _ = fs::remove_file(&path);
            fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match (from_file(&path), expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret.expose(), expected),
                (Err(text), Err(expected)) => {
                    assert!(text.contains(expected), "{text}");
                    assert!(!text.contains("hunter2"), "the secret is in the message: {text}");
                }
                (found, expected) => panic!("{content:?} {mode:o}: {found:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_file() {
        let folder = crate::scratch::Folder::new("secrets-none");
        assert!(from_file(folder.path()).unwrap_err().contains("is not a file"));
        assert!(from_file(&folder.path().join("none")).unwrap_err().contains("No such file"));
    }

    #[test]
    fn secrets_of_the_environment() {
        assert_eq!(from_env("CARGO_PKG_NAME").unwrap().expose(), b"lockgate");
        assert!(from_env("LOCKGATE_NOT_SET").unwrap_err().contains("LOCKGATE_NOT_SET is not set"));
    }
}
