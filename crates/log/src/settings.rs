//! How a topic is kept: a small file of lines, with a sum.

use std::time::Duration;

use crate::summed;

/// What an acknowledged record has gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It is on the disk: written and synced, with what others wrote at the same time.
    #[default]
    Disk,
    /// It is in the system's memory, and on the disk so long after: a loss of power loses what is younger.
    Interval(Duration),
    /// It is in the system's memory, which writes it when it likes.
    Os,
}

/// What is kept of a topic, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// For good.
    pub partitions: u32,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// The most bytes of a partition; whole segments are removed, the one that is written never.
    pub retain_bytes: Option<u64>,
    /// The longest time of a record.
    pub retain_for: Option<Duration>,
    /// What all groups have done is not kept, if there is any group.
    pub retain_unread: bool,
}

impl Default for Settings {
    /// One partition, on the disk, and everything is kept.
    fn default() -> Self {
        Self {
            partitions: 1,
            durability: Durability::Disk,
            retain_bytes: None,
            retain_for: None,
            retain_unread: false,
        }
    }
}

impl Settings {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let durability = match self.durability {
            Durability::Disk => "disk".to_owned(),
            Durability::Interval(span) => format!("interval {}", span.as_millis()),
            Durability::Os => "os".to_owned(),
        };
        let mut text = format!("partitions {}\ndurability {durability}\n", self.partitions);
        if let Some(bytes) = self.retain_bytes {
            text.push_str(&format!("retain_bytes {bytes}\n"));
        }
        if let Some(span) = self.retain_for {
            text.push_str(&format!("retain_ms {}\n", span.as_millis()));
        }
        if self.retain_unread {
            text.push_str("retain_unread\n");
        }
        summed::to_bytes(&text)
    }

    /// `None`: it is damaged, or of a later version.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let lines = summed::lines(bytes)?;
        let mut settings = Self::default();
        for line in lines.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let span = |ms: &str| ms.parse().ok().map(Duration::from_millis);
            match words[..] {
                ["partitions", count] => settings.partitions = count.parse().ok()?,
                ["durability", "disk"] => settings.durability = Durability::Disk,
                ["durability", "interval", ms] => {
                    settings.durability = Durability::Interval(span(ms)?);
                }
                ["durability", "os"] => settings.durability = Durability::Os,
                ["retain_bytes", bytes] => settings.retain_bytes = Some(bytes.parse().ok()?),
                ["retain_ms", ms] => settings.retain_for = Some(span(ms)?),
                ["retain_unread"] => settings.retain_unread = true,
                _ => return None,
            }
        }
        (settings.partitions > 0).then_some(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_were_or_not_at_all() {
        let settings = Settings {
            partitions: 3,
            durability: Durability::Interval(Duration::from_millis(20)),
            retain_bytes: Some(1 << 30),
            retain_for: Some(Duration::from_secs(60)),
            retain_unread: true,
        };
        let bytes = settings.to_bytes();
        assert_eq!(Settings::from_bytes(&bytes), Some(settings));
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 4;
            assert_eq!(Settings::from_bytes(&bytes), None, "byte {at}");
        }
        for durability in [Durability::Disk, Durability::Os] {
            let settings = Settings {
                durability,
                ..Settings::default()
            };
            assert_eq!(Settings::from_bytes(&settings.to_bytes()), Some(settings));
        }
    }
}
