//! One direction of one link.
//!
//! A packet passes these stages in this order: black hole, MTU, queue with a rate, loss,
//! delay with jitter, duplication. A lost packet has used its share of the rate before it
//! is lost, as on a real path whose loss sits behind the bottleneck.

use crate::{Draw, Ratio};
use std::num::NonZeroU64;
use std::time::Duration;

/// Bytes a rate-limited link queues unless told otherwise: 20 ms at 100 Mbit/s, the size of
/// a home router's buffer.
pub const QUEUE_BYTES_DEFAULT: u64 = 256_000;

const NANOS_PER_S: u128 = 1_000_000_000;

/// How packets get lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loss {
    /// None is.
    #[default]
    None,
    /// Each packet independently, with this probability.
    Bernoulli(Ratio),
    /// Gilbert-Elliott: two states with their own loss, for losses that come in bursts. The
    /// state moves once per packet, before the packet's own draw.
    GilbertElliott {
        /// Probability of entering the bad state, per packet.
        good_to_bad: Ratio,
        /// Probability of leaving the bad state, per packet; its inverse is the mean length
        /// of a burst in packets.
        bad_to_good: Ratio,
        /// Loss in the good state, usually [`Ratio::NEVER`].
        loss_good: Ratio,
        /// Loss in the bad state, usually [`Ratio::ALWAYS`].
        loss_bad: Ratio,
    },
}

/// Whether jitter may let one packet overtake another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// First in, first out: a packet never arrives before one that was offered earlier.
    #[default]
    Preserved,
    /// Jitter reorders freely.
    Free,
}

/// What a direction of a link does to packets. The default is an ideal wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Drops everything.
    pub blackhole: bool,
    /// Longest packet that passes, in bytes; longer ones vanish without an ICMP message.
    pub mtu_bytes: Option<u32>,
    /// Serialisation rate in bits per second; `None` is unlimited.
    pub rate_bits_per_s: Option<NonZeroU64>,
    /// Bytes the drop-tail queue in front of the rate holds, the packet being serialised
    /// included. A packet always passes an empty queue, however long it is.
    pub queue_bytes: u64,
    /// How packets get lost.
    pub loss: Loss,
    /// Propagation delay.
    pub delay: Duration,
    /// The delay varies uniformly by up to this much in both directions, never below zero.
    pub jitter: Duration,
    /// Whether jitter may reorder.
    pub order: Order,
    /// Probability that a packet arrives twice, with a jitter of its own.
    pub duplicate: Ratio,
}

impl LinkConfig {
    /// A wire without any effect.
    pub const IDEAL: Self = Self {
        blackhole: false,
        mtu_bytes: None,
        rate_bits_per_s: None,
        queue_bytes: QUEUE_BYTES_DEFAULT,
        loss: Loss::None,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        order: Order::Preserved,
        duplicate: Ratio::NEVER,
    };

    /// A wire that only delays.
    #[must_use]
    pub const fn with_delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::IDEAL
        }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self::IDEAL
    }
}

/// Why a packet did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropCause {
    /// The link is a black hole.
    Blackhole,
    /// Longer than the MTU.
    Mtu,
    /// The queue was full.
    Queue,
    /// The loss model took it.
    Loss,
}

/// What becomes of an offered packet. Times are those of arrival at the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Never arrives.
    Dropped(DropCause),
    /// Arrives once.
    Once(Duration),
    /// Arrives twice; either copy may be the earlier one.
    Twice(Duration, Duration),
}

impl Fate {
    /// The times of arrival: none, one or two.
    pub fn times(self) -> impl Iterator<Item = Duration> {
        let (first, second) = match self {
            Self::Dropped(_) => (None, None),
            Self::Once(at) => (Some(at), None),
            Self::Twice(at, again) => (Some(at), Some(again)),
        };
        first.into_iter().chain(second)
    }
}

/// What a pipeline has seen. `offered + duplicated` equals `delivered` plus all drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets offered.
    pub offered: u64,
    /// Bytes offered.
    pub offered_bytes: u64,
    /// Packets that arrive, copies included.
    pub delivered: u64,
    /// Bytes that arrive, copies included.
    pub delivered_bytes: u64,
    /// Extra copies among the delivered.
    pub duplicated: u64,
    /// Drops by the black hole.
    pub dropped_blackhole: u64,
    /// Drops by the MTU.
    pub dropped_mtu: u64,
    /// Drops at the tail of the queue.
    pub dropped_queue: u64,
    /// Drops by the loss model.
    pub dropped_loss: u64,
}

impl Counters {
    /// All drops together.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped_blackhole + self.dropped_mtu + self.dropped_queue + self.dropped_loss
    }
}

/// One direction of a link: its configuration, the state of its queue, and counters.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    config: LinkConfig,
    counters: Counters,
    /// When the serialiser has sent everything that is queued.
    busy_until: Duration,
    /// Latest arrival so far, for [`Order::Preserved`].
    arrival_last: Duration,
    /// State of [`Loss::GilbertElliott`].
    bad: bool,
}

impl Pipeline {
    /// An idle pipeline.
    #[must_use]
    pub fn new(config: LinkConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// What it does at present.
    #[must_use]
    pub const fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// What it has seen so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes waiting for the serialiser, including the rest of the packet being sent.
    #[must_use]
    pub fn backlog_bytes(&self, now: Duration) -> u64 {
        let Some(rate) = self.config.rate_bits_per_s else {
            return 0;
        };
        let wait = self.busy_until.saturating_sub(now).as_nanos();
        let bytes = (wait * u128::from(rate.get())).div_ceil(8 * NANOS_PER_S);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Changes what the link does from `now` on. Packets that were already offered keep
    /// their fate; the backlog stays, and drains at the new rate.
    pub fn set_config(&mut self, now: Duration, config: LinkConfig) {
        let backlog_bytes = self.backlog_bytes(now);
        self.config = config;
        self.busy_until = now + self.serialisation(backlog_bytes);
    }

    /// Edits the configuration in place; see [`Pipeline::set_config`].
    pub fn update(&mut self, now: Duration, edit: impl FnOnce(&mut LinkConfig)) {
        let mut config = self.config;
        edit(&mut config);
        self.set_config(now, config);
    }

    /// Offers a packet of `len_bytes` at `now` and says what becomes of it.
    ///
    /// Draws, in this order and only where the answer is open: loss, jitter, duplication,
    /// jitter of the copy.
    pub fn offer(&mut self, now: Duration, len_bytes: u32, draw: &mut dyn Draw) -> Fate {
        self.counters.offered += 1;
        self.counters.offered_bytes += u64::from(len_bytes);
        let sent = match self.admit(now, len_bytes, draw) {
            Ok(sent) => sent,
            Err(cause) => {
                self.count_drop(cause);
                return Fate::Dropped(cause);
            }
        };
        let first = self.arrival(sent, draw);
        self.count_delivery(len_bytes);
        if !draw.chance(self.config.duplicate) {
            return Fate::Once(first);
        }
        let second = self.arrival(sent, draw);
        self.count_delivery(len_bytes);
        self.counters.duplicated += 1;
        Fate::Twice(first, second)
    }

    /// When the last bit leaves the serialiser, unless the packet is dropped.
    fn admit(
        &mut self,
        now: Duration,
        len_bytes: u32,
        draw: &mut dyn Draw,
    ) -> Result<Duration, DropCause> {
        if self.config.blackhole {
            return Err(DropCause::Blackhole);
        }
        if self.config.mtu_bytes.is_some_and(|mtu| len_bytes > mtu) {
            return Err(DropCause::Mtu);
        }
        let mut sent = now;
        if self.config.rate_bits_per_s.is_some() {
            let backlog = self.backlog_bytes(now);
            if backlog > 0 && backlog + u64::from(len_bytes) > self.config.queue_bytes {
                return Err(DropCause::Queue);
            }
            let start = self.busy_until.max(now);
            sent = start + self.serialisation(u64::from(len_bytes));
            self.busy_until = sent;
        }
        if self.is_lost(draw) {
            return Err(DropCause::Loss);
        }
        Ok(sent)
    }

    fn serialisation(&self, bytes: u64) -> Duration {
        let Some(rate) = self.config.rate_bits_per_s else {
            return Duration::ZERO;
        };
        let nanos = (u128::from(bytes) * 8 * NANOS_PER_S).div_ceil(u128::from(rate.get()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn is_lost(&mut self, draw: &mut dyn Draw) -> bool {
        match self.config.loss {
            Loss::None => false,
            Loss::Bernoulli(ratio) => draw.chance(ratio),
            Loss::GilbertElliott {
                good_to_bad,
                bad_to_good,
                loss_good,
                loss_bad,
            } => {
                self.bad = if self.bad {
                    !draw.chance(bad_to_good)
                } else {
                    draw.chance(good_to_bad)
                };
                draw.chance(if self.bad { loss_bad } else { loss_good })
            }
        }
    }

    fn arrival(&mut self, sent: Duration, draw: &mut dyn Draw) -> Duration {
        let mut delay = self.config.delay;
        if !self.config.jitter.is_zero() {
            let jitter = nanos(self.config.jitter);
            let shift =
                Duration::from_nanos(draw.below(jitter.saturating_mul(2).saturating_add(1)));
            delay = (delay + shift).saturating_sub(self.config.jitter);
        }
        let mut at = sent + delay;
        if self.config.order == Order::Preserved {
            at = at.max(self.arrival_last);
        }
        self.arrival_last = self.arrival_last.max(at);
        at
    }

    fn count_delivery(&mut self, len_bytes: u32) {
        self.counters.delivered += 1;
        self.counters.delivered_bytes += u64::from(len_bytes);
    }

    fn count_drop(&mut self, cause: DropCause) {
        let counter = match cause {
            DropCause::Blackhole => &mut self.counters.dropped_blackhole,
            DropCause::Mtu => &mut self.counters.dropped_mtu,
            DropCause::Queue => &mut self.counters.dropped_queue,
            DropCause::Loss => &mut self.counters.dropped_loss,
        };
        *counter += 1;
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SplitMix;

    const MS: Duration = Duration::from_millis(1);

    fn mbit(rate: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(rate * 1_000_000)
    }

    fn arrivals(
        pipeline: &mut Pipeline,
        count: u32,
        gap: Duration,
        draw: &mut SplitMix,
    ) -> Vec<Duration> {
        (0..count)
            .flat_map(|i| pipeline.offer(gap * i, 1000, draw).times())
            .collect()
    }

    fn assert_conserved(pipeline: &Pipeline) {
        let c = pipeline.counters();
        assert_eq!(c.offered + c.duplicated, c.delivered + c.dropped());
    }

    #[test]
    fn an_ideal_wire_delivers_at_once_and_consumes_no_randomness() {
        let mut draw = SplitMix(7);
        let mut pipeline = Pipeline::new(LinkConfig::IDEAL);
        assert_eq!(pipeline.offer(MS, 1500, &mut draw), Fate::Once(MS));
        assert_eq!(draw.0, 7);
        assert_eq!(pipeline.counters().delivered_bytes, 1500);
    }

    #[test]
    fn a_rate_spaces_packets_by_their_serialisation_time() {
        let mut draw = SplitMix(1);
        let config = LinkConfig {
            rate_bits_per_s: mbit(8),
            delay: 5 * MS,
            ..LinkConfig::IDEAL
        };
        let mut pipeline = Pipeline::new(config);
        // 1000 bytes at 8 Mbit/s take 1 ms each.
        let got = arrivals(&mut pipeline, 3, Duration::ZERO, &mut draw);
        assert_eq!(got, [6 * MS, 7 * MS, 8 * MS]);
        assert_eq!(pipeline.backlog_bytes(Duration::ZERO), 3000);
        assert_eq!(pipeline.backlog_bytes(MS), 2000);
        assert_eq!(pipeline.backlog_bytes(3 * MS), 0);
    }

    #[test]
    fn a_full_queue_drops_its_tail_and_takes_packets_again_when_drained() {
        let mut draw = SplitMix(1);
        let config = LinkConfig {
            rate_bits_per_s: mbit(8),
            queue_bytes: 2500,
            ..LinkConfig::IDEAL
        };
        let mut pipeline = Pipeline::new(config);
        assert_eq!(
            arrivals(&mut pipeline, 5, Duration::ZERO, &mut draw),
            [MS, 2 * MS]
        );
        assert_eq!(pipeline.counters().dropped_queue, 3);
        assert_eq!(pipeline.offer(MS, 1000, &mut draw), Fate::Once(3 * MS));
        assert_conserved(&pipeline);
    }

    #[test]
    fn a_packet_longer_than_the_queue_passes_when_the_link_is_idle() {
        let mut draw = SplitMix(1);
        let config = LinkConfig {
            rate_bits_per_s: mbit(8),
            queue_bytes: 100,
            ..LinkConfig::IDEAL
        };
        let mut pipeline = Pipeline::new(config);
        assert_eq!(pipeline.offer(MS, 1000, &mut draw), Fate::Once(2 * MS));
        assert_eq!(
            pipeline.offer(MS, 1000, &mut draw),
            Fate::Dropped(DropCause::Queue)
        );
        assert_eq!(pipeline.offer(2 * MS, 1000, &mut draw), Fate::Once(3 * MS));
    }

    #[test]
    fn a_new_rate_drains_the_old_backlog() {
        let mut draw = SplitMix(1);
        let mut pipeline = Pipeline::new(LinkConfig {
            rate_bits_per_s: mbit(8),
            ..LinkConfig::IDEAL
        });
        arrivals(&mut pipeline, 10, Duration::ZERO, &mut draw);
        pipeline.update(Duration::ZERO, |config| config.rate_bits_per_s = mbit(80));
        assert_eq!(pipeline.backlog_bytes(Duration::ZERO), 10_000);
        assert_eq!(pipeline.backlog_bytes(MS), 0);
        pipeline.update(MS, |config| config.rate_bits_per_s = None);
        assert_eq!(pipeline.backlog_bytes(Duration::ZERO), 0);
    }

    #[test]
    fn bernoulli_loss_stays_within_four_standard_deviations() {
        let mut draw = SplitMix(42);
        let loss = Loss::Bernoulli(Ratio::of(1, 20));
        let mut pipeline = Pipeline::new(LinkConfig {
            loss,
            ..LinkConfig::IDEAL
        });
        arrivals(&mut pipeline, 100_000, Duration::ZERO, &mut draw);
        // n p = 5000, sqrt(n p (1 - p)) = 69.
        let lost = pipeline.counters().dropped_loss;
        assert!((5000_u64).abs_diff(lost) < 4 * 69, "{lost} lost");
        assert_conserved(&pipeline);
    }

    #[test]
    fn gilbert_elliott_loss_comes_in_bursts_of_the_configured_mean() {
        let mut draw = SplitMix(43);
        let loss = Loss::GilbertElliott {
            good_to_bad: Ratio::of(1, 90),
            bad_to_good: Ratio::of(1, 10),
            loss_good: Ratio::NEVER,
            loss_bad: Ratio::ALWAYS,
        };
        let mut pipeline = Pipeline::new(LinkConfig {
            loss,
            ..LinkConfig::IDEAL
        });
        let (mut lost, mut bursts, mut was_lost) = (0_u32, 0_u32, false);
        for _ in 0..200_000 {
            let is_lost = matches!(pipeline.offer(MS, 100, &mut draw), Fate::Dropped(_));
            lost += u32::from(is_lost);
            bursts += u32::from(is_lost && !was_lost);
            was_lost = is_lost;
        }
        // Stationary loss is (1/90) / (1/90 + 1/10) = 10 %; a burst has 10 packets.
        assert!((18_000..22_000).contains(&lost), "{lost} lost");
        assert!(
            (9..=11).contains(&(lost / bursts)),
            "{lost} in {bursts} bursts"
        );
    }

    #[test]
    fn jitter_keeps_the_order_unless_reordering_is_allowed() {
        let mut draw = SplitMix(3);
        let jittery = LinkConfig {
            delay: 10 * MS,
            jitter: 5 * MS,
            ..LinkConfig::IDEAL
        };
        let kept = arrivals(&mut Pipeline::new(jittery), 1000, MS, &mut draw);
        assert!(kept.is_sorted());
        let free = LinkConfig {
            order: Order::Free,
            ..jittery
        };
        let freed = arrivals(&mut Pipeline::new(free), 1000, MS, &mut draw);
        assert!(!freed.is_sorted());
        for (i, at) in (0_u32..).zip(freed) {
            assert!((5 * MS..=15 * MS).contains(&(at - MS * i)), "{at:?}");
        }
    }

    #[test]
    fn jitter_larger_than_the_delay_never_delivers_into_the_past() {
        let mut draw = SplitMix(3);
        let config = LinkConfig {
            delay: MS,
            jitter: 5 * MS,
            order: Order::Free,
            ..LinkConfig::IDEAL
        };
        let mut pipeline = Pipeline::new(config);
        assert!((0..1000).all(|_| pipeline.offer(MS, 1, &mut draw).times().all(|at| at >= MS)));
    }

    #[test]
    fn duplication_delivers_two_copies_at_its_ratio() {
        let mut draw = SplitMix(5);
        let config = LinkConfig {
            duplicate: Ratio::of(1, 10),
            ..LinkConfig::IDEAL
        };
        let mut pipeline = Pipeline::new(config);
        let got = arrivals(&mut pipeline, 10_000, Duration::ZERO, &mut draw);
        let copies = got.len() - 10_000;
        assert!((880..1120).contains(&copies), "{copies} copies");
        assert_conserved(&pipeline);
    }

    #[test]
    fn a_black_hole_swallows_everything_until_it_is_switched_off() {
        let mut draw = SplitMix(5);
        let mut pipeline = Pipeline::new(LinkConfig {
            blackhole: true,
            ..LinkConfig::IDEAL
        });
        assert_eq!(
            pipeline.offer(MS, 1, &mut draw),
            Fate::Dropped(DropCause::Blackhole)
        );
        pipeline.update(MS, |config| config.blackhole = false);
        assert_eq!(pipeline.offer(MS, 1, &mut draw), Fate::Once(MS));
        assert_conserved(&pipeline);
    }

    #[test]
    fn only_packets_longer_than_the_mtu_vanish() {
        let mut draw = SplitMix(5);
        let mut pipeline = Pipeline::new(LinkConfig {
            mtu_bytes: Some(1400),
            ..LinkConfig::IDEAL
        });
        assert_eq!(pipeline.offer(MS, 1400, &mut draw), Fate::Once(MS));
        assert_eq!(
            pipeline.offer(MS, 1401, &mut draw),
            Fate::Dropped(DropCause::Mtu)
        );
        assert_conserved(&pipeline);
    }

    #[test]
    fn the_same_seed_gives_the_same_fates() {
        let config = LinkConfig {
            loss: Loss::Bernoulli(Ratio::of(1, 10)),
            delay: 10 * MS,
            jitter: 3 * MS,
            duplicate: Ratio::of(1, 50),
            ..LinkConfig::IDEAL
        };
        let run = |seed| arrivals(&mut Pipeline::new(config), 500, MS, &mut SplitMix(seed));
        assert_eq!(run(9), run(9));
        assert_ne!(run(9), run(10));
    }
}
