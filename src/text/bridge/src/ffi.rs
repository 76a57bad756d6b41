//! What crosses the C boundary, and the guard every function stands behind.

use std::any::Any;
use std::panic::{catch_unwind, set_hook, AssertUnwindSafe};
use std::sync::Once;

/// Bytes owned by the caller, valid for the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slice {
    data: *const u8,
    size: usize,
}

impl Slice {
    /// # Safety
    /// `data` points to `size` readable bytes, or `size` is 0.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.size == 0 {
            &[]
        } else {
            std::slice::from_raw_parts(self.data, self.size)
        }
    }

    /// # Safety
    /// As `bytes`.
    pub unsafe fn text<'a>(self, what: &str) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes())
            .map_err(|error| format!("{what} is not UTF-8: bad byte at offset {}", error.valid_up_to()))
    }
}

/// A Rust vector handed to C; freed by handing it back.
#[repr(C)]
pub struct Owned<T> {
    data: *mut T,
    size: usize,
    capacity: usize,
}

pub type Bytes = Owned<u8>;
pub type Ids = Owned<u32>;

impl<T> Owned<T> {
    fn release(self) {
        if self.capacity != 0 {
            drop(unsafe { Vec::from_raw_parts(self.data, self.size, self.capacity) });
        }
    }

    /// # Safety
    /// `out` points to a writable, zeroed struct.
    pub unsafe fn give(out: *mut Self, items: Vec<T>) {
        let mut items = std::mem::ManuallyDrop::new(items);
        out.write(Owned { data: items.as_mut_ptr(), size: items.len(), capacity: items.capacity() });
    }
}

#[no_mangle]
pub extern "C" fn coterie_bytes_free(bytes: Bytes) {
    bytes.release();
}

#[no_mangle]
pub extern "C" fn coterie_ids_free(ids: Ids) {
    ids.release();
}

fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| text.to_string())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panic without a message".to_string())
}

/// Runs `work`; no panic leaves it. 0 is success, 1 an error, 2 a panic, both with a sentence in `error`.
pub fn guard(error: *mut Bytes, work: impl FnOnce() -> Result<(), String>) -> i32 {
    // A library prints nothing: the panic's text travels in `error` instead.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| set_hook(Box::new(|_| {})));
    let (code, message) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return 0,
        Ok(Err(message)) => (1, message),
        Err(payload) => (2, panic_text(payload)),
    };
    unsafe { Bytes::give(error, message.into_bytes()) };
    code
}
