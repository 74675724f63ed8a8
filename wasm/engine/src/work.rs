//! Works through one burst; stops when the outputs are full and goes on with the next `drain`.

use crate::counters::Counter;
use crate::device::{Device, Kind};
use crate::endpoint::Endpoint;
use crate::memory::MARGIN;
use std::collections::VecDeque;

/// One unit of work adds at most a cookie or handshake answer and one more datagram.
const UNIT_RUNS: usize = 2;

/// What is left to do.
pub struct Work {
    input: Option<Input>,
    flushes: VecDeque<u32>,
    /// Next peer whose timers run.
    tick_at: usize,
}

/// A burst the host read, and how far it is done.
#[derive(Clone, Copy)]
pub struct Input {
    source: Source,
    slot: usize,
    count: usize,
    /// Bytes of the slot that are done.
    at: usize,
}

/// Where a burst came from.
#[derive(Clone, Copy)]
pub enum Source {
    Network,
    Device,
}

impl Work {
    /// Nothing to do.
    pub fn new() -> Work {
        Work { input: None, flushes: VecDeque::new(), tick_at: usize::MAX }
    }

    /// Remembers that a peer's staged packets can go.
    pub fn flush(&mut self, at: u32) {
        if !self.flushes.contains(&at) {
            self.flushes.push_back(at);
        }
    }
}

impl Device {
    /// Takes over a burst the host read.
    pub fn accept(&mut self, source: Source, count: usize) {
        if self.work.input.is_some() {
            self.counters.add(Counter::NotDrained);
        }
        let capacity = match source {
            Source::Network => self.received.descriptors.capacity,
            Source::Device => self.device_reads.map_or(0, |ring| ring.descriptors.capacity),
        };
        self.work.input = Some(Input { source, slot: 0, count: count.min(capacity), at: 0 });
    }

    /// All peers' timers shall run.
    pub fn start_tick(&mut self) {
        self.work.tick_at = 0;
    }

    /// Room for one more unit of any kind.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.sends.has_room(MARGIN, UNIT_RUNS) && self.merge.has_room() && (self.locals.has_room() || self.kind != Kind::Hub)
    }

    /// Runs until nothing is left or the outputs are full; true when something is left.
    pub fn run(&mut self) -> bool {
        let done = self.run_input() && self.run_flushes() && self.run_tick() && self.run_stack();
        self.merge.finish();
        !done
    }

    fn run_input(&mut self) -> bool {
        let Some(mut input) = self.work.input.take() else { return true };
        while input.slot < input.count {
            let done = match input.source {
                Source::Network => self.network_slot(&mut input),
                Source::Device => self.device_slot(input.slot),
            };
            if !done {
                self.work.input = Some(input);
                return false;
            }
            input.slot += 1;
            input.at = 0;
        }
        true
    }

    /// All datagrams of one receive; false when the outputs are full first.
    fn network_slot(&mut self, input: &mut Input) -> bool {
        let (descriptor, data) = self.received.slot(input.slot);
        let Some(source) = Endpoint::of(&descriptor) else {
            self.counters.add(Counter::Malformed);
            return true;
        };
        let stride = if descriptor.segment == 0 { data.len() } else { descriptor.segment as usize };
        while input.at < data.len() {
            if !self.has_room() {
                return false;
            }
            let end = data.len().min(input.at + stride);
            self.datagram(&data[input.at..end], &source);
            input.at = end;
        }
        true
    }

    fn run_flushes(&mut self) -> bool {
        while let Some(&at) = self.work.flushes.front() {
            if !self.flush(at) {
                return false;
            }
            self.work.flushes.pop_front();
        }
        true
    }

    fn run_tick(&mut self) -> bool {
        while self.work.tick_at < self.peers.len() {
            if !self.has_room() {
                return false;
            }
            self.tick_peer(self.work.tick_at as u32);
            self.work.tick_at += 1;
        }
        true
    }
}
