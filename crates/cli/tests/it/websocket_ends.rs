//! How ws: and ws-listen: end: what each side of a pipe makes of a Close, and what pages see when a
//! pipe ends first.

use crate::support::websocket::dial;
use crate::support::{Host, Listener};

/// Says all and closes, as a client that uploads does.
fn upload(listener: &Listener) {
    let mut ws = dial(listener, "");
    ws.send(0x82, b"all of it");
    ws.send(0x88, &[3, 232]);
    assert_eq!(ws.next(), (0x88, vec![3, 232]));
}

#[test]
fn an_upload_that_is_closed_in_order_is_a_success_though_nothing_was_answered() {
    let host = Host::new();
    for (script, status) in [("cat >out; exit 0", 0), ("cat >out; exit 3", 3)] {
        let command = format!("sh:{script}");
        let args = ["pipe", "--once", "ws-listen:0", &command];
        let listener = host.farpipe(args).start_listening();
        upload(&listener);
        listener.end().exits(status);
        assert_eq!(host.content("out"), b"all of it");
    }
    // stdin is open, and silent.
    let args = ["pipe", "--once", "ws-listen:0", "-"];
    let listener = host.farpipe(args).open_input().start_listening();
    upload(&listener);
    listener.end().exits(0).printed("all of it");
    // Between hosts neither side has lost anything.
    for compress in ["none", "zstd"] {
        for endpoint in ["-", "sh:cat >out; exit 0"] {
            let far = host.listen("ws").arg(endpoint).open_input();
            let far = far.start_listening();
            let near = host.connect(far.url());
            let near = near.args(["--once", "ws-listen:0", "--compress", compress]);
            let near = near.start_listening();
            upload(&near);
            near.end().exits(0);
            far.end().exits(0);
        }
    }
}

/// What is still said to who has left is lost, and that is told as ever.
#[test]
fn who_has_something_to_say_after_the_close_gets_what_a_closed_pipe_gives() {
    let host = Host::new();
    host.fifo("go");
    let script = "sh:cat >out; read word <go; echo late; echo later";
    let args = ["pipe", "--once", "ws-listen:0", script];
    let listener = host.farpipe(args).start_listening();
    upload(&listener);
    host.shell("echo now >go").run().exits(0);
    listener.end().exits(141);

    let far = host.listen("ws").arg(script).start_listening();
    let near = host.connect(far.url());
    let near = near.args(["--once", "ws-listen:0"]).start_listening();
    upload(&near);
    host.shell("echo now >go").run().exits(0);
    near.end().exits(141);
    far.end().exits(141);
}
