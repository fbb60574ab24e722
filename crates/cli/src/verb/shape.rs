//! How records stand on stdin and stdout: the flags that `pub` and `sub` share.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use farpipe_agent::topic::format::{Format, Shape, ValueKind};
use farpipe_schema::Schema;

use super::topic_route::{failed, separator};

/// How records stand in a stream.
#[derive(Debug, Args)]
pub(crate) struct ShapeArgs {
    /// How records stand in the stream. `lines`: one each. `raw`: all of stdin is one record, and what is written has nothing between
    /// them. `json`: an object in a line each, with key, value, headers and time. `delimited`: Protobuf messages, each with its
    /// length in front as a varint
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "lines")]
    format: FormatArg,
    /// A line's key is what stands before this character (or TAB), and the rest its value. Lines of one key stay in order, in one
    /// partition
    #[arg(long, value_name = "CHAR", value_parser = separator)]
    key_separator: Option<u8>,
    /// Values are Protobuf messages of this kind: each is checked before it is published, and stands in JSON as what it
    /// says. MESSAGE may be left out where a file has only one
    #[arg(long, value_name = "FILE[:MESSAGE]")]
    schema: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    Lines,
    Raw,
    Json,
    Delimited,
}

impl ShapeArgs {
    /// What they say.
    pub(crate) fn shape(&self) -> anyhow::Result<Shape> {
        let format = match self.format {
            FormatArg::Lines => Format::Lines,
            FormatArg::Raw => Format::Raw,
            FormatArg::Json => Format::Json,
            FormatArg::Delimited => Format::Delimited,
        };
        if format != Format::Lines && self.key_separator.is_some() {
            let why =
                "--key-separator goes with --format lines; with json a key stands in its field";
            return Err(failed(why.to_owned()));
        }
        if format == Format::Lines && self.schema.is_some() {
            let why = "--schema goes with --format json, delimited or raw: a Protobuf message may have line ends in it";
            return Err(failed(why.to_owned()));
        }
        let kind = match &self.schema {
            Some(text) => Some(Arc::new(kind(text)?) as Arc<dyn ValueKind>),
            None => None,
        };
        Ok(Shape {
            format,
            key_separator: self.key_separator,
            kind,
        })
    }
}

fn kind(text: &str) -> anyhow::Result<Kind> {
    let (file, message) = match text.rsplit_once(':') {
        Some((file, message)) if !message.contains('/') => (file, Some(message)),
        _ => (text, None),
    };
    let loaded = Schema::load(Path::new(file), message);
    loaded
        .map(Kind)
        .map_err(|error| failed(format!("--schema {text}: {error}")))
}

/// Messages of a `.proto` file.
#[derive(Debug)]
struct Kind(Schema);

impl ValueKind for Kind {
    fn check(&self, value: &[u8]) -> Result<(), String> {
        self.0.check(value).map_err(|error| error.to_string())
    }

    fn encode(&self, json: serde_json::Value) -> Result<Bytes, String> {
        self.0.encode(json).map_err(|error| error.to_string())
    }

    fn to_json(&self, value: &[u8]) -> Option<serde_json::Value> {
        self.0.to_json(value).ok()
    }
}
