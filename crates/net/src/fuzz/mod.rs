//! Fuzz targets of what neighbours, servers, proxies and users say (docs/fuzzing.md).
//!
//! One function a target: the fuzzer gives it bytes, and tests on the ordinary compiler give it the
//! seeds. Whatever comes, a target panics only when a rule is broken that it names.

mod carriers;
mod pieces;
mod proxies;
mod texts;
mod upgrades;

pub use self::carriers::{accepted_link, dialled_link, fp_frames, ws_frames};
pub use self::pieces::{Pieces, finished};
pub use self::proxies::{proxy_http, proxy_socks};
pub use self::texts::{ticket, token, urls};
pub use self::upgrades::{upgrade_answer, upgrade_request};
pub use crate::carrier::ws::raw::fuzz::{foreign_frames, foreign_upgrade, inflate};
pub use crate::tls::fuzz::certificate;
pub use crate::token::fuzz::token_store;
