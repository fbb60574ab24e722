//! The file of a token store.

use std::path::Path;

use super::entry::{read_all, write_all};

/// A file is refused with its name and place, or means the same when it is written again.
pub fn token_store(data: &[u8]) {
    let path = Path::new("tokens");
    match read_all(path, data.to_vec()) {
        Ok(entries) => {
            let written = write_all(&entries);
            let again = read_all(path, written.into_bytes()).expect("what is written can be read");
            assert_eq!(again, entries);
        }
        Err(error) => assert!(error.to_string().starts_with("tokens"), "{error}"),
    }
}
