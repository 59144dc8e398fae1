//! The data folder: private, and one gateway's at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The data folder in use, with all that is in it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Makes what is missing and takes the folder: while the lock lives no other gateway can have it, unless the lock is
    /// handed over to it.
    pub fn take(path: &Path) -> Result<(DataDir, File), String> {
        let shown = path.display();
        make_private(path).map_err(|error| format!("data_dir {shown} cannot be made: {error}"))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(|error| format!("data_dir {shown} cannot be written: {error}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!(
                    "data_dir {shown} is in use by another gateway; give this one its own data_dir, or take over with --take-over"
                ));
            }
            Err(TryLockError::Error(error)) => {
                return Err(format!("data_dir {shown} cannot be locked: {error}"));
            }
        }
        DataDir::furnish(path).map(|folder| (folder, lock))
    }

    /// Uses a folder whose lock was handed over.
    pub fn taken_over(path: &Path) -> Result<DataDir, String> {
        DataDir::furnish(path)
    }

    fn furnish(path: &Path) -> Result<DataDir, String> {
        let taken = DataDir { path: path.to_owned() };
        for folder in [taken.recordings(), path.join("tls"), DataDir::run(path)] {
            make_private(&folder).map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
            refuse_readers(&folder)?;
        }
        Ok(taken)
    }

    /// Folder where the processes of one gateway meet.
    pub fn run(path: &Path) -> PathBuf {
        path.join("run")
    }

    /// Folder of all recordings.
    pub fn recordings(&self) -> PathBuf {
        self.path.join("recordings")
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn refuse_readers(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    let metadata = fs::metadata(folder).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{shown} is open to others (mode {mode:04o}); run: chmod 700 {shown}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_dir_is_private_and_taken_once() {
        let scratch = crate::scratch::Folder::new("data");
        let path = scratch.path().join("a/b");
        let (taken, lock) = DataDir::take(&path).unwrap();
        assert_eq!(fs::metadata(taken.recordings()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(DataDir::take(&path).unwrap_err().contains("in use by another gateway"));
        drop(lock.try_clone().unwrap());
        assert!(DataDir::take(&path).is_err(), "whoever still has the lock keeps it");
        drop(lock);
        DataDir::take(&path).unwrap();
    }

    #[test]
    fn recordings_that_others_could_read_are_refused() {
        let scratch = crate::scratch::Folder::new("data-open");
        drop(DataDir::take(scratch.path()).unwrap());
        let recordings = scratch.path().join("recordings");
        fs::set_permissions(&recordings, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(DataDir::take(scratch.path()).unwrap_err().contains("chmod 700"));
    }

    #[test]
    fn a_data_dir_that_is_a_file() {
        let scratch = crate::scratch::Folder::new("data-file");
        let path = scratch.path().join("file");
        fs::write(&path, "").unwrap();
        assert!(DataDir::take(&path).unwrap_err().contains("cannot be made"));
    }
}
