//! Arithmetic of the ring: position p lies in slot p mod capacity (docs/bundle.md).

/// Positions of a sequence, and the slots that hold them. `written`: one past the highest
/// position that was ever written.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    pub window: usize,
    pub capacity: usize,
    pub length: usize,
    pub written: usize,
}

impl Ring {
    pub fn new(window: usize, capacity: usize) -> Ring {
        Ring {
            window,
            capacity,
            length: 0,
            written: 0,
        }
    }

    /// Whether a step of so many tokens after `length` shows every one of them exactly its window.
    pub fn exact(&self, length: usize, step: usize) -> bool {
        (length + 1).saturating_sub(self.window) + self.capacity >= self.written.max(length + step)
    }

    /// The longest exact step of at most so many tokens.
    pub fn step(&self, most: usize) -> usize {
        (1..=most)
            .rev()
            .find(|&step| self.exact(self.length, step))
            .unwrap_or(1)
    }

    pub fn advance(&mut self, step: usize) {
        self.length += step;
        self.written = self.written.max(self.length);
    }

    /// Drops the latest tokens; false, and nothing happens, where their
    /// predecessors were written over.
    #[allow(dead_code)] // an editor calls it when a text changes; this program only appends
    pub fn rewind(&mut self, count: usize) -> bool {
        let possible = count <= self.length && self.exact(self.length - count, 1);
        if possible {
            self.length -= count;
        }
        possible
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the slots hold after a step, and whether each query sees exactly its window in
    /// them, as the graph decides it.
    fn sees_its_window(slots: &[Option<usize>], ring: &Ring, length: usize, step: usize) -> bool {
        let mut slots = slots.to_vec();
        (length..length + step)
            .for_each(|position| slots[position % ring.capacity] = Some(position));
        let last = length + step - 1;
        (length..=last).all(|query| {
            let visible = |slot: usize| {
                let held =
                    last as i64 - (last as i64 - slot as i64).rem_euclid(ring.capacity as i64);
                held >= 0 && held <= query as i64 && query as i64 - held < ring.window as i64
            };
            let seen: Vec<usize> = (0..ring.capacity)
                .filter(|&slot| visible(slot))
                .filter_map(|slot| slots[slot])
                .collect();
            let wanted: Vec<usize> = ((query + 1).saturating_sub(ring.window)..=query).collect();
            let mut sorted = seen.clone();
            sorted.sort();
            sorted == wanted
        })
    }

    #[test]
    fn a_step_that_is_allowed_shows_each_token_its_window() {
        for (window, capacity) in [(1, 1), (3, 4), (4, 9), (7, 8)] {
            let (mut ring, mut slots) = (Ring::new(window, capacity), vec![None; capacity]);
            for turn in 0..200usize {
                if turn % 7 == 3 {
                    let _ = ring.rewind(1 + turn % 3);
                }
                let step = ring.step(1 + turn % (capacity + 1));
                assert!(
                    sees_its_window(&slots, &ring, ring.length, step),
                    "{ring:?} {step}"
                );
                (ring.length..ring.length + step)
                    .for_each(|position| slots[position % capacity] = Some(position));
                ring.advance(step);
            }
        }
    }

    #[test]
    fn what_was_written_over_cannot_come_back() {
        let mut ring = Ring::new(4, 6);
        (0..20).for_each(|_| ring.advance(1));
        assert!(ring.rewind(2) && !ring.rewind(3) && !ring.rewind(99));
        assert_eq!((ring.length, ring.written), (18, 20));
    }
}
