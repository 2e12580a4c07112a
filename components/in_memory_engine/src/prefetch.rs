//! Bringing memory near before it is read.
//!
//! **Owns** the one instruction for it.
//!
//! **How it works.** A scan at a timestamp looks at one version in ten, or in a hundred: each is in a cache line of its
//! own, far from the last one, and where the next ones are is known long before they are needed.
//!
//! **Must not** be needed: without it, scans are slower and otherwise the same.

/// Cache lines are so long.
const LINE_BYTES: usize = 64;

/// Asks the processor to have the cache line of `item` at hand soon.
#[inline]
pub(crate) fn prefetch<T>(item: &T) {
    prefetch_line(std::ptr::from_ref(item).cast());
}

/// The same for all cache lines of `item`.
#[inline]
pub(crate) fn prefetch_all<T>(item: &T) {
    let start: *const u8 = std::ptr::from_ref(item).cast();
    (0..size_of::<T>()).step_by(LINE_BYTES).for_each(|offset| prefetch_line(start.wrapping_add(offset)));
}

/// So many cache lines at a time: more are not under way at once anyway.
const LINES_AHEAD_MAX: usize = 16;

/// The same for those of some items, as far as it makes sense.
#[inline]
pub(crate) fn prefetch_lines<T>(items: &[T]) {
    items.iter().step_by((LINE_BYTES / size_of::<T>()).max(1)).take(LINES_AHEAD_MAX).for_each(prefetch);
    items.last().map(prefetch);
}

/// Where some memory is, for who does not refer to it: it may be gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whereabouts {
    address: usize,
    bytes: usize,
}

impl Whereabouts {
    pub(crate) fn of<T>(items: &[T]) -> Self {
        Self { address: items.as_ptr().addr(), bytes: size_of_val(items) }
    }

    /// See [`prefetch_lines`].
    #[inline]
    pub(crate) fn prefetch(self) {
        let lines = (0..self.bytes).step_by(LINE_BYTES).take(LINES_AHEAD_MAX);
        lines.for_each(|offset| prefetch_line(std::ptr::without_provenance(self.address.wrapping_add(offset))));
    }
}

#[inline]
#[allow(unsafe_code)]
fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch neither reads nor writes as far as the program can tell, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
