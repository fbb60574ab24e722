//! Whole-system tests in simulated time.
//!
//! [`pair`] joins the two ends of a session by a link whose every byte is accounted for; [`model`]
//! plays random operations on it against a reference; [`codec`] checks the frame codecs, [`messages`] what is in them. All of it
//! is a function of its input (a seed, or bytes that a fuzzer chose), so a failure can be played
//! again.

pub mod codec;
pub mod draw;
pub mod messages;
pub mod model;
pub mod net;
pub mod pair;
