//! `cat` by way of the endpoints: copies stdin to stdout, or another endpoint to another.
//!
//! `stdio_copy [--buffer BYTES] [--head BYTES] [--linger] [SOURCE [SINK]]`, both `-` by default.
//! `--head` stops reading after so many bytes; `--linger` does not exit when all is done, to show
//! what comes of the closing and what only of the exit. Ends with 0 after the sink has been closed,
//! with 141 if its reader went away, else with 125 and a message.

use std::future::{pending, poll_fn};
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

struct Options {
    buffer_size: usize,
    head: usize,
    lingers: bool,
    from: EndpointSpec,
    to: EndpointSpec,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        buffer_size: 512 << 10,
        head: usize::MAX,
        lingers: false,
        from: EndpointSpec::Stdio,
        to: EndpointSpec::Stdio,
    };
    let mut specs = 0;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<usize, Failure> {
            Ok(arguments.next().ok_or("a number is missing")?.parse()?)
        };
        match argument.as_str() {
            "--buffer" => options.buffer_size = number()?,
            "--head" => options.head = number()?,
            "--linger" => options.lingers = true,
            spec => {
                specs += 1;
                let place = match specs {
                    1 => &mut options.from,
                    _ => &mut options.to,
                };
                *place = spec.parse()?;
            }
        }
    }
    Ok(options)
}

async fn run() -> Result<(), Failure> {
    let options = options()?;
    let (from, to) = open(&options.from, &options.to).await?;
    let (Some(source), Some(sink)) = (from.source, to.sink) else {
        return Err("an endpoint without the half that was asked for".into());
    };
    copy(source, sink, &options).await?;
    for mut child in from.child.into_iter().chain(to.child) {
        let exit = child.wait().await?;
        if exit != Exit::Code(0) {
            return Err(format!("a command ended with {exit:?}").into());
        }
    }
    if options.lingers {
        pending::<()>().await;
    }
    Ok(())
}

async fn open(from: &EndpointSpec, to: &EndpointSpec) -> Result<(Endpoint, Endpoint), Failure> {
    if from == to && *from == EndpointSpec::Stdio {
        let mut both = endpoint::open(from, Use::Both).await?;
        let mut sink = Endpoint::default();
        sink.sink = both.sink.take();
        return Ok((both, sink));
    }
    let from = endpoint::open(from, Use::Source).await?;
    Ok((from, endpoint::open(to, Use::Sink).await?))
}

async fn copy(
    mut source: Box<dyn Source>,
    mut sink: Box<dyn Sink>,
    options: &Options,
) -> io::Result<()> {
    let mut buf = BytesMut::with_capacity(options.buffer_size);
    let mut left = options.head;
    while left > 0 {
        buf.clear();
        let max = left.min(options.buffer_size);
        tokio::select! {
            biased;
            _ = poll_fn(|cx| sink.poll_reader_gone(cx)) => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            read = poll_fn(|cx| source.poll_read(cx, &mut buf, max)) => match read? {
                0 => break,
                len => left -= len,
            },
        }
        let mut rest = &buf[..];
        while !rest.is_empty() {
            let len = poll_fn(|cx| sink.poll_write(cx, &[IoSlice::new(rest)])).await?;
            rest.advance(len);
        }
    }
    drop(source);
    poll_fn(|cx| sink.poll_close(cx)).await
}

#[expect(clippy::print_stderr, reason = "an example has no output module")]
fn tell(text: &str) {
    eprintln!("{text}");
}
