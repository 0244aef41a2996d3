//! One end of one connection: what is sent when, and what has arrived.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::{MSS, Output, RECEIVE_BUFFER, RTO_MAX, SEND_BUFFER, Segment};

/// Before a round trip was measured (RFC 6298 section 2.1).
const RTO_FIRST: Duration = Duration::from_secs(1);
/// Kernels go below the second of RFC 6298 section 2.4.
const RTO_MIN: Duration = Duration::from_millis(200);
/// RFC 6928.
const WINDOW_FIRST: u64 = 10 * MSS as u64;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// We sent a SYN.
    SynSent,
    /// We answered one.
    SynReceived,
    /// Data flows.
    Open,
    /// The other end has nothing more to say, and our user has not yet closed.
    Over,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) state: State,
    /// The user is gone: deliver what it wrote, tell nobody.
    pub(super) orphan: bool,
    // Sending: una <= nxt <= sent_max; `unacked` begins at `unacked_at`.
    pub(super) una: u64,
    pub(super) nxt: u64,
    pub(super) sent_max: u64,
    pub(super) unacked: BytesMut,
    pub(super) unacked_at: u64,
    pub(super) fin: bool,
    pub(super) was_full: bool,
    pub(super) peer_window: u64,
    pub(super) congestion_window: u64,
    pub(super) slow_start_until: u64,
    pub(super) duplicate_acks: u32,
    pub(super) recover_until: Option<u64>,
    // RFC 6298.
    pub(super) srtt: Option<Duration>,
    pub(super) rttvar: Duration,
    pub(super) rto: Duration,
    pub(super) timed: Option<(u64, Duration)>,
    pub(super) timer: Option<Duration>,
    pub(super) heard_at: Duration,
    // Receiving.
    pub(super) rcv_nxt: u64,
    pub(super) early: BTreeMap<u64, Bytes>,
    pub(super) fin_at: Option<u64>,
    pub(super) readable: VecDeque<Bytes>,
    pub(super) readable_len: usize,
}

impl Conn {
    pub(super) fn new(
        now: Duration,
        (local, remote): (SocketAddr, SocketAddr),
        state: State,
        first: u64,
        rcv_nxt: u64,
    ) -> Conn {
        Conn {
            local,
            remote,
            state,
            orphan: false,
            una: first,
            nxt: first,
            sent_max: first,
            unacked: BytesMut::new(),
            unacked_at: first + 1,
            fin: false,
            was_full: false,
            peer_window: 0,
            congestion_window: WINDOW_FIRST,
            slow_start_until: u64::MAX,
            duplicate_acks: 0,
            recover_until: None,
            srtt: None,
            rttvar: Duration::ZERO,
            rto: RTO_FIRST,
            timed: Some((first + 1, now)),
            timer: None,
            heard_at: now,
            rcv_nxt,
            early: BTreeMap::new(),
            fin_at: None,
            readable: VecDeque::new(),
            readable_len: 0,
        }
    }

    pub(super) const fn takes_bytes(&self) -> bool {
        matches!(self.state, State::Open | State::SynReceived) && !self.fin
    }

    pub(super) fn window(&self) -> u32 {
        RECEIVE_BUFFER.saturating_sub(self.readable_len) as u32
    }

    pub(super) fn arm(&mut self, now: Duration) {
        self.timer = Some(now + self.rto);
    }

    pub(super) fn emit(
        &self,
        seq: u64,
        is_syn: bool,
        is_reset: bool,
        data: Bytes,
        out: &mut VecDeque<Output>,
    ) {
        let segment = Segment {
            seq,
            ack: self.rcv_nxt,
            window: self.window(),
            is_syn,
            is_ack: self.state != State::SynSent,
            is_fin: false,
            is_reset,
            data,
        };
        self.push(segment, out);
    }

    pub(super) fn push(&self, segment: Segment, out: &mut VecDeque<Output>) {
        out.push_back(Output::Send {
            src: self.local,
            dst: self.remote,
            segment: Box::new(segment),
        });
    }

    pub(super) fn acknowledge(&self, out: &mut VecDeque<Output>) {
        self.emit(self.nxt, false, false, Bytes::new(), out);
    }

    // ---- sending ----

    /// Send everything that both windows allow.
    pub(super) fn transmit(&mut self, now: Duration, out: &mut VecDeque<Output>) {
        if self.state != State::Open {
            return;
        }
        let data_end = self.unacked_at + self.unacked.len() as u64;
        let window_end = self.una + self.congestion_window.min(self.peer_window);
        let idle = self.nxt == self.una;
        loop {
            let end = data_end.min(window_end).min(self.nxt + MSS as u64);
            let is_fin = self.fin && end == data_end && self.nxt <= data_end;
            if end <= self.nxt && !is_fin {
                break;
            }
            let range = (self.nxt - self.unacked_at) as usize
                ..(end.max(self.nxt) - self.unacked_at) as usize;
            let segment = Segment {
                seq: self.nxt,
                ack: self.rcv_nxt,
                window: self.window(),
                is_syn: false,
                is_ack: true,
                is_fin,
                is_reset: false,
                data: Bytes::copy_from_slice(&self.unacked[range]),
            };
            self.nxt += segment.len();
            // Karn's algorithm: only what was sent once tells a round trip.
            if self.timed.is_none() && self.nxt > self.sent_max {
                self.timed = Some((self.nxt, now));
            }
            self.sent_max = self.sent_max.max(self.nxt);
            self.push(segment, out);
        }
        let waits = self.nxt > self.una || data_end > self.nxt;
        if !waits {
            self.timer = None;
        } else if self.timer.is_none() {
            if idle {
                // Silence counts from when there was something to answer.
                self.heard_at = now;
            }
            self.arm(now);
        }
    }

    /// A byte into a closed window, so that its owner says when it has opened.
    pub(super) fn probe(&mut self, out: &mut VecDeque<Output>) {
        if let Some(byte) = self.unacked.first() {
            let byte = Bytes::copy_from_slice(&[*byte]);
            // Its owner may take it, and acknowledge it.
            self.sent_max = self.sent_max.max(self.unacked_at + 1);
            self.emit(self.unacked_at, false, false, byte, out);
        }
    }

    /// After a timeout everything is sent again, slowly (RFC 5681 section 3.1).
    pub(super) fn start_again(&mut self) {
        let flight = self.nxt - self.una;
        self.slow_start_until = (flight / 2).max(2 * MSS as u64);
        self.congestion_window = MSS as u64;
        self.nxt = self.una.max(self.unacked_at);
        self.recover_until = None;
        self.duplicate_acks = 0;
    }

    pub(super) fn handle_ack(
        &mut self,
        now: Duration,
        segment: &Segment,
        out: &mut VecDeque<Output>,
    ) {
        if segment.ack > self.sent_max || segment.ack < self.una {
            return;
        }
        let same_window = self.peer_window == u64::from(segment.window);
        self.peer_window = segment.window.into();
        if segment.ack > self.una {
            let acked = segment.ack - self.una;
            self.acknowledged(now, segment.ack);
            match self.recover_until {
                // A partial acknowledgement tells of the next hole (RFC 6582).
                Some(until) if segment.ack < until => self.resend_first(out),
                Some(_) => {
                    self.recover_until = None;
                    self.congestion_window = self.slow_start_until;
                }
                None => self.grow(acked),
            }
        } else if segment.len() == 0 && same_window && self.nxt > self.una {
            self.duplicate_acks += 1;
            if self.duplicate_acks == 3 && self.recover_until.is_none() {
                self.slow_start_until = ((self.nxt - self.una) / 2).max(2 * MSS as u64);
                self.congestion_window = self.slow_start_until;
                self.recover_until = Some(self.sent_max);
                self.resend_first(out);
            }
        }
    }

    pub(super) fn grow(&mut self, acked: u64) {
        let mss = MSS as u64;
        self.congestion_window += if self.congestion_window < self.slow_start_until {
            acked
        } else {
            (mss * mss / self.congestion_window).max(1)
        };
        self.congestion_window = self.congestion_window.min(SEND_BUFFER as u64);
    }

    pub(super) fn resend_first(&mut self, out: &mut VecDeque<Output>) {
        self.timed = None;
        let len = self.unacked.len().min(MSS);
        if len > 0 {
            let data = Bytes::copy_from_slice(&self.unacked[..len]);
            self.emit(self.unacked_at, false, false, data, out);
        }
    }

    pub(super) fn acknowledged(&mut self, now: Duration, ack: u64) {
        self.una = ack;
        self.nxt = self.nxt.max(ack);
        self.duplicate_acks = 0;
        let bytes = ack
            .saturating_sub(self.unacked_at)
            .min(self.unacked.len() as u64);
        self.unacked.advance(bytes as usize);
        self.unacked_at += bytes;
        if let Some((until, since)) = self.timed
            && ack >= until
        {
            self.timed = None;
            self.measured(now.saturating_sub(since));
        }
        // Something new arrived there, so the path works: no more backing off.
        self.rto = self.patience();
        self.timer = None;
        if self.nxt > self.una {
            self.arm(now);
        }
    }

    /// RFC 6298 section 2.
    pub(super) fn measured(&mut self, rtt: Duration) {
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.rttvar = rtt / 2;
            }
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
    }

    /// How long to wait for an answer before anything is sent again.
    pub(super) fn patience(&self) -> Duration {
        let rto = self.srtt.map(|srtt| srtt + self.rttvar * 4);
        rto.map_or(RTO_FIRST, |rto| rto.clamp(RTO_MIN, RTO_MAX))
    }

    // ---- receiving ----

    pub(super) fn receive(&mut self, segment: Segment) {
        let window_end = self.rcv_nxt + u64::from(self.window());
        let end = segment.seq + segment.data.len() as u64;
        if segment.is_fin {
            self.fin_at = Some(end);
        }
        let mut data = segment.data;
        let mut seq = segment.seq;
        if seq < self.rcv_nxt {
            let known = ((self.rcv_nxt - seq) as usize).min(data.len());
            data.advance(known);
            seq += known as u64;
        }
        if seq < window_end {
            data.truncate((window_end - seq) as usize);
            let longer = self
                .early
                .get(&seq)
                .is_none_or(|old| old.len() < data.len());
            if !data.is_empty() && longer {
                self.early.insert(seq, data);
            }
        }
        self.put_in_order();
    }

    pub(super) fn put_in_order(&mut self) {
        while let Some(entry) = self.early.first_entry()
            && *entry.key() <= self.rcv_nxt
        {
            let (seq, mut data) = entry.remove_entry();
            let known = ((self.rcv_nxt - seq) as usize).min(data.len());
            data.advance(known);
            if !data.is_empty() {
                self.rcv_nxt += data.len() as u64;
                self.readable_len += data.len();
                self.readable.push_back(data);
            }
        }
        if self.fin_at == Some(self.rcv_nxt) {
            self.rcv_nxt += 1;
        }
    }

    /// The other end's FIN is next to nothing: all was received.
    pub(super) fn is_at_end(&self) -> bool {
        self.fin_at.is_some_and(|at| self.rcv_nxt > at)
    }
}
