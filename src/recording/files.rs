//! Where segment files are, and how they are made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

/// Bytes written or read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The folder of a worker's series: `ROOT/w000`.
pub fn series_dir(root: &Path, worker: u32) -> PathBuf {
    root.join(format!("w{worker:03}"))
}

/// The file of a segment: `ROOT/w000/0000000001.lgr`.
pub fn segment_path(root: &Path, worker: u32, number: u64) -> PathBuf {
    series_dir(root, worker).join(format!("{number:010}.lgr"))
}

/// A segment's file, open for writing.
#[derive(Debug)]
pub struct SegmentFile {
    /// Through the page cache.
    pub file: File,
    /// The same past it, for blocks of whole pages ([`Write::is_paged`](crate::Write::is_paged)); `None`: the file
    /// system cannot.
    pub direct: Option<File>,
}

/// Makes the file of a segment: it has all its room, reads as zeros, and its name is durable, so that later writes
/// cannot run out of space. Readable by its owner only. A file that was made earlier and never used (all zeros) is
/// taken, or replaced if its size is another; any other is an error. Blocks: for control.
pub fn create_segment(root: &Path, worker: u32, number: u64, size: u64) -> io::Result<SegmentFile> {
    let dir = series_dir(root, worker);
    create_private_dir(&dir)?;
    let path = segment_path(root, worker, number);
    if let Some(file) = open_unused(&path, size)? {
        return Ok(SegmentFile { file, direct: open_direct(&path) });
    }
    let draft = dir.join(format!("{number:010}.new"));
    let made = make(&draft, size).and_then(|file| {
        fs::rename(&draft, &path)?;
        File::open(&dir)?.sync_all()?;
        Ok(SegmentFile { file, direct: open_direct(&path) })
    });
    if made.is_err() {
        // What takes room without being of use goes; the first error is the one to report.
        let _ = fs::remove_file(&draft);
    }
    made
}

/// The numbers and paths of a worker's segment files, in order.
pub(crate) fn segments(root: &Path, worker: u32) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(series_dir(root, worker)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        if let Some(number) = segment_number(&path) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The workers that have a folder, in order.
pub fn workers(root: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix('w'));
        if let Some(worker) = number.filter(|digits| digits.len() >= 3).and_then(|digits| digits.parse().ok())
        {
            found.push(worker);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn segment_number(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".lgr")?;
    if digits.len() >= 10 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    }
}

fn create_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn open_unused(path: &Path, size: u64) -> io::Result<Option<File>> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if is_zero(&mut file)? {
        return Ok((file.metadata()?.len() == size).then_some(file));
    }
    let what = format!("{} is there already and not empty: it is never overwritten", path.display());
    Err(io::Error::new(ErrorKind::AlreadyExists, what))
}

fn open_direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
    OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
}

/// Whether all bytes from the beginning are zero.
fn is_zero(file: &mut File) -> io::Result<bool> {
    file.seek(SeekFrom::Start(0))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let len = file.read(&mut chunk)?;
        if len == 0 {
            return Ok(true);
        }
        if chunk.iter().take(len).any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
}

/// A file with room for `size` bytes, all zeros. The room is reserved, not written: writing a segment's zeros before
/// its blocks costs as much as the blocks.
fn make(path: &Path, size: u64) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, size) {
        Ok(()) => {}
        // A file system that cannot: NFS before 4.2, some that are served by a process.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(&mut file, size)?,
        Err(error) => return Err(error.into()),
    }
    file.sync_all()?;
    Ok(file)
}

fn write_zeros(file: &mut File, size: u64) -> io::Result<()> {
    let zeros = vec![0; CHUNK_BYTES];
    let mut left = size;
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        file.write_all(zeros.get(..len).unwrap_or_default())?;
        left -= len as u64;
    }
    Ok(())
}
