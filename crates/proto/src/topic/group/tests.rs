//! Readers come, work, go and are lost in any order, against a model that knows what each record went through.

use proptest::prelude::*;

use super::*;

const RELEASE: Duration = Duration::from_secs(10);

fn group(partitions: usize) -> Group {
    let config = GroupConfig {
        in_flight_max: 100,
        deliveries_max: 3,
        release_within: RELEASE,
    };
    Group::new(config, &vec![(0, 0); partitions])
}

fn at(seconds: u64) -> Instant {
    Instant::from_origin(Duration::from_secs(seconds))
}

fn events(group: &mut Group) -> Vec<GroupEvent> {
    std::iter::from_fn(|| group.poll_event()).collect()
}

const A: MemberId = MemberId(1);
const B: MemberId = MemberId(2);

#[test]
fn a_second_member_gets_half_once_it_is_released() {
    let mut group = group(4);
    group.handle_joined(at(0), A, None);
    assert_eq!(events(&mut group).len(), 4);
    group.handle_joined(at(0), B, None);
    let revoked: Vec<u32> = events(&mut group)
        .into_iter()
        .map(|event| match event {
            GroupEvent::Revoke {
                member: A,
                partition,
            } => partition,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(revoked.len(), 2);
    assert_eq!(group.room(A, revoked[0]), 0, "it is leaving");
    group
        .handle_released(at(1), A, revoked[0])
        .expect("its own");
    let given = GroupEvent::Assign {
        member: B,
        partition: revoked[0],
        offset: 0,
    };
    assert_eq!(events(&mut group), [given]);
    assert_eq!(group.poll_timeout(), Some(at(10)));
    group.handle_timeout(at(10));
    let late = GroupEvent::Expelled {
        member: A,
        partition: revoked[1],
    };
    let given = GroupEvent::Assign {
        member: B,
        partition: revoked[1],
        offset: 0,
    };
    assert_eq!(events(&mut group), [late, given]);
    assert_eq!(group.handle_done(A, revoked[1], 0), Err(NotYours));
}

#[test]
fn what_takes_its_readers_with_it_is_put_aside() {
    let mut group = group(1);
    let lose = |group: &mut Group, member: MemberId, sent: u64| {
        group.handle_joined(at(0), member, None);
        let room = group.room(member, 0);
        group.handle_sent(member, 0, sent).expect("its own");
        group.handle_left(at(0), member, true);
        room
    };
    assert_eq!(lose(&mut group, A, 50), 100);
    assert_eq!(lose(&mut group, B, 1), 1, "one by one now");
    events(&mut group);
    assert_eq!(lose(&mut group, A, 1), 1);
    let aside = GroupEvent::PutAside {
        partition: 0,
        offset: 0,
        deliveries: 3,
    };
    assert_eq!(events(&mut group).last(), Some(&aside));
    group.handle_joined(at(0), B, None);
    assert_eq!(group.room(B, 0), 0, "not before it is put aside");
    group.handle_put_aside(at(0), 0, 0);
    let commit = GroupEvent::Commit {
        partition: 0,
        offset: 1,
        deliveries: 0,
    };
    let given = GroupEvent::Assign {
        member: B,
        partition: 0,
        offset: 1,
    };
    assert_eq!(events(&mut group), [commit, given]);
    group.handle_sent(B, 0, 2).expect("its own");
    assert_eq!(group.room(B, 0), 0, "still one by one");
    group.handle_done(B, 0, 2).expect("its own");
    group.handle_sent(B, 0, 50).expect("its own");
    group.handle_done(B, 0, 50).expect("its own");
    assert_eq!(group.room(B, 0), 100, "what was under way then is over");
}

#[test]
fn who_leaves_of_its_own_will_blames_nobody() {
    let mut group = group(1);
    for _ in 0..10 {
        group.handle_joined(at(0), A, None);
        group.handle_sent(A, 0, 5).expect("its own");
        group.handle_left(at(0), A, false);
    }
    let aside = |event: &GroupEvent| matches!(event, GroupEvent::PutAside { .. });
    assert!(!events(&mut group).iter().any(aside));
}

#[test]
fn a_rejected_record_is_put_aside_and_what_was_done_meanwhile_counts_later() {
    let mut group = group(1);
    group.handle_joined(at(0), A, None);
    group.handle_sent(A, 0, 10).expect("its own");
    group.handle_done(A, 0, 3).expect("its own");
    group
        .handle_rejected(A, 0, 3)
        .expect("the first that is not done");
    assert_eq!(
        group.handle_rejected(A, 0, 3),
        Err(NotYours),
        "said already"
    );
    group.handle_done(A, 0, 10).expect("its own");
    assert_eq!(group.done(0), Some(3), "it is not put aside yet");
    group.handle_put_aside(at(0), 0, 3);
    assert_eq!(group.done(0), Some(4));
    group.handle_done(A, 0, 10).expect("its own");
    assert_eq!(group.done(0), Some(10));
}

/// What a reader may do, or what befalls it.
#[derive(Debug, Clone)]
enum Op {
    Join(u64),
    Leave(u64, bool),
    Send(u64, u32, u64),
    Done(u64, u32, u64),
    Written(u32, u64, u64),
    Reject(u64, u32),
    Release(u64),
    Aside,
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let (member, partition) = (0..5_u64, 0..4_u32);
    prop_oneof![
        member.clone().prop_map(Op::Join),
        (member.clone(), any::<bool>()).prop_map(|(m, lost)| Op::Leave(m, lost)),
        (member.clone(), partition.clone(), 1..40_u64).prop_map(|(m, p, n)| Op::Send(m, p, n)),
        (member.clone(), partition.clone(), 1..40_u64).prop_map(|(m, p, n)| Op::Done(m, p, n)),
        (partition.clone(), 0..60_u64, 0..40_u64).prop_map(|(p, f, n)| Op::Written(p, f, n)),
        (member.clone(), partition).prop_map(|(m, p)| Op::Reject(m, p)),
        member.prop_map(Op::Release),
        Just(Op::Aside),
        (0..12_u64).prop_map(Op::Wait),
    ]
}

/// What the caller of a group knows.
#[derive(Debug, Default)]
struct Model {
    reader: BTreeMap<u32, MemberId>,
    asked: Vec<(MemberId, u32)>,
    aside: Vec<(u32, u64)>,
    committed: BTreeMap<u32, u64>,
    /// Of each partition, the records that were done or put aside.
    over: BTreeMap<u32, u64>,
}

impl Model {
    fn take(&mut self, group: &mut Group) {
        for event in events(group) {
            match event {
                GroupEvent::Assign {
                    member,
                    partition,
                    offset,
                } => {
                    let older = self.reader.insert(partition, member);
                    assert_eq!(older, None, "one reader at most");
                    assert_eq!(offset, self.over.get(&partition).copied().unwrap_or(0));
                }
                GroupEvent::Revoke { member, partition } => {
                    assert_eq!(self.reader.get(&partition), Some(&member));
                    self.asked.push((member, partition));
                }
                GroupEvent::Expelled { member, partition } => self.lose(member, partition),
                GroupEvent::Commit {
                    partition, offset, ..
                } => {
                    let before = self.committed.insert(partition, offset);
                    assert!(before.unwrap_or(0) <= offset, "what is done stays done");
                }
                GroupEvent::PutAside {
                    partition, offset, ..
                } => {
                    assert_eq!(offset, self.over.get(&partition).copied().unwrap_or(0));
                    self.aside.push((partition, offset));
                }
            }
        }
    }

    fn lose(&mut self, member: MemberId, partition: u32) {
        assert_eq!(self.reader.remove(&partition), Some(member));
        self.asked.retain(|asked| *asked != (member, partition));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn each_partition_has_one_reader_and_what_is_done_never_comes_again(
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut group = group(4);
        let mut model = Model::default();
        let mut now = 0;
        for op in ops {
            match op {
                Op::Join(m) if !group.members.contains_key(&MemberId(m)) => {
                    group.handle_joined(at(now), MemberId(m), None);
                }
                Op::Join(_) => {}
                Op::Leave(m, lost) => {
                    // The caller knows first that it is gone.
                    let gone: Vec<u32> = model.reader.iter()
                        .filter(|(_, reader)| **reader == MemberId(m)).map(|(&p, _)| p).collect();
                    gone.into_iter().for_each(|p| model.lose(MemberId(m), p));
                    group.handle_left(at(now), MemberId(m), lost);
                }
                Op::Send(m, p, n) => {
                    let n = n.min(group.room(MemberId(m), p));
                    if n > 0 {
                        let end = group.shares[p as usize].sent + n;
                        prop_assert_eq!(group.handle_sent(MemberId(m), p, end), Ok(()));
                        prop_assert_eq!(model.reader.get(&p), Some(&MemberId(m)));
                    }
                }
                Op::Done(m, p, n) => {
                    let before = group.done(p).expect("a partition");
                    let said = group.handle_done(MemberId(m), p, before + n);
                    prop_assert_eq!(said.is_ok(), model.reader.get(&p) == Some(&MemberId(m)));
                    model.over.insert(p, group.done(p).expect("a partition"));
                }
                Op::Written(p, from, n) => {
                    let before = group.done(p).expect("a partition");
                    group.handle_written(p, from, from + n);
                    let after = group.done(p).expect("a partition");
                    let is_between = from <= before && before < from + n;
                    prop_assert!(after == before || (is_between && after == from + n));
                    prop_assert!(after > before || !is_between || group.shares[p as usize].aside.is_some());
                    model.over.insert(p, after);
                }
                Op::Reject(m, p) => {
                    let offset = group.done(p).expect("a partition");
                    let _ = group.handle_rejected(MemberId(m), p, offset);
                }
                Op::Release(m) => {
                    let asked = model.asked.iter().find(|(member, _)| *member == MemberId(m));
                    if let Some(&(member, p)) = asked {
                        model.lose(member, p);
                        prop_assert_eq!(group.handle_released(at(now), member, p), Ok(()));
                    }
                }
                Op::Aside => if let Some((p, offset)) = model.aside.pop() {
                    model.over.insert(p, offset + 1);
                    group.handle_put_aside(at(now), p, offset);
                },
                Op::Wait(seconds) => {
                    now += seconds;
                    group.handle_timeout(at(now));
                }
            }
            model.take(&mut group);
            for share in &group.shares {
                prop_assert!(share.done <= share.sent);
            }
        }
        // All who are asked release, all is put aside: then everything is somebody's, and shares are fair.
        while let Some((p, offset)) = model.aside.pop() {
            model.over.insert(p, offset + 1);
            group.handle_put_aside(at(now), p, offset);
            model.take(&mut group);
        }
        group.handle_timeout(at(now) + RELEASE);
        model.take(&mut group);
        while let Some((p, offset)) = model.aside.pop() {
            model.over.insert(p, offset + 1);
            group.handle_put_aside(at(now), p, offset);
            model.take(&mut group);
        }
        if group.members() > 0 {
            prop_assert_eq!(model.reader.len(), 4);
            let load = |m: &MemberId| model.reader.values().filter(|r| *r == m).count();
            let loads: Vec<usize> = group.members.keys().map(load).collect();
            let (least, most) = (loads.iter().min(), loads.iter().max());
            prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{:?}", loads);
        }
    }
}
