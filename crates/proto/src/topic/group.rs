//! A group: readers that share a topic's partitions, so that each record is dealt with once by someone.
//!
//! ```text
//!            a member is there            another one is to have it
//!   nobody's ────────────────► one's own ──────────────────────────► one's own, leaving
//!       ▲                          │ left                                │ released, left, too late
//!       └──────────────────────────┴─────────────────────────────────────┘
//! ```
//!
//! What holds: a partition has one reader at most; what is done never comes again; what was sent and is not done comes again
//! when its reader goes away. A record that is the first of these again and again is put aside: it takes its readers
//! with it. So that the right one is blamed, what has failed once is sent one by one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::time::Instant;

#[cfg(test)]
mod tests;

/// A member, while it is there; the caller numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// What a group can be set to.
#[derive(Debug, Clone, Copy)]
pub struct GroupConfig {
    /// Records of a partition that may be sent and not done.
    pub in_flight_max: u64,
    /// So often a record may be the first that its reader left undone.
    pub deliveries_max: u32,
    /// So long a member may take to release what it is asked for.
    pub release_within: Duration,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupEvent {
    /// The member reads the partition from this offset on.
    Assign {
        /// Who.
        member: MemberId,
        /// What.
        partition: u32,
        /// From where.
        offset: u64,
    },
    /// Nothing more of the partition is to be sent to the member, which is to release it.
    Revoke {
        /// Who.
        member: MemberId,
        /// What.
        partition: u32,
    },
    /// The member has had its time: the partition is not its own any more.
    Expelled {
        /// Who.
        member: MemberId,
        /// What.
        partition: u32,
    },
    /// This is to be remembered.
    Commit {
        /// Where.
        partition: u32,
        /// All before it is done.
        offset: u64,
        /// So often the record at it was left undone.
        deliveries: u32,
    },
    /// The record is to be copied to where such are kept; then [`Group::handle_put_aside`].
    PutAside {
        /// Where.
        partition: u32,
        /// Which one.
        offset: u64,
        /// So often it was left undone; 0: its reader says that it cannot deal with it.
        deliveries: u32,
    },
}

/// The partition is not that member's: another one has it, or will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the partition is not this member's")]
pub struct NotYours;

/// Whose a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    Reads(MemberId),
    Leaves(MemberId, Instant),
}

impl Owner {
    fn member(self) -> Option<MemberId> {
        match self {
            Self::Nobody => None,
            Self::Reads(member) | Self::Leaves(member, _) => Some(member),
        }
    }
}

/// A partition, as the group sees it.
#[derive(Debug)]
struct Share {
    owner: Owner,
    /// All before it is done.
    done: u64,
    /// All before it was sent to the owner.
    sent: u64,
    /// So often the record at `done` was left undone.
    deliveries: u32,
    /// Before this, records are sent one by one.
    singly_until: u64,
    /// The record at `done` is being put aside; what the owner said meanwhile counts afterwards.
    aside: Option<u64>,
}

/// The state of a group of one topic.
#[derive(Debug)]
pub struct Group {
    config: GroupConfig,
    shares: Vec<Share>,
    members: BTreeMap<MemberId, u64>,
    events: VecDeque<GroupEvent>,
}

impl Group {
    /// A group without members. Of each partition, what is done and how often the record there was left undone.
    #[must_use]
    pub fn new(config: GroupConfig, done: &[(u64, u32)]) -> Self {
        let shares = done.iter().map(|&(done, deliveries)| Share {
            owner: Owner::Nobody,
            done,
            sent: done,
            deliveries,
            singly_until: if deliveries > 0 { done + 1 } else { done },
            aside: None,
        });
        Self {
            config,
            shares: shares.collect(),
            members: BTreeMap::new(),
            events: VecDeque::new(),
        }
    }

    /// Members that are there.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// All before it is done; `None`: there is no such partition.
    #[must_use]
    pub fn done(&self, partition: u32) -> Option<u64> {
        self.share(partition).map(|share| share.done)
    }

    /// What is to be remembered of a partition: the offset before which all is done, and how often the record there was left undone.
    #[must_use]
    pub fn cursor(&self, partition: u32) -> Option<(u64, u32)> {
        self.share(partition)
            .map(|share| (share.done, share.deliveries))
    }

    /// A member comes. It may have so many records of a partition under way, or what the group has as its default.
    pub fn handle_joined(&mut self, now: Instant, member: MemberId, in_flight_max: Option<u64>) {
        let in_flight_max = in_flight_max.unwrap_or(self.config.in_flight_max);
        self.members.insert(member, in_flight_max);
        self.rebalance(now);
    }

    /// A member has left: of its own will, or its link with it. Only the latter counts against what it left undone.
    pub fn handle_left(&mut self, now: Instant, member: MemberId, was_lost: bool) {
        self.members.remove(&member);
        for partition in self.partitions_of(member) {
            self.take_back(partition, was_lost);
        }
        self.rebalance(now);
    }

    /// Records before `end` go to the partition's owner.
    ///
    /// # Errors
    /// It is not that member's any more: do not send them.
    pub fn handle_sent(
        &mut self,
        member: MemberId,
        partition: u32,
        end: u64,
    ) -> Result<(), NotYours> {
        let share = self.owned(member, partition)?;
        if !matches!(share.owner, Owner::Reads(_)) {
            return Err(NotYours);
        }
        share.sent = share.sent.max(end);
        Ok(())
    }

    /// How many records of it may be sent to the member behind those that were.
    #[must_use]
    pub fn room(&self, member: MemberId, partition: u32) -> u64 {
        let (Some(share), Some(in_flight_max)) = (self.share(partition), self.members.get(&member))
        else {
            return 0;
        };
        if share.owner != Owner::Reads(member) || share.aside.is_some() {
            return 0;
        }
        let in_flight = share.sent - share.done;
        if share.sent < share.singly_until {
            return u64::from(in_flight == 0);
        }
        in_flight_max.saturating_sub(in_flight)
    }

    /// The member has done all before `offset`.
    ///
    /// # Errors
    /// The partition is not the member's; nothing is done by it.
    pub fn handle_done(
        &mut self,
        member: MemberId,
        partition: u32,
        offset: u64,
    ) -> Result<(), NotYours> {
        let share = self.owned(member, partition)?;
        // What was not sent cannot be done, and what waits to be put aside is not done yet.
        let offset = offset.min(share.aside.unwrap_or(share.sent));
        if offset > share.done {
            share.done = offset;
            share.deliveries = 0;
            self.commit(partition);
        }
        Ok(())
    }

    /// A member that comes back has dealt with all of a partition before `to`, and had begun at `from`: that is so whoever has the
    /// partition now, if the group is between the two.
    pub fn handle_written(&mut self, partition: u32, from: u64, to: u64) {
        let Some(share) = self.share_mut(partition) else {
            return;
        };
        if share.aside.is_some() || !(from..to).contains(&share.done) {
            return;
        }
        share.done = to;
        share.sent = share.sent.max(to);
        share.deliveries = 0;
        self.commit(partition);
    }

    /// The member cannot deal with the first record that is not done.
    ///
    /// # Errors
    /// The partition is not the member's, or the record is another one.
    pub fn handle_rejected(
        &mut self,
        member: MemberId,
        partition: u32,
        offset: u64,
    ) -> Result<(), NotYours> {
        let share = self.owned(member, partition)?;
        if offset != share.done || offset >= share.sent || share.aside.is_some() {
            return Err(NotYours);
        }
        share.aside = Some(offset);
        self.events.push_back(GroupEvent::PutAside {
            partition,
            offset,
            deliveries: 0,
        });
        Ok(())
    }

    /// The record has been put aside, and is done by that.
    pub fn handle_put_aside(&mut self, now: Instant, partition: u32, offset: u64) {
        let Some(share) = self.share_mut(partition) else {
            return;
        };
        if share.aside != Some(offset) {
            return;
        }
        share.aside = None;
        share.done = offset + 1;
        share.sent = share.sent.max(share.done);
        share.deliveries = 0;
        self.commit(partition);
        self.rebalance(now);
    }

    /// The member reads the partition no more, as it was asked.
    ///
    /// # Errors
    /// It was not the member's any more.
    pub fn handle_released(
        &mut self,
        now: Instant,
        member: MemberId,
        partition: u32,
    ) -> Result<(), NotYours> {
        // An answer to a revocation of before, which was taken back when it came too late, is none to what it was given since.
        if !matches!(self.owned(member, partition)?.owner, Owner::Leaves(..)) {
            return Err(NotYours);
        }
        self.take_back(partition, false);
        self.rebalance(now);
        Ok(())
    }

    /// The time is `now`: who has not released anything until now has it no more.
    pub fn handle_timeout(&mut self, now: Instant) {
        for partition in 0..self.shares.len() as u32 {
            let owner = self.share(partition).map(|share| share.owner);
            if let Some(Owner::Leaves(member, by)) = owner
                && by <= now
            {
                self.take_back(partition, true);
                self.events
                    .push_back(GroupEvent::Expelled { member, partition });
            }
        }
        self.rebalance(now);
    }

    /// When [`Group::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let until = self.shares.iter().filter_map(|share| match share.owner {
            Owner::Leaves(_, by) => Some(by),
            Owner::Nobody | Owner::Reads(_) => None,
        });
        until.min()
    }

    /// What to do next.
    pub fn poll_event(&mut self) -> Option<GroupEvent> {
        self.events.pop_front()
    }

    fn share(&self, partition: u32) -> Option<&Share> {
        self.shares.get(partition as usize)
    }

    fn share_mut(&mut self, partition: u32) -> Option<&mut Share> {
        self.shares.get_mut(partition as usize)
    }

    fn owned(&mut self, member: MemberId, partition: u32) -> Result<&mut Share, NotYours> {
        let share = self.share_mut(partition).ok_or(NotYours)?;
        if share.owner.member() == Some(member) {
            Ok(share)
        } else {
            Err(NotYours)
        }
    }

    fn partitions_of(&self, member: MemberId) -> Vec<u32> {
        let all = (0_u32..).zip(&self.shares);
        all.filter(|(_, share)| share.owner.member() == Some(member))
            .map(|(partition, _)| partition)
            .collect()
    }

    fn commit(&mut self, partition: u32) {
        if let Some(share) = self.share(partition) {
            let (offset, deliveries) = (share.done, share.deliveries);
            self.events.push_back(GroupEvent::Commit {
                partition,
                offset,
                deliveries,
            });
        }
    }

    /// The partition is nobody's: what was sent and is not done will come again. If its reader was lost, the first of that
    /// is suspected.
    fn take_back(&mut self, partition: u32, was_lost: bool) {
        let deliveries_max = self.config.deliveries_max;
        let Some(share) = self.share_mut(partition) else {
            return;
        };
        share.owner = Owner::Nobody;
        let is_undone = share.sent > share.done;
        if !(was_lost && is_undone) || share.aside.is_some() {
            share.sent = share.done;
            return;
        }
        share.singly_until = share.singly_until.max(share.sent);
        share.sent = share.done;
        share.deliveries += 1;
        if share.deliveries < deliveries_max {
            return self.commit(partition);
        }
        let (offset, deliveries) = (share.done, share.deliveries);
        share.aside = Some(offset);
        self.events.push_back(GroupEvent::PutAside {
            partition,
            offset,
            deliveries,
        });
    }

    /// Gives what is nobody's to those who have least, and asks those for something who have too much.
    fn rebalance(&mut self, now: Instant) {
        if self.members.is_empty() {
            return;
        }
        let mut reads: BTreeMap<MemberId, Vec<u32>> = self
            .members
            .keys()
            .map(|&member| (member, Vec::new()))
            .collect();
        let mut free = Vec::new();
        for (partition, share) in (0_u32..).zip(&self.shares) {
            match share.owner {
                Owner::Reads(member) => reads.entry(member).or_default().push(partition),
                Owner::Nobody if share.aside.is_none() => free.push(partition),
                Owner::Nobody | Owner::Leaves(..) => {}
            }
        }
        let (each, more) = (
            self.shares.len() / reads.len(),
            self.shares.len() % reads.len(),
        );
        // Who has most keeps one more: so least is moved.
        let mut by_load: Vec<MemberId> = reads.keys().copied().collect();
        by_load.sort_by_key(|member| std::cmp::Reverse(reads[member].len()));
        for (at, member) in by_load.into_iter().enumerate() {
            let fair = each + usize::from(at < more);
            let has = &reads[&member];
            for &partition in has.iter().skip(fair) {
                self.revoke(now, member, partition);
            }
            for _ in has.len()..fair {
                let Some(partition) = free.pop() else { break };
                self.assign(member, partition);
            }
        }
    }

    fn assign(&mut self, member: MemberId, partition: u32) {
        if let Some(share) = self.share_mut(partition) {
            share.owner = Owner::Reads(member);
            let offset = share.done;
            self.events.push_back(GroupEvent::Assign {
                member,
                partition,
                offset,
            });
        }
    }

    fn revoke(&mut self, now: Instant, member: MemberId, partition: u32) {
        let by = now + self.config.release_within;
        if let Some(share) = self.share_mut(partition) {
            share.owner = Owner::Leaves(member, by);
            self.events
                .push_back(GroupEvent::Revoke { member, partition });
        }
    }
}
