//! `cat` by way of the endpoints: copies stdin to stdout, or another endpoint to another.
//!
//! `stdio_copy [--buffer BYTES] [SOURCE [SINK]]`, both `-` by default. Ends with 0 after the sink
//! has been closed, with 141 if its reader went away, else with 125 and a message.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::process::ExitCode;

use bytes::{Buf, BytesMut};
use farpipe_agent::endpoint::{self, Endpoint, EndpointSpec, Exit, Sink, Source, Use};

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let broken = failure
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
            let mut cause: Option<&dyn std::error::Error> = Some(&*failure);
            let mut text = String::from("stdio_copy");
            while let Some(error) = cause {
                text += &format!(": {error}");
                cause = error.source();
            }
            tell(&text);
            ExitCode::from(if broken { 141 } else { 125 })
        }
    }
}

async fn run() -> Result<(), Failure> {
    let mut buffer_size = 512 << 10;
    let mut specs = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--buffer" {
            buffer_size = arguments.next().ok_or("--buffer needs a number")?.parse()?;
        } else {
            specs.push(argument.parse::<EndpointSpec>()?);
        }
    }
    let stdio = [EndpointSpec::Stdio, EndpointSpec::Stdio];
    let [from, to] = match <[EndpointSpec; 2]>::try_from(specs) {
        Ok(both) => both,
        Err(specs) => match <[EndpointSpec; 1]>::try_from(specs) {
            Ok([from]) => [from, EndpointSpec::Stdio],
            Err(_) => stdio,
        },
    };
    let (from, to) = open(&from, &to).await?;
    let (Some(source), Some(sink)) = (from.source, to.sink) else {
        return Err("an endpoint without the half that was asked for".into());
    };
    copy(source, sink, buffer_size).await?;
    for mut child in from.child.into_iter().chain(to.child) {
        let exit = child.wait().await?;
        if exit != Exit::Code(0) {
            return Err(format!("a command ended with {exit:?}").into());
        }
    }
    Ok(())
}

async fn open(from: &EndpointSpec, to: &EndpointSpec) -> Result<(Endpoint, Endpoint), Failure> {
    if from == to && *from == EndpointSpec::Stdio {
        let mut both = endpoint::open(from, Use::Both).await?;
        let sink = Endpoint {
            source: None,
            sink: both.sink.take(),
            child: None,
            size_hint: None,
            source_is_terminal: false,
        };
        return Ok((both, sink));
    }
    let from = endpoint::open(from, Use::Source).await?;
    Ok((from, endpoint::open(to, Use::Sink).await?))
}

async fn copy(
    mut source: Box<dyn Source>,
    mut sink: Box<dyn Sink>,
    buffer_size: usize,
) -> io::Result<()> {
    let mut buf = BytesMut::with_capacity(buffer_size);
    loop {
        buf.clear();
        tokio::select! {
            biased;
            () = poll_fn(|cx| sink.poll_reader_gone(cx)) => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            read = poll_fn(|cx| source.poll_read(cx, &mut buf, buffer_size)) => {
                if read? == 0 {
                    break;
                }
            }
        }
        let mut rest = &buf[..];
        while !rest.is_empty() {
            let len = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(rest)])).await?;
            rest.advance(len);
        }
    }
    poll_fn(|cx| sink.poll_close(cx)).await
}

#[expect(clippy::print_stderr, reason = "an example has no output module")]
fn tell(text: &str) {
    eprintln!("{text}");
}
