//! Checks of the frame codecs on arbitrary bytes.
