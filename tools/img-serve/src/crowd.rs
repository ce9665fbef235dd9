//! Who is connected: no more than the limit, and those who wait make room for those who ask.
//!
//! A connection is busy from a request's last header to the last byte of its
//! answer. When all places are taken, the one that has been idle longest is
//! closed. So somebody who opens connections and says nothing, or speaks slowly,
//! keeps nobody out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// All connections.
pub struct Crowd {
    limit: usize,
    guests: Mutex<HashMap<u64, Arc<Seat>>>,
}

/// A connection's place, until it is dropped.
pub struct Guest {
    crowd: Arc<Crowd>,
    id: u64,
    seat: Arc<Seat>,
}

struct Seat {
    busy: AtomicUsize,
    /// Since when it is busy, or idle.
    since: Mutex<Instant>,
    leave: Notify,
}

/// A request that is being answered.
pub struct Busy(Arc<Seat>);

impl Crowd {
    pub fn new(limit: usize) -> Arc<Crowd> {
        Arc::new(Crowd { limit, guests: Mutex::default() })
    }

    /// Takes a place. If there is none, the longest idle connection is asked to go; returns
    /// nothing if none is idle.
    pub fn enter(self: &Arc<Crowd>, id: u64) -> Option<Guest> {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if guests.len() >= self.limit {
            let idle = guests.iter().filter(|(_, seat)| seat.is_idle());
            let longest = idle.min_by_key(|(_, seat)| seat.since()).map(|(id, _)| *id)?;
            // Its place is free now, though it closes in a moment.
            if let Some(seat) = guests.remove(&longest) {
                seat.leave.notify_one();
            }
        }
        let seat = Arc::new(Seat {
            busy: AtomicUsize::new(0),
            since: Mutex::new(Instant::now()),
            leave: Notify::new(),
        });
        guests.insert(id, seat.clone());
        Some(Guest { crowd: self.clone(), id, seat })
    }
}

impl Guest {
    /// Marks the connection as busy.
    pub fn busy(&self) -> Busy {
        self.seat.busy.fetch_add(1, Ordering::AcqRel);
        Busy(self.seat.clone())
    }

    /// Returns whether no request is being answered.
    pub fn is_idle(&self) -> bool {
        self.seat.is_idle()
    }

    /// Waits until this connection should make room for another one.
    pub async fn asked_to_leave(&self) {
        self.seat.leave.notified().await;
    }
}

impl Seat {
    fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Acquire) == 0
    }

    fn since(&self) -> Instant {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.crowd.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_longest_makes_room() {
        let crowd = Crowd::new(2);
        let first = crowd.enter(1).unwrap();
        let second = crowd.enter(2).unwrap();
        let talk = first.busy();
        let third = crowd.enter(3).unwrap();
        assert!(!crowd.guests.lock().unwrap().contains_key(&2), "the first is busy");
        let others = (third.busy(), first.busy());
        assert!(crowd.enter(4).is_none(), "all are busy");
        drop(talk);
        assert!(crowd.enter(4).is_none(), "the first still is");
        drop(others);
        assert!(crowd.enter(4).is_some());
        drop((second, third, first));
        assert!(crowd.guests.lock().unwrap().is_empty());
    }
}
