//! A bounded rate: tokens come back with time, an event takes one.

/// How many events a second, and how many at once after a pause.
#[derive(Clone, Copy)]
pub struct Rate {
    pub per_second: f64,
    pub burst: f64,
}

/// The tokens left at a moment.
#[derive(Clone, Copy)]
pub struct TokenBucket {
    tokens: f64,
    at_ms: f64,
}

impl TokenBucket {
    /// Full.
    pub fn new(rate: Rate, now_ms: f64) -> TokenBucket {
        TokenBucket { tokens: rate.burst, at_ms: now_ms }
    }

    /// Takes a token; false when there is none.
    pub fn take(&mut self, rate: Rate, now_ms: f64) -> bool {
        self.tokens = (self.tokens + (now_ms - self.at_ms) * rate.per_second / 1000.0).min(rate.burst);
        self.at_ms = now_ms;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}
