//! Streams between two programs.

use std::sync::Arc;
use std::time::Duration;

use farpipe::{Error, Incoming, Service, Settings, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::task::JoinSet;

use crate::net::Net;

/// Longer than anything here takes; a test that waits as long hangs.
const DEADLINE: Duration = Duration::from_secs(60);

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}

/// A program that treats each stream as `serve` does.
fn serving<F>(settings: &Settings, serve: impl Fn(Incoming) -> F + Send + 'static) -> JoinSet<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut service: Service = settings.serve("web1").expect("good settings");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut running = JoinSet::new();
        while let Ok(incoming) = service.accept().await {
            running.spawn(serve(incoming));
        }
    });
    tasks
}

async fn echo(stream: Stream) {
    let (mut reader, mut writer) = stream.into_split();
    copy(&mut reader, &mut writer).await.expect("all of it");
    writer.shutdown().await.expect("it was read");
}

/// Opens one once the program is registered.
async fn open(host: &Settings, endpoint: &str) -> (farpipe::Host, Stream) {
    loop {
        let session = host.connect("web1").expect("good settings");
        match session.open(endpoint).await {
            Ok(stream) => return (session, stream),
            // The relay does not know it yet.
            Err(Error::Session(_)) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_question_and_its_answer_and_half_close_between() {
    let net = Net::new().await;
    let _tasks = serving(&net.settings("web1"), |incoming| async move {
        assert_eq!(incoming.endpoint(), b"sum");
        let who = incoming.caller().expect("certificates").to_owned();
        let mut stream = incoming.accept();
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await.expect("an end");
        let answer = format!("{} bytes from {who}", question.len());
        stream
            .write_all(answer.as_bytes())
            .await
            .expect("it is read");
        stream.shutdown().await.expect("it is read");
    });
    within(async {
        let (host, mut stream) = open(&net.settings("alice"), "sum").await;
        stream
            .write_all(&vec![7; 1_000_000])
            .await
            .expect("it is read");
        let (mut reader, mut writer) = stream.into_split();
        let mut answer = String::new();
        let (ended, read) = tokio::join!(writer.shutdown(), reader.read_to_string(&mut answer));
        ended.expect("it has all");
        read.expect("an end");
        assert!(
            answer.starts_with("1000000 bytes from farpipe://test/client/alice"),
            "{answer}"
        );
        drop((reader, writer));
        host.close().await.expect("all is settled");
    })
    .await;
}

#[tokio::test]
async fn a_relay_that_is_killed_in_the_middle_costs_no_byte() {
    let mut net = Net::new().await;
    let serve = |incoming: Incoming| echo(incoming.accept());
    let _tasks = serving(&net.settings("web1"), serve);
    within(async {
        let (host, stream) = open(&net.settings("alice"), "echo").await;
        let (mut reader, mut writer) = stream.into_split();
        let data: Vec<u8> = (0..8_000_000_u32).map(|n| (n ^ (n >> 11)) as u8).collect();
        let mut back = vec![0; data.len()];
        let (first, rest) = back.split_at_mut(1_000_000);
        let writing = async {
            writer.write_all(&data).await.expect("it is read");
            writer.shutdown().await.expect("it has all");
        };
        let reading = async {
            reader.read_exact(first).await.expect("it comes back");
            net.replace_relay().await;
            reader.read_exact(rest).await.expect("it comes back");
            assert_eq!(reader.read(&mut [0; 1]).await.expect("an end"), 0);
        };
        tokio::join!(writing, reading);
        assert!(back == data, "other bytes came back");
        drop((reader, writer));
        host.close().await.expect("all is settled");
    })
    .await;
}

#[tokio::test]
async fn many_streams_share_a_session() {
    let net = Net::new().await;
    let serve = |incoming: Incoming| echo(incoming.accept());
    let _tasks = serving(&net.settings("web1"), serve);
    within(async {
        let (host, first) = open(&net.settings("alice"), "echo").await;
        drop(first);
        let host = Arc::new(host);
        let ask = async |host: Arc<farpipe::Host>, number: u8| {
            let mut stream = host.open("echo").await.expect("room");
            stream.write_all(&[number; 1000]).await.expect("it is read");
            let mut back = [0; 1000];
            stream.read_exact(&mut back).await.expect("it comes back");
            assert_eq!(back, [number; 1000]);
            stream.shutdown().await.expect("it is read");
            assert_eq!(stream.read(&mut back).await.expect("an end"), 0);
        };
        let mut asking = JoinSet::new();
        for number in 0..50 {
            asking.spawn(ask(Arc::clone(&host), number));
        }
        while let Some(asked) = asking.join_next().await {
            asked.expect("no panic");
        }
        let host = Arc::into_inner(host).expect("the last");
        host.close().await.expect("all is settled");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_had_says_why() {
    let net = Net::new().await;
    let serve = |incoming: Incoming| async move { incoming.refuse("not today") };
    let _tasks = serving(&net.settings("web1"), serve);
    within(async {
        let settings = net.settings("alice");
        let why = loop {
            let host = settings.connect("web1").expect("good settings");
            match host.open("x").await {
                Err(Error::Refused(why)) => break why,
                Err(Error::Session(_)) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(why, "not today");
        let nobody = settings.connect("nobody").expect("good settings");
        let error = nobody.open("x").await.expect_err("nobody is there");
        assert!(
            error.to_string().contains("no agent nobody is registered"),
            "{error}"
        );
    })
    .await;
    for settings in [Settings::new(), Settings::new().relay("nonsense")] {
        let error = settings.connect("web1").expect_err("no relay");
        assert!(matches!(error, Error::Settings(_)), "{error}");
    }
    let error = net
        .settings("alice")
        .connect("no/name")
        .expect_err("no name");
    assert!(matches!(error, Error::Settings(_)), "{error}");
}

#[tokio::test]
async fn whom_only_a_relay_names_is_refused() {
    let net = Net::new().await;
    let serve = |incoming: Incoming| echo(incoming.accept());
    let _tasks = serving(&net.settings("web1"), serve);
    within(async {
        // It is there: who speaks end to end gets in.
        let (_host, _stream) = open(&net.settings("alice"), "echo").await;
        let plain = net.settings("alice").without_end_to_end();
        let host = plain.connect("web1").expect("good settings");
        let error = host
            .open("echo")
            .await
            .expect_err("a relay could be anybody");
        assert!(matches!(error, Error::Refused(_)), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_given_up_is_an_error_and_no_end() {
    let net = Net::new().await;
    let _tasks = serving(&net.settings("web1"), |incoming| async move {
        let mut stream = incoming.accept();
        stream.write_all(b"half of").await.expect("it is read");
        let mut word = [0; 2];
        stream.read_exact(&mut word).await.expect("a word");
        // Without a shutdown.
        drop(stream);
    });
    within(async {
        let (_host, mut stream) = open(&net.settings("alice"), "x").await;
        let mut begun = [0; 7];
        stream.read_exact(&mut begun).await.expect("it comes");
        assert_eq!(&begun, b"half of");
        stream.write_all(b"go").await.expect("it is read");
        let error = stream.read_to_end(&mut Vec::new()).await;
        error.expect_err("it was given up");
    })
    .await;
}

#[tokio::test]
async fn a_name_that_another_certificate_has_is_refused() {
    let net = Net::new().await;
    // A client's certificate is not that of the agent web1.
    let mut service = net.settings("alice").serve("web1").expect("good settings");
    let error = within(service.accept()).await.expect_err("it is refused");
    assert!(matches!(error, Error::NotRegistered(_)), "{error}");
}
