//! Large buffers that are used again. What a backup moves is a gigabyte after the other in pieces of a few MiB; asking the system for
//! new memory for each piece costs more than sealing what goes into it, as every page comes zeroed and is mapped anew.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What lies unused in one pool at most, in bytes. More is never needed than was under way at once.
const UNUSED_BYTES_MAX: usize = 64 << 20;

/// Where buffers come from and go back to. Its clones are the same pool; the last one that goes lets all unused memory go.
#[derive(Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// A buffer of `bytes` bytes that can grow to `bytes_max` where it lies. What it contains is left from earlier uses: write all
    /// of it.
    pub fn take(&self, bytes: usize, bytes_max: usize) -> Buffer {
        let mut unused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<u8>| (bytes_max..=bytes_max + bytes_max / 8).contains(&buffer.capacity());
        let found = unused.iter().rposition(fits).map(|at| unused.swap_remove(at));
        drop(unused);
        let mut found = found.unwrap_or_else(|| Vec::with_capacity(bytes_max));
        found.resize(bytes, 0);
        Buffer { bytes: found, home: Arc::downgrade(&self.0) }
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buffers(..)")
    }
}

/// A vector of bytes that goes back to the pool that it came from, if there is one.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    home: Weak<Mutex<Vec<Vec<u8>>>>,
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, home: Weak::new() }
    }
}

/// A copy belongs to no pool.
impl Clone for Buffer {
    fn clone(&self) -> Self {
        self.bytes.clone().into()
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Buffer {}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes.len())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else { return };
        let mut unused = home.lock().unwrap_or_else(PoisonError::into_inner);
        if unused.iter().map(Vec::capacity).sum::<usize>() + self.bytes.capacity() <= UNUSED_BYTES_MAX {
            unused.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unused(pool: &Buffers) -> Vec<usize> {
        pool.0.lock().unwrap().iter().map(Vec::capacity).collect()
    }

    #[test]
    fn a_buffer_is_used_again_for_what_is_about_as_long() {
        let pool = Buffers::default();
        let first = pool.take(1000, 1000);
        let at = first.as_ptr();
        drop(first);
        assert_ne!(pool.take(10, 400).as_ptr(), at);
        let again = pool.take(900, 950);
        assert_eq!((again.as_ptr(), again.len()), (at, 900));
        let mut other = pool.take(1000, 1000);
        other.fill(7);
        assert_ne!(other.as_ptr(), at);
    }

    #[test]
    fn memory_goes_with_its_pool_and_stays_within_bounds() {
        let pool = Buffers::default();
        let buffers: Vec<_> = (0..5).map(|_| pool.take(1, 16 << 20)).collect();
        drop(buffers);
        assert_eq!(unused(&pool).len(), 4);
        let left = pool.take(1, 16 << 20);
        drop(pool);
        drop(left);
    }

    #[test]
    fn copies_stay_away_from_the_pool() {
        let pool = Buffers::default();
        let original = pool.take(3, 3);
        let copy = original.clone();
        drop(original);
        assert_eq!(unused(&pool).len(), 1);
        drop(copy);
        assert_eq!(unused(&pool).len(), 1);
    }
}
