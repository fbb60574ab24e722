//! Endpoints as they are typed, and as they are asked for on the wire.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::endpoint::EndpointSpec;

/// An endpoint is the same when it is read again, and so is what is shown of it where nothing is hidden.
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
    // Where something is hidden, it need not be an endpoint.
    let is_all = std::str::from_utf8(data).is_ok() && shown.as_bytes() == bytes;
    match shown.parse::<EndpointSpec>() {
        Ok(again) => assert!(!is_all || again == spec, "{shown}"),
        Err(error) => assert!(!is_all, "{shown}: {error}"),
    }
}
