//! The contract over io_uring.
