//! What seeds give, and what plans are refused.

use super::*;

fn mixed() -> Plan {
    Plan {
        faults: vec![
            Fault {
                when: When::Lifetime(Duration::from_millis(2)..=Duration::from_millis(9)),
                how: vec![Cut::Reset.into(), Cut::Fin.into(), Cut::Stall.into()],
            },
            Fault::new(
                When::Byte {
                    dir: Dir::Up,
                    at: 0..=100_000,
                },
                How::FlipBit,
            ),
            Fault::new(
                When::Frame {
                    dir: Dir::Down,
                    nth: 1..=9,
                    kind: Some(3),
                    place: Place::After,
                },
                How::HalfClose,
            ),
        ],
        ..Plan::default()
    }
}

#[test]
fn same_seed_same_options() {
    let list = |seed| (0..50).map(|n| mixed().derive(seed, n)).collect::<Vec<_>>();
    assert_eq!(list(1), list(1));
    assert_ne!(list(1), list(2));
    let lifetimes: std::collections::HashSet<_> = list(1)
        .iter()
        .map(|plan| format!("{:?}", plan.armed[0].trigger))
        .collect();
    assert!(lifetimes.len() > 40, "connections draw their own numbers");
}

#[test]
fn options_do_not_depend_on_the_other_faults_of_the_list() {
    let mut shorter = mixed();
    shorter.faults.truncate(2);
    for n in 0..20 {
        assert_eq!(
            mixed().derive(3, n).armed[..2],
            shorter.derive(3, n).armed[..]
        );
    }
}

#[test]
fn drawn_numbers_lie_in_the_ranges_and_every_manner_comes_up() {
    let mut manners = Vec::new();
    for n in 0..200 {
        let plan = mixed().derive(5, n);
        let Trigger::After(lifetime) = plan.armed[0].trigger else {
            panic!("{plan:?}")
        };
        assert!((Duration::from_millis(2)..=Duration::from_millis(9)).contains(&lifetime));
        let Trigger::Byte(at) = plan.armed[1].trigger else {
            panic!("{plan:?}")
        };
        assert!(at <= 100_000);
        assert!(plan.armed[1].bit < 8);
        manners.push(plan.armed[0].how);
    }
    for how in [Cut::Reset, Cut::Fin, Cut::Stall] {
        assert!(manners.contains(&How::Cut(how)), "{how:?} never drawn");
    }
}

#[test]
fn refused_then_reset_then_passed() {
    let plan = Plan {
        refuse_first: 2,
        reset_first: 1,
        ..Plan::default()
    };
    let admitted: Vec<Admit> = (0..4).map(|n| plan.derive(0, n).admit).collect();
    assert_eq!(
        admitted,
        [Admit::Refuse, Admit::Refuse, Admit::Reset, Admit::Pass]
    );
}

#[test]
fn connections_outside_the_range_pass_unharmed() {
    let plan = Plan {
        connections: 1..=2,
        ..mixed()
    };
    let armed: Vec<usize> = (0..4).map(|n| plan.derive(0, n).armed.len()).collect();
    assert_eq!(armed, [0, 3, 3, 0]);
}

#[test]
fn one_of_the_faults() {
    let plan = Plan {
        arm: Arm::One,
        ..mixed()
    };
    let mut seen = [false; 3];
    for n in 0..100 {
        let armed = plan.derive(9, n).armed;
        assert_eq!(armed.len(), 1);
        let at = match armed[0].trigger {
            Trigger::After(_) => 0,
            Trigger::Byte(_) => 1,
            Trigger::Frame { .. } => 2,
        };
        seen[at] = true;
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn senseless_plans_are_refused() {
    let byte = |at| When::Byte { dir: Dir::Up, at };
    let frame = |nth| When::Frame {
        dir: Dir::Up,
        nth,
        kind: None,
        place: Place::Before,
    };
    #[expect(clippy::reversed_empty_ranges, reason = "the mistake under test")]
    let backwards = byte(5..=4);
    assert_eq!(
        Plan::of(backwards, Cut::Reset).check(),
        Err(PlanError::EmptyRange)
    );
    assert_eq!(
        Plan::of(frame(0..=1), Cut::Reset).check(),
        Err(PlanError::FrameZero)
    );
    assert_eq!(
        Plan::of(byte(1..=1), How::Replay(Amount::Frame)).check(),
        Err(PlanError::NoFrame)
    );
    assert_eq!(
        Plan::of(frame(1..=1), How::Drop(Amount::Frame)).check(),
        Ok(())
    );
    let bytes = MAX_REPLAY as u32 + 1;
    assert_eq!(
        Plan::of(byte(1..=1), How::Replay(Amount::Bytes(bytes))).check(),
        Err(PlanError::ReplayTooLong { bytes })
    );
    let none = Plan {
        faults: vec![Fault {
            when: byte(1..=1),
            how: Vec::new(),
        }],
        ..Plan::default()
    };
    assert_eq!(none.check(), Err(PlanError::NoManner));
}
