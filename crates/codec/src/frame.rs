//! Runs of chunks, compressed together.
