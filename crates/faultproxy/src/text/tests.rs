//! Words that parse, words that do not, and the way back.

use super::*;

fn same<T: FromStr<Err = ParseError> + std::fmt::Display>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => assert_eq!(value.to_string(), text),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn values_print_as_what_parses_into_them() {
    for text in [
        "reset",
        "fin",
        "stall",
        "blackhole",
        "half",
        "mute",
        "flip",
        "replay=10",
        "replay=frame",
        "drop=frame",
    ] {
        same::<How>(text);
    }
    for text in [
        "life:2ms..9ms@reset",
        "life:1500us@fin,stall",
        "life:3s@half",
        "byte:up:1000@flip",
        "byte:down:0..65536@replay=100",
        "frame:down:3@reset",
        "frame:up:1..9:type=4:after@mute",
        "frame:up:2:inside=5@drop=frame",
    ] {
        same::<Fault>(text);
    }
}

#[test]
fn units() {
    assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
    assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
    assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
    assert_eq!(size("100k"), Ok(100_000));
    assert_eq!(size("1.5M"), Ok(1_500_000));
    assert_eq!(size("64Ki"), Ok(65_536));
    assert_eq!(size("18446744073709551615"), Ok(u64::MAX));
    assert_eq!(range("3..5", count), Ok(3..=5));
    assert_eq!(connections("5.."), Ok(5..=u64::MAX));
    let delayed = Delay {
        buffer: 1024,
        ..Delay::new(Duration::from_millis(20), Duration::from_millis(5))
    };
    assert_eq!(delay("20ms+5ms:1Ki"), Ok(delayed));
    assert_eq!(
        "frame:up:1:type=0xff".parse(),
        Ok(When::Frame {
            dir: Dir::Up,
            nth: 1..=1,
            kind: Some(255),
            place: Place::Before
        })
    );
}

#[test]
fn errors_say_what_was_expected() {
    let error = |text: &str| text.parse::<Fault>().unwrap_err().to_string();
    assert_eq!(
        error("life:2..9ms"),
        "`2` is not a time such as 250us, 2ms, 1.5s or 2m"
    );
    assert!(
        error("byte:sideways:3")
            .starts_with("`byte:sideways:3` is not a time of a fault: life:2ms..9ms,")
    );
    assert!(error("byte:up:3:4").starts_with("`byte:up:3:4` is not a time of a fault"));
    assert!(error("byte:up:3@replay").starts_with("`replay` is not a manner: reset, fin"));
    assert!(error("byte:up:3@").starts_with("`` is not a manner"));
    assert_eq!(
        error("frame:up:1:type=256"),
        "`256` is not a frame type from 0 to 255 or 0xff"
    );
    for text in ["-1s", "1e300s", "NaNs", "1h", "ms", "1", ""] {
        assert!(duration(text).is_err(), "{text}");
    }
    for text in ["-1k", "1e99k", "k", "1T", "", "NaNk"] {
        assert!(size(text).is_err(), "{text}");
    }
    assert!(non_zero("0").is_err() && rate("0").is_err());
}

#[test]
fn a_connections_options_in_words() {
    let faults = [
        "life:4211us@reset",
        "byte:up:1000@flip",
        "frame:down:3:type=4:after@half",
        "life:5ms@mute",
    ];
    let plan = crate::plan::Plan {
        faults: faults.iter().map(|fault| fault.parse().unwrap()).collect(),
        refuse_first: 1,
        ..Default::default()
    };
    let derived = plan.derive(1, 3);
    let (bit, dir) = (derived.armed[1].bit, derived.armed[3].dir);
    assert_eq!(
        derived.to_string(),
        format!(
            "connection 3: at 4211us reset; at byte 1000 up flip bit {bit}; \
             at frame 3:type=4:after down half; at 5ms mute {dir}"
        )
    );
    assert!(
        plan.derive(1, 0)
            .to_string()
            .starts_with("connection 0: refuse; at 4211us")
    );
    assert_eq!(
        crate::plan::Plan::default().derive(0, 7).to_string(),
        "connection 7: no faults"
    );
}
