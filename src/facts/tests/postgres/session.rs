//! Session changes.
