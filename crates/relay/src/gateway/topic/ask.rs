//! What a request for a topic asks for: read from its method, its query and some lines of its head.

use std::time::Duration;

use farpipe_net::carrier::ws::raw::ForeignRequest;
use farpipe_proto::limits::{GATEWAY_KEEP_WAIT, GATEWAY_KEEP_WAIT_MAX};
use farpipe_record::ProducerId;

use super::super::answer::Answer;
use crate::topics::follow::{Span, Start, Until};
use crate::topics::take::Taking;

/// What the paths of topics begin with.
pub(in super::super) const PREFIX: &str = "/t/";

/// The methods that a topic has.
const METHODS: &str = "GET, HEAD, PUT, POST";

/// Places that are said at once, at most: a topic has as many partitions.
const PLACES_MAX: usize = 64;

/// What is asked of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Wanted {
    /// What there is of it.
    Head,
    /// The body is published.
    Publish(Publish),
    /// It is read.
    Follow(Follow),
    /// A ticket for a WebSocket.
    Ticket,
}

/// How a body is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Publish {
    pub(super) taking: Taking,
    pub(super) records: Records,
}

/// What of a body is a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Records {
    Lines,
    Whole,
}

/// How a topic is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Follow {
    pub(super) span: Span,
    /// Records at most.
    pub(super) count: Option<u64>,
    pub(super) way: Way,
    pub(super) shown: Shown,
}

impl Follow {
    /// Whether it is read by a WebSocket.
    pub(in super::super) fn is_socket(&self) -> bool {
        self.way == Way::Socket
    }
}

/// What carries records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Lines,
    Events,
    Socket,
}

/// What a record looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Its value, as it is.
    Value,
    /// All that there is to say of it.
    Json,
}

impl Wanted {
    /// # Errors
    /// The answer that refuses it.
    pub(in super::super) fn of(request: &ForeignRequest, query: &str) -> Result<Self, Answer> {
        let mut options = Options::of(query)?;
        if request.lists("Upgrade", "websocket") {
            return follow(request, options, Way::Socket);
        }
        let wanted = match request.method.as_str() {
            "GET" if accepts_events(request) => follow(request, options, Way::Events)?,
            "GET" => follow(request, options, Way::Lines)?,
            "HEAD" => Self::Head,
            "POST" if options.take("ticket")?.is_some() => {
                options.end("ticket")?;
                Self::Ticket
            }
            "PUT" | "POST" => publish(request, options)?,
            _ => {
                let why = "a topic is read by GET and published to by PUT or POST";
                return Err(Answer::line(405, why).with("Allow", METHODS));
            }
        };
        Ok(wanted)
    }
}

fn accepts_events(request: &ForeignRequest) -> bool {
    let mut members = request.members("Accept");
    members.any(|member| {
        let kind = member.split(|byte| *byte == b';').next();
        kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
    })
}

fn publish(request: &ForeignRequest, mut options: Options) -> Result<Wanted, Answer> {
    let records = match options.flag("raw")? {
        true => Records::Whole,
        false => Records::Lines,
    };
    let partition = options.number("partition")?;
    let wait = options.number("wait")?.map_or(GATEWAY_KEEP_WAIT, |secs| {
        Duration::from_secs(secs).min(GATEWAY_KEEP_WAIT_MAX)
    });
    let producer = said(request, &mut options, "producer", "Farpipe-Producer")?;
    let sequence = said(request, &mut options, "sequence", "Farpipe-Sequence")?;
    options.end("raw, partition, producer, sequence, wait; POST: ticket")?;
    let sequence = sequence.map(|text| number(&text, "sequence")).transpose()?;
    let producer = match (&producer, sequence, records) {
        (Some(name), _, _) if name.is_empty() => {
            return Err(Answer::line(400, "a producer's name is empty"));
        }
        (None, Some(_), _) => {
            let why = "a sequence is a producer's: say Farpipe-Producer as well";
            return Err(Answer::line(400, why));
        }
        // Else each would be its first one, and all but one of them lost.
        (Some(_), None, Records::Whole) => {
            let why = "a producer's raw record needs its number: say Farpipe-Sequence as well";
            return Err(Answer::line(400, why));
        }
        (Some(name), ..) => ProducerId::named(name),
        (None, None, _) => ProducerId::NONE,
    };
    Ok(Wanted::Publish(Publish {
        taking: Taking {
            producer,
            sequence: sequence.unwrap_or(0),
            partition,
            wait,
        },
        records,
    }))
}

/// What is said in the head or in the query.
fn said(
    request: &ForeignRequest,
    options: &mut Options,
    option: &'static str,
    line: &'static str,
) -> Result<Option<String>, Answer> {
    let asked = options.take(option)?;
    if request.values(line).next().is_none() {
        return Ok(asked);
    }
    match (request.only(line), asked) {
        (Some(text), None) => Ok(Some(text.to_owned())),
        (_, Some(_)) => Err(Answer::line(
            400,
            format!("{line} is said in the head and in the query"),
        )),
        (None, None) => Err(Answer::line(400, format!("{line} is one line of text"))),
    }
}

fn follow(request: &ForeignRequest, mut options: Options, way: Way) -> Result<Wanted, Answer> {
    let known = match way {
        Way::Socket => "from, count, follow, partition, raw",
        Way::Lines | Way::Events => "from, count, follow, partition, json",
    };
    let from = options.take("from")?;
    let mut from = from.map_or(Ok(Start::Latest), |text| start(&text))?;
    let count = options.number("count")?;
    let partition = options.number("partition")?;
    let until = match options.take("follow")?.as_deref() {
        None | Some("" | "true") => Until::Never,
        Some("false") => Until::End,
        Some(_) => return Err(Answer::line(400, "follow is true or false")),
    };
    let shown = match way {
        Way::Socket if options.flag("raw")? => Shown::Value,
        Way::Socket => Shown::Json,
        Way::Lines | Way::Events if options.flag("json")? => Shown::Json,
        Way::Lines | Way::Events => Shown::Value,
    };
    options.end(known)?;
    if way == Way::Events && request.values("Last-Event-ID").next().is_some() {
        // It asks again for the same address: where it was is newer.
        let last = request.only("Last-Event-ID").and_then(behind);
        let bad = || Answer::line(400, "Last-Event-ID is none that was given here");
        from = last.ok_or_else(bad)?;
    }
    let has_body = request.values("Transfer-Encoding").next().is_some()
        || request
            .values("Content-Length")
            .any(|length| length != b"0");
    if has_body {
        return Err(Answer::line(400, "this request has no body"));
    }
    Ok(Wanted::Follow(Follow {
        span: Span {
            from,
            partition,
            until,
        },
        count,
        way,
        shown,
    }))
}

/// `earliest`, `latest`, an offset, or an offset of each of some partitions.
fn start(text: &str) -> Result<Start, Answer> {
    let bad = || {
        let why = "from is earliest, latest, an OFFSET, or PARTITION:OFFSET,PARTITION:OFFSET,…";
        Answer::line(400, why)
    };
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        _ if text.contains(':') => {
            let places = places(text, digits).ok_or_else(bad)?;
            Ok(Start::Places(places))
        }
        _ => digits(text).map(Start::Offset).ok_or_else(bad),
    }
}

/// Behind what an event's id says: it is the last that was read, and -1 is before the first.
fn behind(id: &str) -> Option<Start> {
    let next = |offset: &str| match offset {
        "-1" => Some(0),
        _ => digits(offset)?.checked_add(1),
    };
    match id.contains(':') {
        true => places(id, next).map(Start::Places),
        false => next(id).map(Start::Offset),
    }
}

fn places(text: &str, offset: impl Fn(&str) -> Option<u64>) -> Option<Vec<(u32, u64)>> {
    let mut places = Vec::new();
    for place in text.split(',') {
        let (number, at) = place.split_once(':')?;
        let number = u32::try_from(digits(number)?).ok()?;
        let is_known = places.iter().any(|(known, _)| *known == number);
        if is_known || places.len() == PLACES_MAX {
            return None;
        }
        places.push((number, offset(at)?));
    }
    Some(places)
}

fn digits(text: &str) -> Option<u64> {
    let are_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| text.parse().ok())?
}

fn number<T: TryFrom<u64>>(text: &str, name: &str) -> Result<T, Answer> {
    let number = digits(text).and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| Answer::line(400, format!("{name} is a number")))
}

/// A query's options that were not looked at.
#[derive(Debug)]
struct Options(Vec<(String, String)>);

impl Options {
    fn of(query: &str) -> Result<Self, Answer> {
        let bad = || Answer::line(400, "the query is no text in percent encoding");
        let mut options = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = plain(value).ok_or_else(bad)?;
            options.push((plain(name).ok_or_else(bad)?, value));
        }
        Ok(Self(options))
    }

    /// The value of an option; empty, if it has none.
    fn take(&mut self, name: &str) -> Result<Option<String>, Answer> {
        let Some(at) = self.0.iter().position(|(option, _)| option == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.remove(at);
        match self.0.iter().any(|(option, _)| option == name) {
            true => Err(Answer::line(400, format!("{name} is said twice"))),
            false => Ok(Some(value)),
        }
    }

    fn number<T: TryFrom<u64>>(&mut self, name: &str) -> Result<Option<T>, Answer> {
        let text = self.take(name)?;
        text.map(|text| number(&text, name)).transpose()
    }

    fn flag(&mut self, name: &str) -> Result<bool, Answer> {
        match self.take(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(_) => Err(Answer::line(400, format!("{name} is true or false"))),
        }
    }

    /// # Errors
    /// There are others.
    fn end(self, known: &str) -> Result<(), Answer> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let name = name.escape_debug();
                let why = format!("an unknown option: {name}; known are {known}");
                Err(Answer::line(400, why))
            }
        }
    }
}

/// Text without its percent encoding; `None`: it is none.
fn plain(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (code, behind) = rest.split_first_chunk::<2>()?;
                let code = std::str::from_utf8(code).ok()?;
                let is_hex = code.bytes().all(|byte| byte.is_ascii_hexdigit());
                bytes.push(is_hex.then(|| u8::from_str_radix(code, 16).ok())??);
                rest = behind;
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
