//! `--config` and `farpipe config check`: settings from a YAML file, and what is said of bad ones.

use crate::support::Host;

#[test]
fn a_pipe_takes_its_settings_from_a_file_and_flags_beat_them() {
    let host = Host::new();
    host.file(
        "farpipe.yaml",
        "listen:\n  url: ws://127.0.0.1:0\n  endpoint: exec:tr a-z A-Z\n  heartbeat: 5s\n",
    );
    let listener = host
        .farpipe(["--config", "farpipe.yaml", "listen"])
        .start_listening();
    host.farpipe(["connect", listener.url()])
        .env("FARPIPE_CONFIG", "farpipe.yaml")
        .input("over the file")
        .run()
        .exits(0)
        .printed("OVER THE FILE");
    listener.end().exits(0);
    let listener = host
        .farpipe(["--config", "farpipe.yaml", "listen", "fp://127.0.0.1:0"])
        .start_listening();
    assert!(listener.url().starts_with("fp://"), "{}", listener.url());
    host.farpipe(["connect", listener.url()])
        .input("")
        .run()
        .exits(0);
    listener.end().exits(0);
}

#[test]
fn check_says_where_a_file_is_wrong_and_what_to_write() {
    let host = Host::new();
    host.file("bad.yaml", "# settings\nlisten:\n  hartbeat: 5s\n");
    host.farpipe(["config", "check", "bad.yaml"])
        .run()
        .exits(2)
        .printed("")
        .says("farpipe: bad.yaml:3:3: unknown key 'hartbeat'\nhint: did you mean 'heartbeat'?\n");
    host.file("value.yaml", "connect:\n  heartbeat: often\n");
    host.farpipe(["--config", "value.yaml", "connect", "ws://127.0.0.1:1"])
        .run()
        .exits(2)
        .says(
            "farpipe: value.yaml:2:3: 'heartbeat': \"often\" cannot be used: \
             write a number and a unit: 500ms, 30s, 10m, 2h\n\
             hint: see --help of the verb\n",
        );
    host.file("bound.yaml", "listen:\n  heartbeat: 1ms\n");
    host.farpipe(["config", "check", "bound.yaml"])
        .run()
        .exits(2)
        .says(
            "farpipe: bound.yaml:2:3: 'heartbeat': \"1ms\" cannot be used: from 100ms to 1h; \
             the default is 10s\nhint: see --help of the verb\n",
        );
    host.file("good.yaml", "heartbeat: 5s\nlisten:\n  keep: true\n");
    host.farpipe(["config", "check", "good.yaml"])
        .run()
        .exits(0)
        .says("good.yaml: ok, 2 settings\n");
}

#[test]
fn a_verb_below_another_has_its_settings_too() {
    let host = Host::new();
    host.file(
        "sub.yaml",
        "cert-init:\n  dir: mine\nbench_link:\n  setups: 3\n",
    );
    host.farpipe(["config", "check", "sub.yaml"])
        .run()
        .exits(0)
        .says("sub.yaml: ok, 2 settings\n");
    let made = host.farpipe(["-q", "--config", "sub.yaml", "cert", "init"]);
    made.run().exits(0).printed("").says("");
    assert!(host.path("mine/ca.pem").exists());
    host.file("odd.yaml", "bench-link:\n  setup: 3\n");
    host.farpipe(["config", "check", "odd.yaml"])
        .run()
        .exits(2)
        .says("farpipe: odd.yaml:2:3: unknown key 'setup'\nhint: did you mean 'setups'?\n");
}

#[test]
fn a_flag_beats_one_of_the_file_that_excludes_it() {
    let host = Host::new();
    host.file("send.yaml", "connect:\n  send: true\n");
    host.file("mine", "mine");
    let listener = host.listen("ws").input("theirs").start_listening();
    let line = [
        "--config",
        "send.yaml",
        "connect",
        listener.url(),
        "mine",
        "--recv",
    ];
    host.farpipe(line).run().exits(0);
    listener.end().exits(0).printed("");
    assert_eq!(host.content("mine"), b"theirs");

    host.file("both.yaml", "listen:\n  send: true\n  recv: true\n");
    host.farpipe(["config", "check", "both.yaml"])
        .run()
        .exits(2)
        .says(
            "farpipe: both.yaml:2:3: 'send' cannot stand beside 'recv'\nhint: remove one of them\n",
        );
}

#[test]
fn what_has_no_end_is_no_configuration() {
    let host = Host::new();
    host.farpipe(["config", "check", "/dev/zero"])
        .run()
        .exits(2)
        .says("farpipe: /dev/zero: longer than 1 MiB\nhint: this is no configuration file\n");
}
