//! Looking for what must not have been written: all bytes of a folder, and a text in them.

use std::{fs, path::Path};

/// Whether the text is in the bytes.
pub fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The contents of every file below a folder; a file that cannot be read is empty.
pub fn files_below(folder: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            Ok(_) => found.push(fs::read(entry.path()).unwrap_or_default()),
            Err(_) => {}
        }
    }
    found
}
