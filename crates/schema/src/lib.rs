//! Values that are Protobuf messages of a kind that a `.proto` file says: whether they are, and how they read as JSON
//! (<https://protobuf.dev/programming-guides/json/>). The file is read once; it may import others from its own directory.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};

/// A kind of message.
#[derive(Debug, Clone)]
pub struct Schema {
    message: MessageDescriptor,
}

/// Why there is no schema. Whoever named it is to blame.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read, or is none.
    #[error("{0}")]
    File(String),
    /// It has no such message.
    #[error("{} has no message {name}; it has {known}", file.display())]
    NoMessage {
        /// The file.
        file: PathBuf,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// It has several, and none was named.
    #[error("{} has several messages, name one as FILE:MESSAGE: {known}", file.display())]
    Several {
        /// The file.
        file: PathBuf,
        /// What there is.
        known: String,
    },
    /// It has none at all.
    #[error("{} has no message", .0.display())]
    Empty(PathBuf),
}

/// What is no message of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// No Protobuf, cut off, of another kind, or too deep (100 messages in one another).
    #[error("it is no {0}: {1}")]
    Decode(String, String),
    /// A field that the file does not say.
    #[error("it is no {message}: {path} has a field of number {number} that is not there")]
    Unknown {
        /// The kind of message.
        message: String,
        /// Where in it.
        path: String,
        /// The field.
        number: u32,
    },
    /// JSON of something else.
    #[error("it is no {0} in JSON: {1}")]
    Json(String, String),
}

impl Schema {
    /// Reads a file, and takes the message of that name (with its package or without); with `None` the only one.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(file: &Path, message: Option<&str>) -> Result<Self, LoadError> {
        let dir = match file.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        let read = protox::Compiler::new([dir]).and_then(|mut compiler| {
            compiler.include_imports(true).open_file(file)?;
            Ok((
                compiler.descriptor_pool(),
                compiler.files().last().map(|last| last.name().to_owned()),
            ))
        });
        // Several lines, with the place: the message of a compiler.
        let (pool, name) = read.map_err(|error| LoadError::File(format!("{error:?}")))?;
        let here = name.and_then(|name| pool.get_file_by_name(&name));
        let all: Vec<_> = here.iter().flat_map(|file| file.messages()).collect();
        let file = file.to_owned();
        let names = all.iter().map(|one| one.full_name().to_owned());
        let known = names.collect::<Vec<_>>().join(", ");
        match message {
            Some(name) => {
                let nested = pool.get_message_by_name(name);
                let found = all
                    .iter()
                    .find(|one| one.full_name() == name || one.name() == name);
                let name = name.to_owned();
                match found.cloned().or(nested) {
                    Some(message) => Ok(Self { message }),
                    None => Err(LoadError::NoMessage { file, name, known }),
                }
            }
            None => match &all[..] {
                [] => Err(LoadError::Empty(file)),
                [only] => Ok(Self {
                    message: only.clone(),
                }),
                _ => Err(LoadError::Several { file, known }),
            },
        }
    }

    /// Whether it is one, all of it.
    ///
    /// # Errors
    /// [`ValueError`].
    pub fn check(&self, value: &[u8]) -> Result<(), ValueError> {
        self.decoded(value).map(drop)
    }

    /// The message as JSON.
    ///
    /// # Errors
    /// [`ValueError`].
    pub fn to_json(&self, value: &[u8]) -> Result<serde_json::Value, ValueError> {
        let message = self.decoded(value)?;
        serde_json::to_value(message).map_err(|error| self.no_json(&error))
    }

    /// The message that this JSON says.
    ///
    /// # Errors
    /// [`ValueError::Json`].
    pub fn encode(&self, json: serde_json::Value) -> Result<Bytes, ValueError> {
        let message = DynamicMessage::deserialize(self.message.clone(), json);
        let message = message.map_err(|error| self.no_json(&error))?;
        Ok(message.encode_to_vec().into())
    }

    fn no_json(&self, error: &serde_json::Error) -> ValueError {
        ValueError::Json(self.message.full_name().to_owned(), error.to_string())
    }

    fn decoded(&self, value: &[u8]) -> Result<DynamicMessage, ValueError> {
        let name = || self.message.full_name().to_owned();
        let message = DynamicMessage::decode(self.message.clone(), value)
            .map_err(|error| ValueError::Decode(name(), error.to_string()))?;
        match unknown(&message, self.message.name()) {
            None => Ok(message),
            Some((path, number)) => Err(ValueError::Unknown {
                message: name(),
                path,
                number,
            }),
        }
    }
}

/// The first field that no file says, in the message or those in it.
fn unknown(message: &DynamicMessage, path: &str) -> Option<(String, u32)> {
    if let Some(field) = message.unknown_fields().next() {
        return Some((path.to_owned(), field.number()));
    }
    message.fields().find_map(|(field, value)| {
        let path = format!("{path}.{}", field.name());
        match value {
            Value::Message(inner) => unknown(inner, &path),
            Value::List(all) => all.iter().find_map(|one| unknown(one.as_message()?, &path)),
            Value::Map(all) => all
                .values()
                .find_map(|one| unknown(one.as_message()?, &path)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = r#"
        syntax = "proto3";
        package chat.v1;
        message ChatMessage {
          string sender = 1;
          string content = 2;
          int64 timestamp = 3;
          repeated ChatMessage replies = 4;
        }
    "#;

    fn loaded(text: &str, message: Option<&str>) -> Result<Schema, LoadError> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("chat.proto");
        std::fs::write(&file, text).expect("written");
        Schema::load(&file, message)
    }

    #[test]
    fn a_message_is_told_as_json_and_made_of_it() {
        let schema = loaded(CHAT, None).expect("the only message");
        let json = serde_json::json!({
            "sender": "ada", "content": "hi", "timestamp": "1795817087",
            "replies": [{"sender": "bob"}],
        });
        let bytes = schema.encode(json.clone()).expect("a message");
        // As protoc --encode writes it.
        let known = b"\x0a\x03ada\x12\x02hi\x18\xff\xfc\xa7\xd8\x06\x22\x05\x0a\x03bob";
        assert_eq!(&bytes[..], known);
        assert_eq!(schema.to_json(&bytes).expect("told"), json);
        schema.check(&bytes).expect("one");
        schema.check(b"").expect("an empty message is one");
    }

    #[test]
    fn what_is_another_message_is_refused_with_the_place() {
        let schema = loaded(CHAT, Some("ChatMessage")).expect("by its name");
        let refused = |bytes: &[u8]| schema.check(bytes).expect_err("refused").to_string();
        assert!(refused(b"hello").contains("it is no chat.v1.ChatMessage"));
        assert!(refused(b"\x0a\x05ada").contains("it is no chat.v1.ChatMessage"));
        assert!(refused(b"\x38\x01").contains("ChatMessage has a field of number 7"));
        assert!(
            refused(b"\x22\x02\x38\x01").contains("ChatMessage.replies has a field of number 7")
        );
        let json = serde_json::json!({"sender": "ada", "colour": "red"});
        assert!(
            schema
                .encode(json)
                .expect_err("refused")
                .to_string()
                .contains("colour")
        );
    }

    #[test]
    fn a_message_in_ten_thousand_others_is_refused_and_breaks_no_stack() {
        let schema = loaded(CHAT, None).expect("a schema");
        let mut deep: Vec<u8> = Vec::new();
        for _ in 0..10_000 {
            let mut outer = vec![0x22];
            prost::encode_length_delimiter(deep.len(), &mut outer).expect("room");
            outer.extend(&deep);
            deep = outer;
        }
        let refused = schema.check(&deep).expect_err("too deep").to_string();
        assert!(refused.contains("recursion limit"), "{refused}");
    }

    #[test]
    fn a_file_without_the_message_says_what_it_has() {
        let two = format!("{CHAT} message Other {{}}");
        let error = |text: &str, name| loaded(text, name).expect_err("refused").to_string();
        assert!(error(&two, None).contains("chat.v1.ChatMessage, chat.v1.Other"));
        assert!(
            error(CHAT, Some("Chat")).contains("has no message Chat; it has chat.v1.ChatMessage")
        );
        assert!(error("syntax = \"proto3\";", None).contains("has no message"));
        assert!(error("message {", None).contains("chat.proto"));
        assert!(loaded(&two, Some("chat.v1.Other")).is_ok());
    }
}
