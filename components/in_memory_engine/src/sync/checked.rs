//! The model checkers' types, with the methods of those that they stand in for.
//!
//! **How it works.** A pointer that can be swapped is a lock around the pointer: that is what it promises. With `loom`, which
//! makes an atomic known to the execution that is running, atomics are made at their first use, since ours are constants.
//!
//! **Must not** promise more than the real thing: loom's [`OnceLock`] publishes its value by an acquire and a release.

use std::sync::{Arc, PoisonError};

#[cfg(feature = "loom")]
use loom::sync as checker;
#[cfg(not(feature = "loom"))]
use shuttle::sync as checker;

#[cfg(feature = "loom")]
pub(crate) use of_loom::{AtomicBool, AtomicU64, AtomicUsize, OnceLock};
#[cfg(not(feature = "loom"))]
pub(crate) use {
    shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize},
    std::sync::OnceLock,
};

/// Like `parking_lot`'s: not poisoned.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(checker::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(checker::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> checker::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Like `parking_lot`'s: not poisoned.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(checker::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn read(&self) -> checker::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> checker::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) type ArcSwap<T> = Swap<Arc<T>>;
pub(crate) type ArcSwapOption<T> = Swap<Option<Arc<T>>>;

/// A pointer that can be swapped.
#[derive(Debug, Default)]
pub(crate) struct Swap<P>(Mutex<P>);

impl<P: Clone> Swap<P> {
    pub(crate) fn new(pointer: P) -> Self {
        Self(Mutex::new(pointer))
    }

    pub(crate) fn load(&self) -> P {
        self.0.lock().clone()
    }

    pub(crate) fn load_full(&self) -> P {
        self.load()
    }

    pub(crate) fn store(&self, pointer: P) {
        drop(self.swap(pointer));
    }

    pub(crate) fn swap(&self, pointer: P) -> P {
        std::mem::replace(&mut *self.0.lock(), pointer)
    }
}

impl<T> Swap<Option<Arc<T>>> {
    pub(crate) fn empty() -> Self {
        Self(Mutex::new(None))
    }
}

#[cfg(feature = "loom")]
mod of_loom {
    use std::sync::atomic::Ordering;

    use loom::sync::atomic;

    /// Defines an atomic that is made at its first use. Threads must not race for that.
    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug, Default)]
            pub(crate) struct $name {
                initial: $value,
                made: std::sync::OnceLock<atomic::$name>,
            }

            #[allow(dead_code)] // Not each one is used in each way.
            impl $name {
                pub(crate) const fn new(initial: $value) -> Self {
                    Self { initial, made: std::sync::OnceLock::new() }
                }

                fn get(&self) -> &atomic::$name {
                    self.made.get_or_init(|| atomic::$name::new(self.initial))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    self.get().load(order)
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    self.get().store(value, order);
                }

                pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.get().swap(value, order)
                }

                pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    self.get().fetch_or(value, order)
                }

                pub(crate) fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    update: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    self.get().fetch_update(set, fetch, update)
                }
            }
        };
    }

    /// What only numbers have.
    macro_rules! numeric {
        ($name:ident, $value:ty) => {
            atomic!($name, $value);

            #[allow(dead_code)] // Not each one is used in each way.
            impl $name {
                pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.get().fetch_add(value, order)
                }

                pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    self.get().fetch_sub(value, order)
                }

                pub(crate) fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    self.get().fetch_max(value, order)
                }
            }
        };
    }

    atomic!(AtomicBool, bool);
    numeric!(AtomicU64, u64);
    numeric!(AtomicUsize, usize);

    /// A value that is set once by one thread, for others to find or not.
    #[derive(Debug)]
    pub(crate) struct OnceLock<T> {
        is_set: atomic::AtomicBool,
        value: std::sync::OnceLock<T>,
    }

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            Self::new()
        }
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self { is_set: atomic::AtomicBool::new(false), value: std::sync::OnceLock::new() }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            if self.is_set.load(Ordering::Acquire) { self.value.get() } else { None }
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            self.value.set(value)?;
            self.is_set.store(true, Ordering::Release);
            Ok(())
        }

        /// To be called by the one thread that sets it.
        pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
            if self.value.get().is_none() {
                let _ = self.set(init());
            }
            self.value.get().expect("it was set just now, or before")
        }
    }
}
