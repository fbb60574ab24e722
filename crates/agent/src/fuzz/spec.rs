//! Endpoints as they are typed, and as they are asked for on the wire.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use farpipe_net::redacted;

use crate::endpoint::EndpointSpec;

/// An endpoint is the same when it is read again; what is shown of it is read as something that is shown
/// the same.
pub fn endpoint_spec(data: &[u8]) {
    let parsed = EndpointSpec::parse(OsStr::from_bytes(data));
    let spec = match parsed {
        Ok(spec) => spec,
        Err(error) => {
            // It says something, however odd the text.
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let bytes = spec.to_bytes();
    let again = EndpointSpec::parse(OsStr::from_bytes(&bytes));
    assert_eq!(again.as_ref(), Ok(&spec), "{:?}", OsStr::from_bytes(&bytes));
    let shown = spec.to_string();
    let again: EndpointSpec = shown.parse().expect("what is shown is an endpoint");
    assert_eq!(again.to_string(), shown);
    if std::str::from_utf8(data).is_ok() && redacted(&shown) == String::from_utf8_lossy(&bytes) {
        assert_eq!(again, spec);
    }
}
