//! The host's monotonic milliseconds drive boringtun's mock clock.

use mock_instant::MockClock;
use std::time::Duration;

/// boringtun subtracts times from the engine's start, so that must not be 0.
const START: Duration = Duration::from_secs(1);
/// Two handshakes in one host tick need increasing TAI64N stamps [WG 5.1], or the peer takes the second for a replay.
const STAMP_STEP: Duration = Duration::from_micros(1);

/// Monotonic time of the current call; the first call is the origin.
pub struct Clock {
    first_ms: Option<f64>,
    /// Milliseconds since the first call.
    pub now_ms: f64,
}

impl Clock {
    pub fn new() -> Clock {
        set(START);
        Clock { first_ms: None, now_ms: 0.0 }
    }

    /// Times that are no number or go back are ignored: boringtun would panic on a negative difference.
    pub fn set(&mut self, host_ms: f64) {
        if !host_ms.is_finite() {
            return;
        }
        let since = host_ms - *self.first_ms.get_or_insert(host_ms);
        if since > self.now_ms {
            self.now_ms = since;
            set(START + Duration::from_nanos((since * 1e6) as u64));
        }
    }

    /// A later stamp within one host tick.
    pub fn step(&self) {
        set(MockClock::time() + STAMP_STEP);
    }
}

fn set(time: Duration) {
    if time > MockClock::time() {
        MockClock::set_time(time);
    }
}
