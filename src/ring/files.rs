//! The table of files that are written at explicit offsets, and how much of each is under way.

use std::io;

use crate::FileId;

/// A file id holds a 16-bit place and a 16-bit generation.
const PLACE_BITS: u32 = 16;
const PLACE_MASK: u32 = (1 << PLACE_BITS) - 1;

/// `F` is how a driver holds an open file; dropping it closes the file.
#[derive(Debug)]
pub(crate) struct Files<F> {
    files: Vec<File<F>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct File<F> {
    generation: u32,
    file: Option<F>,
    jobs: u32,
    closing: bool,
}

impl<F> Default for Files<F> {
    fn default() -> Files<F> {
        Files { files: Vec::new(), free: Vec::new() }
    }
}

impl<F> Files<F> {
    pub(crate) fn open(&mut self, open: F) -> FileId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.files.push(File { generation: 0, file: None, jobs: 0, closing: false });
            u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(file) = self.at_mut(place).filter(|_| place < PLACE_MASK) else {
            // More files than descriptors can be open: an id that finds nothing, so that writes fail.
            return FileId(u32::MAX);
        };
        file.file = Some(open);
        file.closing = false;
        FileId((file.generation << PLACE_BITS) | place)
    }

    /// Closes it when nothing of it is under way.
    pub(crate) fn close(&mut self, id: FileId) {
        if let Some(file) = self.find(id) {
            file.closing = true;
            self.close_if_done(id.0 & PLACE_MASK);
        }
    }

    /// Open files.
    pub(crate) fn len(&self) -> usize {
        self.files.len() - self.free.len()
    }

    /// Something of the file is under way from now on: its place, for [`Files::get`] and [`Files::end`].
    ///
    /// # Errors
    /// When the id names no open file.
    pub(crate) fn begin(&mut self, id: FileId) -> io::Result<u32> {
        let Some(file) = self.find(id) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file id names no open file"));
        };
        file.jobs += 1;
        Ok(id.0 & PLACE_MASK)
    }

    pub(crate) fn get(&self, place: u32) -> Option<&F> {
        self.files.get(usize::try_from(place).ok()?)?.file.as_ref()
    }

    /// What was begun is over.
    pub(crate) fn end(&mut self, place: u32) {
        if let Some(file) = self.at_mut(place) {
            file.jobs = file.jobs.saturating_sub(1);
        }
        self.close_if_done(place);
    }

    fn close_if_done(&mut self, place: u32) {
        if let Some(file) = self.at_mut(place)
            && file.closing
            && file.jobs == 0
            && file.file.take().is_some()
        {
            file.generation = (file.generation + 1) & PLACE_MASK;
            self.free.push(place);
        }
    }

    fn find(&mut self, id: FileId) -> Option<&mut File<F>> {
        let generation = id.0 >> PLACE_BITS;
        self.at_mut(id.0 & PLACE_MASK)
            .filter(|file| file.file.is_some() && !file.closing && file.generation == generation)
    }

    fn at_mut(&mut self, place: u32) -> Option<&mut File<F>> {
        self.files.get_mut(usize::try_from(place).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_closes_when_its_last_job_ends_and_its_id_is_dead() {
        let mut files = Files::<std::rc::Rc<()>>::default();
        let open = std::rc::Rc::new(());
        let id = files.open(open.clone());
        let place = files.begin(id).unwrap();
        files.begin(id).unwrap();
        files.close(id);
        assert!(files.begin(id).is_err(), "it is being closed");
        files.end(place);
        assert_eq!((files.len(), std::rc::Rc::strong_count(&open)), (1, 2));
        files.end(place);
        assert_eq!((files.len(), std::rc::Rc::strong_count(&open)), (0, 1));
        let again = files.open(open);
        assert_eq!(again.0 & PLACE_MASK, place);
        assert!(files.begin(id).is_err() && files.begin(again).is_ok());
    }
}
